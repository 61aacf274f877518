"""``paceline lost list|show``: writes that a failover took back."""

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
def list_lost(directory: str | None, connect: str | None, node: str | None, as_json: bool) -> None:
    """List ranges of lost entries, oldest first."""
    from paceline.cli.lostwrites import list_of, short_id

    answer = list_of(resolve(directory, connect), node)
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
            (item["time"] or "-")[:19].replace("T", " "),
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

    answer = list_of(target, node)
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
