"""A node's data directory: locked by one process, owned by one identity.

node.json  identity          vote    term and vote       log/      segments
anchor     facts of the base  db/     the database        custody/  entries that were taken back
snapshot/  transfers          lock    held while running
"""

from __future__ import annotations

import fcntl
import os
import secrets

import msgspec

from paceline.errors import UsageError
from paceline.files import RealFiles
from paceline.node.identity import Identity, load_identity, save_identity
from paceline.node.start import Paths

__all__ = ["DataDirectory"]


class DataDirectory:
    """Open (and make) the directory; raises ``UsageError`` when it is another's."""

    def __init__(self, root: str, name: str, cluster_name: str) -> None:
        self.files = RealFiles()
        self.paths = Paths(root)
        try:
            os.makedirs(root, exist_ok=True)
            self._lock = os.open(self.paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise UsageError(
                f"cannot use the data directory {root}: {error.strerror}",
                hint="choose a directory that this user may write",
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                f"{root} is in use by another process", hint="each node needs a data directory of its own"
            ) from None
        self.identity = self._identify(name, cluster_name)

    def _identify(self, name: str, cluster_name: str) -> Identity:
        inode = os.fstat(self._lock).st_ino
        identity = load_identity(self.files, self.paths.identity)
        if identity is None:
            identity = Identity(
                format=1,
                name=name,
                incarnation=secrets.token_hex(8),
                cluster=None,
                cluster_name=cluster_name,
                inode=inode,
            )
            save_identity(self.files, self.paths.identity, identity)
        if identity.name != name:
            raise UsageError(
                f"{self.paths.root} belongs to node {identity.name}, not {name}",
                hint="start it under its own name, or choose an empty directory",
            )
        if identity.inode != inode:
            if os.environ.get("PACELINE_MOVED") != "1":
                raise UsageError(
                    f"{self.paths.root} is a copy of another node's data directory",
                    hint="two nodes must not share an identity: let a new node join from an empty directory; "
                    "if the directory was moved and the old one is gone, start once with PACELINE_MOVED=1",
                )
            identity = msgspec.structs.replace(identity, inode=inode)
            save_identity(self.files, self.paths.identity, identity)
        if identity.cluster is not None and identity.cluster_name != cluster_name:
            raise UsageError(
                f"{self.paths.root} belongs to cluster {identity.cluster_name!r}, not {cluster_name!r}",
                hint="correct the cluster's name in the configuration, or choose another directory",
            )
        return identity

    def joined(self, cluster: str) -> None:
        """Remember the cluster; from now on the directory can belong to no other."""
        self.identity = msgspec.structs.replace(self.identity, cluster=cluster)
        save_identity(self.files, self.paths.identity, self.identity)

    @property
    def has_database(self) -> bool:
        path = self.paths.database
        return os.path.exists(path) and os.path.getsize(path) > 0

    def close(self) -> None:
        os.close(self._lock)
