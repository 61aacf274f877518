"""``paceline cluster show|set``: the settings that all members share, and what each durability means here."""

from __future__ import annotations

from typing import Any

import click

from paceline.cli.context import json_option, open_client, resolve, target_options
from paceline.errors import UsageError

__all__ = ["command"]


@click.group("cluster")
def command() -> None:
    """Show and change the settings that all members share.

    They are in the replicated log: a change takes effect everywhere, at once,
    and outlives every leader.
    """


def _ask(directory: str | None, connect: str | None, changes: dict[str, Any]) -> dict[str, Any]:
    client = open_client(resolve(directory, connect).addresses)
    try:
        return client.admin("settings", **changes)
    finally:
        client.close()


def _show(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        from msgspec import json

        click.echo(json.encode(report))
        return
    from paceline.cli.tables import console, settings_view

    screen = console()
    screen.print(settings_view(report))


@command.command("show")
@target_options
@json_option
def show(directory: str | None, connect: str | None, as_json: bool) -> None:
    """Show the settings in force, and what each durability survives here.

    One line for every durability that this cluster can have: which failures an
    acknowledgement survives with the members of now, and whether it could be
    reached at this moment. * marks the default. first K is shown with all followers;
    any choice of them will do.
    """
    _show(_ask(directory, connect, {}), as_json)


def _changes(pairs: tuple[str, ...]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not key or not equals or not value:
            raise UsageError(f"{pair!r} is not KEY=VALUE", hint="for example durability=quorum")
        if key in changes:
            raise UsageError(f"{key} is given twice")
        number = key.endswith(("_ms", "_gap")) and value.isascii() and value.isdecimal() and len(value) <= 15
        changes[key] = int(value) if number else value
    return changes


@command.command("set")
@click.argument("changes", nargs=-1, required=True, metavar="KEY=VALUE...")
@target_options
@json_option
def set_(changes: tuple[str, ...], directory: str | None, connect: str | None, as_json: bool) -> None:
    """Change settings while the cluster runs; all changes or none.

    \b
    durability=LEVEL        what a write waits for unless it says otherwise:
                            async, local, any K, first K (a, b), quorum, all;
                            the last four also with +applied
    unreached=POLICY        a write whose durability cannot be reached:
                            wait     waits until its time limit
                            fail     is refused before anything happens
                            degrade  after degrade_after_ms the leader's own disk
                                     is enough; receipt, status and events say so
    degrade_after_ms=MS     10 to 3600000
    id_gap=COUNT            ids that each new leader leaves out in AUTOINCREMENT
                            tables, because lost writes may have them; 0: none

    Returns when the cluster has agreed, and shows the settings then in force. A
    durability that this cluster can never reach, or cannot reach now, is refused.

    \b
    Examples:
      paceline cluster set durability=all+applied
      paceline cluster set unreached=degrade degrade_after_ms=500
    """
    _show(_ask(directory, connect, _changes(changes)), as_json)
