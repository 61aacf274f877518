"""``paceline verify``: are the databases of all nodes equal?"""

from __future__ import annotations

import time
from typing import Any

import click

from paceline.cli.context import json_option, open_client, resolve, target_options
from paceline.cli.text import short_position
from paceline.errors import TimedOut

__all__ = ["command"]

_POLL_SECONDS = 0.1
_AWAY_SECONDS = 3.0


def _judge(results: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per node; ``equal`` is whether its digest is the majority's, or the leader's while there is none (None:
    no digest)."""
    nodes = results.get("nodes", [])
    own = next((n.get("digest") for n in nodes if n.get("name") == results.get("leader")), None)
    reference = results.get("digest") or own
    return [
        {**node, "equal": None if node.get("digest") is None else node["digest"] == reference}
        for node in nodes
    ]


def _wait(client: Any, limit: float) -> dict[str, Any]:
    """Start a comparison and wait for all digests; a node that stays away for a while is not waited for."""
    started = client.admin("verify")
    begin = time.monotonic()
    while True:
        result = dict(client.admin("verify_result", id=started["id"]))
        waiting = {n["name"]: n["state"] for n in result["nodes"] if n["state"] not in ("done", "failed")}
        elapsed = time.monotonic() - begin
        away = all(state == "unreachable" for state in waiting.values())
        if not waiting or (away and elapsed > _AWAY_SECONDS):
            return result
        if elapsed > limit:
            raise TimedOut(
                f"no digest within {limit:g} s from {', '.join(waiting)}",
                hint="paceline status shows who is behind; --timeout waits longer",
            )
        time.sleep(_POLL_SECONDS)


def _show(rows: list[dict[str, Any]]) -> None:
    from paceline.cli.tables import console, plain_table

    table = plain_table("node", "position", "digest", "equal")
    for row in rows:
        if row["equal"] is None:
            verdict = f"[yellow]{row['state']}[/]"
        else:
            verdict = "[green]yes[/]" if row["equal"] else "[red]no[/]"
        table.add_row(row["name"], short_position(row.get("position")), row.get("digest") or "-", verdict)
    console().print(table)


def _sentence(rows: list[dict[str, Any]], *, decided: bool) -> str:
    if any(row["equal"] is False for row in rows):
        if decided:
            return "NOT EQUAL: a node that differs from the majority re-syncs itself; see paceline status"
        return (
            "NOT EQUAL, and no majority of the voters agrees: nothing was changed. Start the voters that are down and "
            "verify again; or remove the node that is wrong and add it anew"
        )
    missing = [row["name"] for row in rows if row["equal"] is None]
    return f"equal as far as known; nothing from {', '.join(missing)}" if missing else "all equal"


@click.command("verify")
@target_options
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(1),
    default=120.0,
    show_default=True,
    help="Patience.",
)
@json_option
def command(directory: str | None, connect: str | None, timeout: float, as_json: bool) -> None:
    """Compare the databases of all nodes at one position, while writes go on.

    Every node hashes every page of its database as it was at that position.
    The exit code is 1 when one differs or gives no digest.
    """
    client = open_client(resolve(directory, connect).addresses)
    try:
        result = _wait(client, timeout)
    finally:
        client.close()
    rows = _judge(result)
    equal = bool(rows) and all(row["equal"] for row in rows)
    if as_json:
        from msgspec import json

        click.echo(json.encode({"equal": equal, "position": result.get("position"), "nodes": rows}))
    else:
        _show(rows)
        click.echo(_sentence(rows, decided=bool(result.get("digest"))))
    raise click.exceptions.Exit(0 if equal else 1)
