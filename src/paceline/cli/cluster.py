"""The directory of a local cluster: ``cluster.json`` and one directory per node.

    DIR/cluster.json        the nodes that should run, and where FILE.db came from
    DIR/supervisor.lock     held by the `up` that runs the cluster; has its process id
    DIR/incomplete          only while the directory is being made
    DIR/n1/paceline.toml    configuration of one node; its data directory is DIR/n1
    DIR/n1/node.log         what the node printed
    DIR/n1/db/main.db       its database

``cluster.json`` is the wish, the supervisor makes it true: ``node add`` and
``node remove`` edit the file and the supervisor starts and stops processes.
The file is replaced as a whole, under ``DIR/cluster.lock``; it is written last
when a directory is made, so a directory with ``cluster.json`` is complete.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from paceline.config.load import load
from paceline.config.shape import NodeConfig
from paceline.errors import UsageError
from paceline.files import RealFiles, write_atomic

__all__ = ["PORT_STEP", "Cluster", "LocalNode", "Source", "node_addresses", "supervisor_lock"]

_VERSION: Final = 1
PORT_STEP: Final = 10
"""Ports of one node are P, P+1, P+2 (clients, HTTP, peers); the next node starts at P+10."""


class LocalNode(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    listen: str
    http: str
    peer: str


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """The file that the cluster was made from, as it was then."""

    path: str
    bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> Source:
        stat = path.stat()
        return cls(path=str(path.resolve()), bytes=stat.st_size, mtime_ns=stat.st_mtime_ns)


class _File(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    name: str
    nodes: list[LocalNode]
    source: Source | None = None


def node_addresses(host: str, port: int) -> dict[str, str]:
    """The three addresses of a node whose first port is ``port``."""
    return {"listen": f"{host}:{port}", "http": f"{host}:{port + 1}", "peer": f"{host}:{port + 2}"}


class Cluster:
    """What ``cluster.json`` says.  ``path`` is DIR."""

    def __init__(self, path: Path, name: str, nodes: list[LocalNode], source: Source | None) -> None:
        self.path = path
        self.name = name
        self.nodes = nodes
        self.source = source

    @staticmethod
    def exists(path: Path) -> bool:
        return (path / "cluster.json").exists()

    @classmethod
    def load(cls, path: Path) -> Cluster:
        file = path / "cluster.json"
        try:
            found = msgspec.json.decode(file.read_bytes(), type=_File)
        except FileNotFoundError:
            raise UsageError(
                f"{path} is not a Paceline cluster: it has no cluster.json",
                hint=f"make one with: paceline up --dir {path}",
            ) from None
        except msgspec.DecodeError as error:
            raise UsageError(f"{file}: {error}", hint="restore the file, or remove the directory") from None
        if found.version != _VERSION:
            raise UsageError(
                f"{file}: version {found.version} is not known here", hint="upgrade this program"
            )
        return cls(path, found.name, found.nodes, found.source)

    def save(self) -> None:
        file = _File(version=_VERSION, name=self.name, nodes=self.nodes, source=self.source)
        data = msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n"
        write_atomic(RealFiles(), str(self.path / "cluster.json"), data)

    def node(self, name: str) -> LocalNode:
        for node in self.nodes:
            if node.name == name:
                return node
        names = ", ".join(node.name for node in self.nodes)
        raise UsageError(f"no node {name!r} in {self.path}", hint=f"nodes: {names}")

    def node_dir(self, name: str) -> Path:
        return self.path / name

    def config_path(self, name: str) -> Path:
        return self.path / name / "paceline.toml"

    @property
    def present(self) -> list[LocalNode]:
        """Nodes whose directory is there; one that was wiped comes back with ``node add``."""
        return [node for node in self.nodes if self.config_path(node.name).exists()]

    def log_path(self, name: str) -> Path:
        return self.path / name / "node.log"

    def database_path(self, name: str) -> Path:
        return self.path / name / "db" / "main.db"

    def config(self, name: str) -> NodeConfig:
        return load(str(self.config_path(name)), env={})

    def next_port(self) -> int:
        """First port of the block for one more node."""
        return max(int(node.listen.rpartition(":")[2]) for node in self.nodes) + PORT_STEP

    @contextmanager
    def changing(self) -> Iterator[Cluster]:
        """The newest state, exclusively; saved at the end of the block."""
        with open(self.path / "cluster.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            fresh = Cluster.load(self.path)
            yield fresh
            fresh.save()
            self.nodes = fresh.nodes

    def supervisor(self) -> int | None:
        """Process id of the running ``up``, None when there is none."""
        try:
            with open(self.path / "supervisor.lock") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    text = lock.read().strip()
                    return int(text) if text else None
        except FileNotFoundError:
            pass
        return None


@contextmanager
def supervisor_lock(path: Path) -> Iterator[None]:
    """Be the one ``up`` of a directory; raises :class:`UsageError` when another is."""
    fd = os.open(path / "supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(fd, 20, 0).decode().strip()
            raise UsageError(
                f"another paceline up (process {pid}) runs {path}",
                hint=f"paceline status --dir {path} shows it, paceline down --dir {path} stops it",
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(fd)
