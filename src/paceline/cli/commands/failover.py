"""``paceline failover switch``: move the leadership, as planned and without loss."""

from __future__ import annotations

import click

from paceline.cli.context import json_option, open_client, resolve, target_options
from paceline.cli.text import human_ms

__all__ = ["command"]

_GRACE_MS = 5_000
"""The election itself, and the way back of the answer."""


@click.group("failover")
def command() -> None:
    """Move the leadership to another node.

    When a leader dies the voters elect another one by themselves; this is for
    planned changes.
    """


@command.command("switch")
@click.argument("node")
@target_options
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(0.1, 50),
    default=10.0,
    show_default=True,
    help="How long NODE may take to catch up; writes wait meanwhile.",
)
@json_option
def switch(node: str, directory: str | None, connect: str | None, timeout: float, as_json: bool) -> None:
    """Let NODE lead: drain, wait until it has everything, hand over.

    Nothing is lost, and writes that wait go to the new leader. When NODE does
    not make it in time, the old leader goes on.

    \b
    Example:
      paceline failover switch n2
    """
    timeout_ms = int(timeout * 1000)
    client = open_client(resolve(directory, connect).addresses, timeout_ms=timeout_ms + _GRACE_MS)
    try:
        answer = client.admin("switch", node=node, timeout_ms=timeout_ms)
    finally:
        client.close()
    if as_json:
        from msgspec import json

        click.echo(json.encode(answer))
    else:
        pause = human_ms(int(answer["pause_ms"])) if answer["pause_ms"] >= 10 else f"{answer['pause_ms']} ms"
        click.echo(f"{answer['to']} leads now (term {answer['term']}); writes paused {pause}")
