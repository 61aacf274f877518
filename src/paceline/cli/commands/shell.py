"""``paceline shell``: SQL by hand."""

from __future__ import annotations

import sys

import click

from paceline.cli.context import open_client, resolve, target_options
from paceline.cli.shell.session import Feeder, Quit, Session

__all__ = ["command"]


def _read_piped(session: Session) -> None:
    """Run standard input; the first error ends it."""
    feeder = Feeder()
    try:
        for line in sys.stdin:
            if (text := feeder.feed(line.rstrip("\n"))) is not None:
                session.handle(text)
        if (rest := feeder.flush()) is not None:
            session.handle(rest)
    except Quit:
        pass


@click.command("shell")
@target_options
def command(directory: str | None, connect: str | None) -> None:
    """Type SQL, with history and completion.

    Statements end with `;`, and all statements of one input are one
    transaction. Dot-commands set the read level, durability and output: see
    .help. After each write the shell shows its receipt: the durability
    reached, and on which nodes.

    Standard input may be a file or pipe: it runs statement by statement and
    stops at the first error.
    """
    target = resolve(directory, connect)
    client = open_client(target.addresses)
    try:
        if not sys.stdin.isatty():
            _read_piped(Session(client, target))
            return
        from paceline.cli.shell.prompt import converse

        status = client.status()
        name = str(status.get("cluster", "paceline"))
        click.echo(
            f"cluster {name}, leader {status.get('leader') or 'unknown'}; end SQL with ';'   .help   .quit",
            err=True,
        )
        converse(Session(client, target, cell_width=60), name)
    finally:
        client.close()
