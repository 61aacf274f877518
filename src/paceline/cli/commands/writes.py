"""``paceline writes stop|start``: an operator's brake for the whole cluster."""

from __future__ import annotations

import click

from paceline.cli.context import json_option, open_client, resolve, target_options

__all__ = ["command"]


@click.group("writes")
def command() -> None:
    """Stop and start writes on the whole cluster.

    While writes are stopped, clients get the error WritesStopped; reads,
    replication, backup and joining nodes go on.
    """


def _switch(op: str, directory: str | None, connect: str | None, as_json: bool) -> None:
    client = open_client(resolve(directory, connect).addresses)
    try:
        answer = client.admin(op)
    finally:
        client.close()
    if as_json:
        from msgspec import json

        click.echo(json.encode(answer))
    else:
        click.echo("writes are stopped" if op == "writes_stop" else "writes are on")


@command.command("stop")
@target_options
@json_option
def stop(directory: str | None, connect: str | None, as_json: bool) -> None:
    """Refuse writes from now on; returns when the cluster has agreed."""
    _switch("writes_stop", directory, connect, as_json)


@command.command("start")
@target_options
@json_option
def start(directory: str | None, connect: str | None, as_json: bool) -> None:
    """Accept writes again, on the whole cluster."""
    _switch("writes_start", directory, connect, as_json)
