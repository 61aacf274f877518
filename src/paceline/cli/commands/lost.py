"""``paceline lost ...``: writes that a failover took back; look, compare, apply again, put aside."""

from __future__ import annotations

from typing import Any

import click

from paceline.cli.context import Target, json_option, resolve, target_options
from paceline.cli.text import plural
from paceline.errors import UsageError

__all__ = ["command"]


@click.group("lost")
def command() -> None:
    """Show writes that a failover took back.

    A leader that is deposed may have entries that the new history does not
    have. They are taken out of its log and database, and kept in its custody.
    Every node keeps its own; all that can be reached are asked. Of a local
    cluster the files of nodes that do not run are read, too.
    """


def _node_option(function: Any) -> Any:
    return click.option("--node", metavar="NAME", help="Only what this node keeps.")(function)


@command.command("list")
@target_options
@_node_option
@json_option
@click.option("--all", "discarded", is_flag=True, help="Those that were discarded, too.")
def list_lost(
    directory: str | None, connect: str | None, node: str | None, as_json: bool, discarded: bool
) -> None:
    """List ranges of lost entries, oldest first."""
    from paceline.cli.lostwrites import list_of, short_id

    answer = list_of(resolve(directory, connect), node, discarded=discarded)
    if as_json:
        from msgspec import json

        click.echo(json.encode(answer))
        return
    for member in answer["nodes"]:
        if member["state"] != "ok":
            click.echo(f"{member['name']} was not asked: {member.get('error', 'no answer')}", err=True)
    if not answer["lost"]:
        click.echo("no lost writes are kept")
        return
    from paceline.cli.tables import console, plain_table

    right = ("entries", "requests", "acknowledged")
    table = plain_table("id", "node", "entries", "requests", "acknowledged", "when", right=right)
    for item in answer["lost"]:
        table.add_row(
            short_id(item["id"]),
            f"[bold]{item['node']}[/]",
            str(item["entries"]) if not item["problem"] else "[red]damaged[/]",
            _count(item["requests"]),
            _count(item["acknowledged"]),
            (item["time"] or "-")[:19].replace("T", " ")
            + ("  [dim]discarded[/]" if item.get("discarded") else ""),
        )
    console().print(table)


def _count(value: int | None) -> str:
    return "unknown" if value is None else str(value)


@command.command("show")
@click.argument("id")
@target_options
@_node_option
@json_option
def show(id: str, directory: str | None, connect: str | None, node: str | None, as_json: bool) -> None:
    """Show one range: every request with its SQL, and the rows it changed.

    ID is that of `paceline lost list`; its beginning is enough. Rows are
    computed from the log since the fork, as long as that is there; the SQL is
    always shown when this node was the leader.
    """
    from paceline.cli.lostwrites import lines, list_of, show_of

    target = resolve(directory, connect)
    shape = show_of(target, *_choose(target, id, node, list_of))
    if as_json:
        from msgspec import json

        click.echo(json.encode(shape))
        return
    for line in lines(shape):
        click.echo(line)


def _request_option(function: Any) -> Any:
    return click.option(
        "--request",
        "numbers",
        type=int,
        multiple=True,
        metavar="N",
        help="Only this request, as lost show counts them; may be repeated.",
    )(function)


@command.command("check")
@click.argument("id")
@target_options
@_node_option
@_request_option
@json_option
def check(
    id: str,
    directory: str | None,
    connect: str | None,
    node: str | None,
    numbers: tuple[int, ...],
    as_json: bool,
) -> None:
    """Compare the rows of lost writes with the rows of today.

    \b
    same      today's row is as the lost write found it
    applied   it is already as the lost write left it
    changed   it is another one
    gone      it is there no more
    unchecked it cannot be compared; why is said

    Today's rows are read from the leader. Requests that shared an entry share
    its rows. The exit code is 1 when rows are changed, gone or unchecked, or
    when there are more than 100 in a table.
    """
    from paceline.cli import lostcheck
    from paceline.cli.context import open_client
    from paceline.cli.lostwrites import list_of, show_of

    target = resolve(directory, connect)
    place = _choose(target, id, node, list_of)
    shape = show_of(target, *place)
    if numbers:
        wanted = lostcheck.chosen(shape["requests"], numbers)
        shape = show_of(target, *place, sorted({request["index"] for _, request in wanted}))
    with open_client(target.addresses) as client:
        report = lostcheck.check(client, shape)
    if as_json:
        from msgspec import json

        click.echo(json.encode(report))
    else:
        for line in lostcheck.check_lines(report):
            click.echo(line)
    if report["conflicts"] or not report["complete"]:
        raise SystemExit(1)


@command.command("apply")
@click.argument("id")
@target_options
@_node_option
@_request_option
@click.option("--durability", metavar="LEVEL", help="What each write waits for (default: the cluster's).")
@json_option
def apply(
    id: str,
    directory: str | None,
    connect: str | None,
    node: str | None,
    numbers: tuple[int, ...],
    durability: str | None,
    as_json: bool,
) -> None:
    """Run lost requests again, in order, through the leader.

    Each runs with its SQL and its bindings as a new transaction under a request
    id of its own; the outcome of each is shown. After one that fails the rest
    is not tried. Look at `lost check` first: what a request does today depends on
    the rows of today. Repeating the command applies nothing twice, as long as
    the cluster remembers request ids. Requests whose SQL was not kept, or whose
    long values were cut, are refused before anything runs.
    """
    from paceline.cli import lostcheck
    from paceline.cli.context import open_client
    from paceline.cli.lostwrites import list_of, show_of

    target = resolve(directory, connect)
    shape = show_of(target, *_choose(target, id, node, list_of))
    wanted = lostcheck.chosen(shape["requests"], numbers)
    if why := lostcheck.refusals(wanted):
        raise UsageError(
            f"nothing was applied: {'; '.join(why[:4])}",
            hint="choose the others with --request; rows are in paceline lost show",
        )
    with open_client(target.addresses) as client:
        reports = list(lostcheck.apply(client, shape, wanted, durability))
    if as_json:
        from msgspec import json

        click.echo(json.encode({"id": shape["id"], "node": shape["node"], "requests": reports}))
    else:
        for report in reports:
            click.echo(_applied(report))
    if any(report["outcome"] not in ("applied", "repeated") for report in reports):
        raise SystemExit(1)
    if not as_json:
        click.echo(f"when all is dealt with: paceline lost discard {shape['id']}")


def _applied(report: dict[str, Any]) -> str:
    text = f"request {report['number']}: {report['outcome']}"
    if report["outcome"] == "repeated":
        return f"{text}: it was applied before"
    if report["error"]:
        return f"{text}: {report['error']}"
    return text if report["position"] is None else f"{text}, {plural(report['rows_affected'], 'row')}"


@command.command("discard")
@click.argument("id")
@target_options
@_node_option
@json_option
def discard(id: str, directory: str | None, connect: str | None, node: str | None, as_json: bool) -> None:
    """Say that a range has been dealt with.

    It leaves the list, the status and the metrics. Nothing is deleted: the file
    moves into custody/discarded of the node that keeps it, `lost list --all` and
    `lost show` still have it. The node must be running.
    """
    from paceline.cli.context import open_client
    from paceline.cli.lostwrites import list_of, short_id

    target = resolve(directory, connect)
    whole, keeper = _choose(target, id, node, list_of)
    with open_client(target.addresses) as client:
        answer = client.ask("lost_discard", id=whole, node=keeper)
    if as_json:
        from msgspec import json

        click.echo(json.encode(answer))
        return
    click.echo(f"{short_id(whole)} on {keeper} is discarded (paceline lost list --all shows it)")


@command.command("ids")
@target_options
@json_option
def ids(directory: str | None, connect: str | None, as_json: bool) -> None:
    """Tell which tables may give the ids of lost writes to other rows.

    A table with INTEGER PRIMARY KEY AUTOINCREMENT leaves out `id_gap` ids
    whenever a new leader begins. One without AUTOINCREMENT takes the largest id
    that is there and adds one: an id that a failover took back comes again.
    """
    from paceline.cli.context import open_client
    from paceline.engines.sqlite.idgap import ID_TABLES_SQL, id_tables

    with open_client(resolve(directory, connect).addresses) as client:
        tables = id_tables(client.query(ID_TABLES_SQL).rows)
    if as_json:
        from msgspec import json

        click.echo(json.encode({"tables": tables}))
        return
    for item in tables:
        what = "ids of lost writes may come again (no AUTOINCREMENT)" if item["reused"] else "never again"
        click.echo(f"{item['table']}: {what}")
    if not tables:
        click.echo("no table gives out ids by itself")


def _choose(target: Target, id: str, node: str | None, list_of: Any) -> tuple[str, str]:
    """The whole id and the node that keeps it."""
    from paceline.cli.lostwrites import matches, short_id

    answer = list_of(target, node, discarded=True)
    found = [item for item in answer["lost"] if matches(item["id"], id)]
    if not found:
        away = [member["name"] for member in answer["nodes"] if member["state"] != "ok"]
        hint = f"not asked: {', '.join(away)}; paceline lost list" if away else "see paceline lost list"
        raise UsageError(f"no lost writes are kept under {id!r}", hint=hint)
    if len({item["id"] for item in found}) > 1 or (node is None and len(found) > 1):
        names = ", ".join(f"{short_id(item['id'])} on {item['node']}" for item in found[:4])
        raise UsageError(
            f"{id!r} is not one range but {plural(len(found), 'range')}: {names}",
            hint="give more of the id, or --node",
        )
    return found[0]["id"], found[0]["node"]
