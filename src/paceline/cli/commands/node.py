"""``paceline node add|remove|list``."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Final

import click

from paceline.cli.cluster import Cluster, LocalNode, node_addresses
from paceline.cli.context import Target, json_option, open_client, resolve, target_options
from paceline.cli.linux import require_linux
from paceline.cli.members import look
from paceline.cli.progressbar import progress_bar
from paceline.errors import PacelineError, TimedOut, UsageError
from paceline.ids import check_node_name

__all__ = ["command"]

_POLL_SECONDS: Final = 0.25
_ERRORS_MAX: Final = 3


@click.group("node")
def command() -> None:
    """Add, remove and list nodes."""


def _local(target: Target, what: str) -> Cluster:
    if target.cluster is None:
        raise UsageError(
            f"{what} needs the directory of a cluster that `paceline up` runs",
            hint="on another machine: paceline serve --join HOST:PEERPORT",
        )
    return target.cluster


def _make_node(cluster: Cluster, name: str, backup: Path | None) -> None:
    """Directory and configuration first, the wish in cluster.json last."""
    from paceline.cli.founding import check_file, check_ports, joining_config, seed_file, write_node

    with cluster.changing() as fresh:
        known = next((node for node in fresh.nodes if node.name == name), None)
        if known is not None and known in fresh.present:
            raise UsageError(f"there is a node {name} already", hint="choose another name")
        directory = fresh.node_dir(name)
        if directory.exists():
            raise UsageError(
                f"{directory} exists: it was a node before, or is somebody's",
                hint="a new node starts empty; remove the directory or choose another name",
            )
        # A member whose directory was wiped comes back where it was, as a new incarnation.
        node = known or LocalNode(name=name, **node_addresses("127.0.0.1", fresh.next_port()))
        check_ports([node], hint="stop what listens there")
        if backup:
            check_file(backup)
        directory.mkdir()
        try:
            if backup:
                with progress_bar(f"copying {backup.name}", "pages") as advance:
                    seed_file(backup, fresh.database_path(name), advance)
            write_node(fresh, joining_config(fresh, node))
        except BaseException:
            import shutil

            shutil.rmtree(directory)
            raise
        if known is None:
            fresh.nodes.append(node)


def _check_starts(cluster: Cluster, name: str) -> None:
    """A node that ended with an error again and again needs help, not patience."""
    from paceline.cli.supervisor import last_words

    log = cluster.log_path(name)
    said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    if sum(line.startswith("paceline: ") for line in said.splitlines()) >= _ERRORS_MAX:
        raise PacelineError(
            f"{name} does not start: {last_words(log)}",
            hint=f"undo it with: paceline node remove {name}, and remove {cluster.node_dir(name)}",
        )


def _follow_join(target: Target, cluster: Cluster, name: str, limit: float) -> dict[str, Any]:
    """Show the transfer until the node is a voter; returns its row."""
    deadline = time.monotonic() + limit
    with progress_bar(f"{name} joins", "pages") as advance:
        while True:
            row = look(target).row(name) or {}
            progress = row.get("progress") or {}
            if progress.get("units_total"):
                advance(int(progress["units_done"]), int(progress["units_total"]))
            if row.get("voting") == "voter" and row.get("up") and row.get("health") == "ok":
                return row
            if not row.get("up"):
                _check_starts(cluster, name)
            if time.monotonic() > deadline:
                raise TimedOut(
                    f"{name} is not a voter after {limit:g} s (it is {row.get('voting', 'unknown')}, "
                    f"health {row.get('health', 'unknown')})",
                    hint=f"it goes on by itself: see paceline status and {name}/node.log",
                )
            time.sleep(_POLL_SECONDS)


@command.command("add")
@click.argument("name")
@target_options
@click.option(
    "--from", "backup", metavar="BACKUP", type=click.Path(path_type=Path), help="Start from a backup file."
)
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(1),
    default=600.0,
    show_default=True,
    help="Patience.",
)
def add(name: str, directory: str | None, connect: str | None, backup: Path | None, timeout: float) -> None:
    """Add a node to the local cluster and wait until it votes.

    With --from the node starts with the pages of BACKUP and fetches only what
    has changed since. A node whose directory was wiped comes back under its
    name and its addresses, as a new incarnation that never inherits the old
    vote.
    """
    require_linux("node add")
    try:
        check_node_name(name)
    except ValueError as error:
        raise UsageError(str(error)) from None
    target = resolve(directory, connect)
    cluster = _local(target, "node add")
    started = time.monotonic()
    _make_node(cluster, name, backup)
    if cluster.supervisor() is None:
        click.echo(f"{name} is made; it will join when the cluster runs (paceline up --dir {cluster.path})")
        return
    row = _follow_join(target._replace(addresses=[n.listen for n in cluster.nodes]), cluster, name, timeout)
    took = time.monotonic() - started
    click.echo(f"{name} is a voter after {took:.1f} s: {row['address']}, {cluster.database_path(name)}")


@command.command("remove")
@click.argument("name")
@target_options
def remove(name: str, directory: str | None, connect: str | None) -> None:
    """Remove a node from the membership; of a local cluster also stop its process.

    Its directory stays, until you remove it.
    """
    target = resolve(directory, connect)
    cluster = target.cluster
    member = any(node.name == name for node in cluster.nodes) if cluster else False
    others = [n.listen for n in cluster.nodes if n.name != name] if cluster else target.addresses
    client = open_client(others or target.addresses)
    try:
        client.admin("node_remove", name=name)
    except UsageError:
        # A local node that never joined is no member; it may go all the same.
        if not member or _is_member(client, name):
            raise
    finally:
        client.close()
    if cluster is None or not member:
        click.echo(f"{name} is no longer a member; stop its process")
        return
    with cluster.changing() as fresh:
        fresh.nodes = [node for node in fresh.nodes if node.name != name]
    click.echo(f"{name} is removed; its data stays in {cluster.node_dir(name)}")


def _is_member(client: Any, name: str) -> bool:
    return any(member["name"] == name for member in client.status()["members"])


@command.command("list")
@target_options
@json_option
def list_nodes(directory: str | None, connect: str | None, as_json: bool) -> None:
    """List the nodes with their addresses and files."""
    target = resolve(directory, connect)
    overview = look(target)
    if as_json:
        from msgspec import json

        click.echo(json.encode(overview.rows))
        return
    if overview.view is None and target.cluster is None:
        reason = next(iter(overview.errors.values()), "no answer")
        raise PacelineError(f"no node answers: {reason}", hint="is the address right, and the node running?")
    from paceline.cli.tables import console, plain_table

    screen = console()
    wide = screen.width >= 100
    table = plain_table("node", "voting", "clients", *(["HTTP"] if wide else []), "health", "database file")
    for row in overview.rows:
        http = [row["http"] or "-"] if wide else []
        path = _database(target.cluster, row)
        table.add_row(row["name"], row["voting"], row["address"] or "-", *http, row["health"], path)
    table.columns[-1].no_wrap = False
    table.columns[-1].overflow = "fold"
    screen.print(table)


def _database(cluster: Cluster | None, row: dict[str, Any]) -> str:
    """Where the file is: for a local cluster as seen from here, else as the node says."""
    if cluster and any(node.name == row["name"] for node in cluster.nodes):
        return os.path.relpath(cluster.database_path(row["name"]))
    return str(row["database"] or "-")
