"""``paceline log ls|explain|verify``: read the log files of one node."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from paceline.cli.cluster import Cluster
from paceline.cli.context import DEFAULT_DIR, json_option
from paceline.cli.text import human_bytes, plural
from paceline.errors import UsageError

__all__ = ["command"]

_LIMIT: Final = 20


class _Files(NamedTuple):
    log: str
    database: str


def _locate(directory: str | None, node: str | None, data: str | None) -> _Files:
    if data is not None:
        if directory or node:
            raise UsageError("--data excludes --dir and --node")
        root = Path(data)
    else:
        cluster = Cluster.load(Path(directory or os.environ.get("PACELINE_DIR") or DEFAULT_DIR))
        root = cluster.node_dir(cluster.node(node or cluster.nodes[0].name).name)
    log = root / "log"
    if not log.is_dir():
        raise UsageError(f"{root} has no log directory", hint="has this node been started?")
    return _Files(str(log), str(root / "db" / "main.db"))


def node_options(function: Any) -> Any:
    """Which node's files: they are read from disk, whether the node runs or not."""
    for option in (
        click.option("--data", metavar="DIR", help="Data directory of a node, instead of --dir and --node."),
        click.option("--node", metavar="NAME", help="Whose log to read (default: the first node's)."),
        click.option(
            "--dir",
            "directory",
            metavar="DIR",
            help=f"Directory of a local cluster (default: ./{DEFAULT_DIR}).",
        ),
    ):
        function = option(function)
    return function


@click.group("log")
def command() -> None:
    """List, explain and check log files.

    The files are read from disk; the node may be running or not.
    """


def _summary(record: Any) -> dict[str, Any]:
    from paceline.cli.explain import time_text
    from paceline.core.entry import EntryKind
    from paceline.engines.sqlite.formats import page
    from paceline.engines.sqlite.requests import decode_request_list

    entry = record.entry
    pages = requests = None
    if entry.kind in (EntryKind.TXN, EntryKind.TXN_PART):
        delta = page.decode(entry.body, entry.flags)
        pages = len(delta)
        if delta.requests:
            requests = sum(len(ids) for _, ids in decode_request_list(bytes(delta.requests)).runs)
    return {
        "index": entry.index,
        "term": entry.term,
        "kind": entry.kind.name.lower().replace("_", "-"),
        "time": time_text(entry.time_us),
        "bytes": len(entry.record),
        "requests": requests,
        "pages": pages,
        "chain": entry.chain.hex(),
    }


@command.command("ls")
@node_options
@click.option("--from", "first", metavar="INDEX", type=click.IntRange(1), help="Start at this entry.")
@click.option("--limit", type=click.IntRange(1), default=_LIMIT, show_default=True, help="How many entries.")
@json_option
def ls(
    directory: str | None, node: str | None, data: str | None, first: int | None, limit: int, as_json: bool
) -> None:
    """List entries: the newest ones, or those from INDEX on."""
    from itertools import islice

    from paceline.core.entry import EntryKind
    from paceline.log.inspect import records

    replicated = (r for r in records(_locate(directory, node, data).log) if r.entry.kind < EntryKind.REQUESTS)
    chosen = (
        deque(replicated, maxlen=limit)
        if first is None
        else islice((r for r in replicated if r.entry.index >= first), limit)
    )
    rows = [_summary(record) for record in chosen]
    if as_json:
        from msgspec import json

        for row in rows:
            click.echo(json.encode(row))
        return
    from paceline.cli.tables import console, plain_table

    right = ("index", "term", "bytes", "requests", "pages")
    table = plain_table("index", "term", "kind", "time", "bytes", "requests", "pages", "chain", right=right)
    for row in rows:
        texts = ["" if row[key] is None else str(row[key]) for key in row if key != "chain"]
        table.add_row(*texts, row["chain"][:8])
    console().print(table)


@command.command("explain")
@click.argument("index", type=click.IntRange(1))
@node_options
@click.option("--full", is_flag=True, help="Show all changed bytes.")
@json_option
def explain(
    index: int, directory: str | None, node: str | None, data: str | None, full: bool, as_json: bool
) -> None:
    """Take entry INDEX apart: header, requests, and every changed byte.

    Old and new bytes are computed back from the node's database and proved by
    the checksums in the entry. The SQL of the requests is in the log of the
    node that was leader.
    """
    from paceline.cli.explain import explain as take_apart
    from paceline.cli.explain import lines

    files = _locate(directory, node, data)
    shape = take_apart(files.log, files.database if os.path.exists(files.database) else None, index)
    if as_json:
        from msgspec import json

        click.echo(json.encode(shape))
        return
    for line in lines(shape, full=full):
        click.echo(line)


@command.command("verify")
@node_options
@json_option
def verify(directory: str | None, node: str | None, data: str | None, as_json: bool) -> None:
    """Check every byte of the log, and change nothing.

    The last write of a running node may look torn. The exit code is 1 when
    something durable is damaged.
    """
    import dataclasses

    from paceline.log.inspect import verify as check

    report = check(_locate(directory, node, data).log)
    if as_json:
        from msgspec import json

        shape = dataclasses.asdict(report) | {"base": str(report.base), "last": str(report.last)}
        click.echo(json.encode(shape))
    else:
        from paceline.cli.tables import console, plain_table

        table = plain_table("segment", "size", "verdict", "detail", right=("size",))
        table.columns[-1].no_wrap = False
        for segment in report.segments:
            table.add_row(segment.name, human_bytes(segment.bytes), segment.verdict, segment.detail)
        console().print(table)
        click.echo(f"{report.entries:,} entries, the last at {report.last}")
        if report.torn_bytes:
            click.echo(f"{plural(report.torn_bytes, 'byte')} after it are torn; a restart cuts them")
        click.echo("the log is whole" if report.ok else f"DAMAGED: {report.problem}")
    raise click.exceptions.Exit(0 if report.ok else 1)
