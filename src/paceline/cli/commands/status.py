"""``paceline status``: one look at the cluster, or a live one."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import click

from paceline.cli.context import Target, json_option, resolve, target_options
from paceline.cli.members import Overview, look

__all__ = ["command"]


def _as_json(overview: Overview) -> dict[str, Any]:
    return {
        "healthy": overview.healthy,
        "status": overview.view,
        "members": overview.rows,
        "unreachable": overview.errors,
    }


def _watch(target: Target, seconds: float) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from paceline.cli.happenings import Happenings
    from paceline.cli.tables import console, status_view

    screen, happenings = console(), Happenings()
    happenings.follow(target.addresses)
    with Live(console=screen, auto_refresh=False, screen=screen.is_terminal) as live:
        while True:
            started = time.monotonic()
            overview = look(target)
            happenings.follow([row["address"] for row in overview.rows if row["address"]])
            events = [Text(line, overflow="ellipsis", no_wrap=True) for line in happenings.lines]
            live.update(Group(status_view(overview, screen.width), "", *events), refresh=True)
            time.sleep(max(0.1, seconds - (time.monotonic() - started)))


@click.command("status")
@target_options
@click.option("--watch", is_flag=True, help="Keep showing; Ctrl-C ends it.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 60),
    default=1.0,
    show_default=True,
    help="Seconds, with --watch.",
)
@json_option
def command(directory: str | None, connect: str | None, watch: bool, interval: float, as_json: bool) -> None:
    """Show members, roles, positions, lag and health.

    With --watch also what happens meanwhile: changes of leader and members,
    lost writes, incidents. The exit code is 1 when there is no leader or a member is not well. With
    --json --watch: one JSON object a line.
    """
    target = resolve(directory, connect)
    if watch and not as_json:
        with suppress(KeyboardInterrupt):  # Ctrl-C is the way out, not an accident
            _watch(target, interval)
        return
    from msgspec import json

    while True:
        overview = look(target)
        if as_json:
            click.echo(json.encode(_as_json(overview)))
        if not watch:
            break
        time.sleep(interval)
    if not as_json:
        from paceline.cli.tables import console, status_view

        screen = console()
        screen.print(status_view(overview, screen.width))
        for address, reason in overview.errors.items():
            click.echo(f"{address}: {reason}", err=True)
    raise click.exceptions.Exit(0 if overview.healthy else 1)
