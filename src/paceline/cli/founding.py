"""Make the directory of a local cluster, or leave nothing behind.

The order is: an ``incomplete`` mark, the database of the first node, the
configurations, ``cluster.json``, and away with the mark.  A directory that
still has the mark was never a cluster; it is made again from the start.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import quote

from paceline.cli.cluster import PORT_STEP, Cluster, LocalNode, Source, node_addresses
from paceline.config.keys import split_address
from paceline.config.shape import Member, NodeConfig, Settings, to_toml
from paceline.errors import PacelineError, UsageError
from paceline.ids import NodeId

__all__ = ["check_file", "check_ports", "found", "import_file", "joining_config", "seed_file", "write_node"]

_COPY_BYTES: Final = 1 << 20

Progress = Callable[[int, int], None]
"""Called with (done, total) of one unit; the importer chooses the unit."""


def check_ports(nodes: list[LocalNode], hint: str) -> None:
    """Raise when one of the addresses cannot be listened on; nothing has been started yet."""
    for node in nodes:
        for address in (node.listen, node.http, node.peer):
            host, port = split_address(address)
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host, port))
                except OSError as error:
                    reason = (
                        "is in use"
                        if error.errno == errno.EADDRINUSE
                        else f"cannot be used: {error.strerror}"
                    )
                    raise PacelineError(
                        f"port {port} on {host} (node {node.name}) {reason}", hint=hint
                    ) from None


def check_file(file: Path) -> None:
    """The cheap half of looking at FILE.db; the importer does the rest."""
    if file.is_dir():
        raise UsageError(f"{file} is a directory, not a database file")
    if not file.exists():
        raise UsageError(f"{file}: no such file", hint="leave it out to start with an empty database")


def import_file(source: Path, target: Path, progress: Progress) -> None:
    """Copy a database file to where a node looks for it; raises what the importer says against it."""
    from paceline.engines.sqlite.imports import import_database

    target.parent.mkdir(parents=True, exist_ok=True)
    import_database(str(source), str(target), progress)


def seed_file(backup: Path, target: Path, progress: Progress) -> None:
    """Give a joining node a database to start from.

    A backup of a cluster is copied as it is: it remembers its position, and the node goes on from there.
    Any other SQLite file is imported; then only the pages that it shares with the cluster's save something.
    """
    if not _has_position(backup):
        import_file(backup, target, progress)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    total, done = max(1, backup.stat().st_size // _COPY_BYTES), 0
    with open(backup, "rb") as source, open(target, "xb") as copy:
        while data := source.read(_COPY_BYTES):
            copy.write(data)
            done += 1
            progress(min(done, total), total)
        copy.flush()
        os.fsync(copy.fileno())


def _has_position(backup: Path) -> bool:
    """Whether ``backup`` is a whole database that a cluster wrote (a ``-wal`` beside it may hold more)."""
    from paceline.engines.sqlite.position import POSITION_TABLE

    wal = backup.with_name(backup.name + "-wal")
    if wal.exists() and wal.stat().st_size:
        return False
    uri = f"file:{quote(str(backup))}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            query = "SELECT count(*) FROM sqlite_schema WHERE name = ?"
            return bool(connection.execute(query, (POSITION_TABLE,)).fetchone()[0])
    except sqlite3.Error:
        return False


def write_node(cluster: Cluster, config: NodeConfig) -> None:
    directory = cluster.node_dir(config.name)
    directory.mkdir(exist_ok=True)
    cluster.config_path(config.name).write_text(to_toml(config, base=str(directory)), encoding="utf-8")


def _config(cluster: Cluster, node: LocalNode, settings: Settings) -> NodeConfig:
    return NodeConfig(
        name=NodeId(node.name),
        data=str(cluster.node_dir(node.name)),
        listen=node.listen,
        http=node.http,
        peer=node.peer,
        advertise=node.listen,
        advertise_http=node.http,
        advertise_peer=node.peer,
        cluster=cluster.name,
        leader=None,
        settings=settings,
    )


def _founding_configs(cluster: Cluster, settings: Settings) -> list[NodeConfig]:
    from msgspec.structs import replace

    members = tuple(
        Member(name=NodeId(node.name), listen=node.listen, http=node.http, peer=node.peer)
        for node in cluster.nodes
    )
    leader = members[0].name
    return [
        replace(_config(cluster, node, settings), leader=leader, members=members) for node in cluster.nodes
    ]


def joining_config(cluster: Cluster, node: LocalNode) -> NodeConfig:
    """A node that joins the others of ``cluster``; it takes over the settings of the first of them."""
    from msgspec.structs import replace

    others = [other for other in cluster.present if other.name != node.name]
    if not others:
        raise UsageError(
            f"no other node of {cluster.path} has its directory", hint="there is nobody whom it could join"
        )
    settings = cluster.config(others[0].name).settings
    return replace(_config(cluster, node, settings), join=tuple(other.peer for other in others))


def _prepare(path: Path) -> None:
    """An empty directory to work in; refuse one that holds somebody's files."""
    ours = {"supervisor.lock", "incomplete"}
    found = {entry.name for entry in path.iterdir()}
    if (path / "incomplete").exists():
        for name in found - ours:
            shutil.rmtree(path / name) if (path / name).is_dir() else (path / name).unlink()
    elif found - ours:
        raise UsageError(
            f"{path} is not empty and not a Paceline cluster (it has {sorted(found - ours)[0]!r})",
            hint="choose another --dir",
        )
    (path / "incomplete").write_text("paceline up was interrupted here; the next one starts anew\n")


def _discard(path: Path) -> None:
    for entry in path.iterdir():
        if entry.name != "supervisor.lock":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def found(
    path: Path, *, file: Path | None, count: int, port: int, settings: Settings, progress: Progress
) -> Cluster:
    """Make the cluster in the directory ``path``, which exists and is locked by the caller."""
    if file:
        check_file(file)
    last = port + (count - 1) * PORT_STEP + 2
    if port < 1 or last > 65_535:
        raise UsageError(
            f"{count} nodes from port {port} need ports up to {last}", hint="choose a lower --port"
        )
    nodes = [
        LocalNode(name=f"n{number + 1}", **node_addresses("127.0.0.1", port + number * PORT_STEP))
        for number in range(count)
    ]
    check_ports(nodes, hint=f"choose another first port: paceline up --port {port + 1000}")
    _prepare(path)
    cluster = Cluster(path, "main", nodes, Source.of(file) if file else None)
    try:
        if file:
            import_file(file, cluster.database_path("n1"), progress)
        for config in _founding_configs(cluster, settings):
            write_node(cluster, config)
        cluster.save()
    except BaseException:
        _discard(path)
        raise
    (path / "incomplete").unlink()
    return cluster
