"""Run a local cluster in the foreground or detached: what `up` and `restore` share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from paceline.cli.cluster import Cluster, supervisor_lock
from paceline.cli.founding import check_ports, found
from paceline.cli.members import Overview, gather
from paceline.cli.progressbar import progress_bar
from paceline.cli.supervisor import STEP_SECONDS, Supervisor, has_error, last_refusal, last_words
from paceline.cli.tables import console, plain_table
from paceline.config.shape import Settings
from paceline.errors import PacelineError, TimedOut

__all__ = ["attach", "detach", "make"]

READY_SECONDS: Final = 60.0


_WITHOUT_SECONDS: Final = 10.0
"""So long the others may take to elect a leader without a node that does not start."""


def make(path: Path, *, file: Path | None, count: int, port: int, settings: Settings) -> Cluster:
    """Found a cluster in ``path`` (made when missing, removed again when founding fails)."""
    fresh = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    try:
        title = f"copying {file.name}" if file else "preparing"
        with supervisor_lock(path), progress_bar(title, "pages") as advance:
            return found(path, file=file, count=count, port=port, settings=settings, progress=advance)
    except BaseException:
        if fresh:
            (path / "supervisor.lock").unlink(missing_ok=True)
            path.rmdir()
        raise


def _say(line: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')} {line}")


def _ready(overview: Overview, cluster: Cluster, without: Collection[str] = ()) -> bool:
    """Whether there is a leader and every node is well, except those that do not start."""
    names = {row["name"] for row in overview.rows if row["up"] and row["health"] == "ok"}
    view = overview.view
    leads = view is not None and view.get("role") == "leader" and not view.get("forming")
    return leads and {node.name for node in cluster.present} - set(without) <= names


def _look(cluster: Cluster) -> Overview:
    return gather([node.listen for node in cluster.nodes], cluster)


def _say_missing(cluster: Cluster) -> None:
    """Nodes whose directory was wiped do not start."""
    for node in cluster.nodes:
        if node not in cluster.present:
            click.echo(
                f"note: {cluster.node_dir(node.name)} is gone; bring {node.name} back as a new node: "
                f"paceline node add {node.name}",
                err=True,
            )


def _slow(overview: Overview, cluster: Cluster) -> TimedOut:
    waiting = [f"{row['name']} is {row['health']}" for row in overview.rows if row["health"] != "ok"]
    refused = [why for node in cluster.present if (why := last_refusal(cluster.log_path(node.name)))]
    return TimedOut(
        f"not ready after {READY_SECONDS:.0f} s: {', '.join(waiting) or 'no leader'}"
        + "".join(f"; {why}" for why in dict.fromkeys(refused)),
        hint=f"see {cluster.path}/n*/node.log",
    )


def _say_failed(cluster: Cluster, failed: Mapping[str, str]) -> None:
    """Nodes that do not start: the others run, and go on without them."""
    for name, words in failed.items():
        click.echo(
            f"warning: {name} did not start: {words or 'it ended without a word'}\n"
            f"  the others run without it; its output is in {cluster.log_path(name)}",
            err=True,
        )


def _wait_supervised(supervisor: Supervisor) -> Overview | None:
    """Run until every node is well; None when interrupted.

    Nodes that do not start are done without when the others have a leader soon, else they fail the whole.
    """
    deadline = time.monotonic() + READY_SECONDS
    seen: list[Overview] = []
    since: list[float] = []

    def ready() -> bool:
        dead = supervisor.dead()
        seen[:] = [_look(supervisor.cluster)]
        if dead and not since:
            since.append(time.monotonic())
        if dead and _ready(seen[0], supervisor.cluster, dead):
            _say_failed(supervisor.cluster, dead)
            return True
        if dead and time.monotonic() - since[0] > _WITHOUT_SECONDS:
            name, words = next(iter(dead.items()))
            raise PacelineError(
                f"{name} did not start: {words or 'it ended without a word'}",
                hint=f"its output is in {supervisor.cluster.log_path(name)}",
            )
        if time.monotonic() > deadline:
            raise _slow(seen[0], supervisor.cluster)
        return _ready(seen[0], supervisor.cluster)

    supervisor.run(until=ready)
    return None if supervisor.interrupted or not seen else seen[0]


def _first_table(cluster: Cluster) -> str | None:
    """A table to show in the examples: the first one of the leader's database."""
    import sqlite3

    path = cluster.database_path(cluster.nodes[0].name)
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
            query = (
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB '[A-Za-z]*' ORDER BY rowid"
            )
            for (name,) in connection.execute(query):
                if not name.startswith(("sqlite_", "paceline")) and name.isidentifier():
                    return str(name)
    except sqlite3.Error:
        pass
    return None


def _try_next(cluster: Cluster, *, detached: bool) -> list[tuple[str, str]]:
    where = "" if cluster.path.resolve() == Path("paceline-data").resolve() else f" --dir {cluster.path}"
    table = _first_table(cluster)
    query = f"SELECT count(*) FROM {table}" if table else "CREATE TABLE t(id INTEGER PRIMARY KEY, x)"
    follower = cluster.nodes[-1]
    direct = f'sqlite3 -readonly {cluster.database_path(follower.name)} ".tables"'
    return [
        (f'paceline sql{where} "{query}"', ""),
        (f"paceline shell{where}", "type SQL"),
        (f"paceline status{where} --watch", "roles, positions, lag"),
        (direct, ""),
        (f"paceline down{where}" if detached else "Ctrl-C", "stops all; `paceline up` resumes"),
    ]


def _announce(cluster: Cluster, overview: Overview, *, detached: bool) -> None:
    screen = console()
    table = plain_table("node", "role", "clients", "HTTP", "database file")
    for node in cluster.nodes:
        row = overview.row(node.name)
        role = row["role"] if row else "-"
        shown = "[bold green]leader[/]" if role == "leader" else role
        database = os.path.relpath(cluster.database_path(node.name))
        table.add_row(f"[bold]{node.name}[/]", shown, node.listen, node.http, database)
    table.columns[-1].overflow = "fold"
    table.columns[-1].no_wrap = False
    screen.print()
    screen.print(table)
    screen.print("\n[bold]Try[/] (in another terminal):" if not detached else "\n[bold]Try[/]:")
    tips = _try_next(cluster, detached=detached)
    width = max((len(command) for command, note in tips if note), default=0)
    for command, note in tips:
        screen.print(f"  {command.ljust(width)}   [dim]{note}[/]" if note else f"  {command}", soft_wrap=True)
    screen.print()


@contextmanager
def _signals(supervisor: Supervisor) -> Iterator[None]:
    previous = {
        s: signal.signal(s, supervisor.interrupt) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def attach(cluster: Cluster) -> None:
    """Run the cluster until Ctrl-C or `paceline down`."""
    with supervisor_lock(cluster.path):
        check_ports(
            cluster.nodes, hint="stop what listens there; the ports of a cluster stay as they were made"
        )
        supervisor = Supervisor(cluster, _say)
        with _signals(supervisor):
            try:
                click.echo(f"starting {', '.join(node.name for node in cluster.present)} ...")
                overview = _wait_supervised(supervisor)
                if overview is not None:
                    _announce(supervisor.cluster, overview, detached=False)
                    supervisor.run()
            finally:
                click.echo(f"\rstopping{f' ({supervisor.reason})' if supervisor.reason else ''} ...")
                supervisor.stop()
                click.echo("stopped; the data stays in " + str(cluster.path))


def detach(cluster: Cluster) -> None:
    """Run the cluster in the background; return when it is ready."""
    if (pid := cluster.supervisor()) is not None:
        raise PacelineError(f"process {pid} runs {cluster.path} already", hint="paceline status shows it")
    check_ports(cluster.nodes, hint="stop what listens there; the ports of a cluster stay as they were made")
    log = cluster.path / "up.log"
    offset = _size(log)
    offsets = {node.name: _size(cluster.log_path(node.name)) for node in cluster.present}
    with open(log, "ab") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "paceline", "up", "--dir", str(cluster.path)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    click.echo(f"starting {', '.join(node.name for node in cluster.present)} ...")
    deadline = time.monotonic() + READY_SECONDS + 5
    while not _ready(overview := _look(cluster), cluster, failed := _failed(cluster, offsets)):
        if child.poll() is not None:
            raise PacelineError(last_words(log, offset) or "the supervisor ended", hint=f"see {log}")
        if time.monotonic() > deadline:
            raise _slow(overview, cluster)
        time.sleep(STEP_SECONDS)
    _announce(cluster, overview, detached=True)
    _say_missing(cluster)
    _say_failed(cluster, {name: why for name, why in failed.items() if not _is_up(overview, name)})


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _failed(cluster: Cluster, offsets: Mapping[str, int]) -> dict[str, str]:
    """Nodes that have ended with an error since then, and what it was."""
    said = {name: last_words(cluster.log_path(name), offset) for name, offset in offsets.items()}
    return {
        name: words
        for name, words in said.items()
        if words and has_error(cluster.log_path(name), offsets[name])
    }


def _is_up(overview: Overview, name: str) -> bool:
    row = overview.row(name)
    return row is not None and bool(row["up"])
