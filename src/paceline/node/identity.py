"""Who a node is: the file ``node.json`` of its data directory.

The incarnation is drawn when the directory is made, and never again.  The file
also notes the inode of the directory's lock file: a *copied* directory has
another one, and two nodes of one identity must never run.
"""

from __future__ import annotations

import msgspec

from paceline.errors import Corruption, UsageError
from paceline.files import Files, write_atomic

__all__ = ["Identity", "load_identity", "save_identity"]


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """``cluster`` (32 hex digits) is None until the node has founded or joined one."""

    format: int
    name: str
    incarnation: str
    cluster: str | None
    cluster_name: str
    inode: int


def load_identity(files: Files, path: str) -> Identity | None:
    if not files.exists(path):
        return None
    file = files.open(path)
    try:
        data = file.pread(file.size(), 0)
    finally:
        file.close()
    try:
        identity = msgspec.json.decode(data, type=Identity)
    except msgspec.MsgspecError as error:
        raise Corruption(
            f"{path} cannot be read: {error}",
            hint="move the data directory away and let the node join again from an empty one",
        ) from None
    if identity.format != 1:
        raise UsageError(
            f"{path} has format {identity.format}", hint="a newer Paceline wrote it; upgrade this node"
        )
    return identity


def save_identity(files: Files, path: str, identity: Identity) -> None:
    write_atomic(files, path, msgspec.json.encode(identity) + b"\n")
