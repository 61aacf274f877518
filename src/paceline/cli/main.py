"""The program: a table of commands, and the one place where errors become text and exit codes.

Commands are imported when they run, so ``paceline --help`` costs little more
than the interpreter and click.  A command prints results to standard output
and everything else to standard error, and raises; here a raised error becomes
one line (``paceline: ...``), a hint line, and an exit code:

    0  done
    1  the cluster, a node or a file is not as it should be
    2  the command line or the configuration is wrong
    130 interrupted

A traceback appears only with ``PACELINE_DEBUG=1``.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

import click

from paceline.errors import PacelineError, SqlError, UsageError

__all__ = ["COMMANDS", "cli", "main"]

COMMANDS: Final[dict[str, str]] = {
    "up": "Run a cluster on this machine.",
    "down": "Stop the cluster that `up` runs.",
    "serve": "Run one node.",
    "status": "Show members, roles, positions and lag.",
    "sql": "Run SQL and print the result.",
    "shell": "Type SQL; history and completion.",
    "node": "Add, remove and list nodes.",
    "cluster": "Show and change the cluster's settings.",
    "failover": "Move the leadership to another node.",
    "lost": "Show writes that a failover took back.",
    "writes": "Stop and start writes on the whole cluster.",
    "backup": "Copy the database of a running cluster to a file.",
    "restore": "Make a new cluster directory from a backup.",
    "verify": "Compare the databases of all nodes, bit for bit.",
    "log": "List, explain and check log files.",
    "bench": "Measure write throughput and latency.",
    "sim": "Run the simulator.",
    "version": "Print versions.",
}
"""Command -> the line that ``--help`` shows; in the order in which a user meets them."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"paceline.cli.commands.{cmd_name}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean {near[0]}?" if near else "paceline --help lists the commands"
            raise UsageError(f"no command {name!r}", hint=hint)
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
def cli() -> None:
    """Paceline replicates a SQLite database from one leader to followers.

    \b
    paceline up app.db      three nodes on this machine, from a copy of app.db
    paceline shell          type SQL
    paceline status         who leads, who lags
    """


def _say(message: str, hint: str | None) -> None:
    click.echo(f"paceline: {' '.join(message.split())}", err=True)
    if hint:
        click.echo(f"  hint: {hint}", err=True)


def _click_message(error: click.ClickException) -> tuple[str, str | None]:
    """Click's message, and the way to the right help."""
    hint = None
    if isinstance(error, click.UsageError) and error.ctx is not None:
        hint = f"{error.ctx.command_path} --help"
    return error.format_message(), hint


def _verdict(error: BaseException) -> int:
    """Print ``error`` for a person and return the exit code."""
    match error:
        case click.exceptions.Exit():
            return error.exit_code
        case KeyboardInterrupt() | click.Abort():
            click.echo("", err=True)
            return 130
        case click.ClickException():
            _say(*_click_message(error))
            return 2 if isinstance(error, click.UsageError) else 1
        case SqlError():
            from paceline.cli.text import sql_error

            _say(sql_error(error), error.hint)
            return 1
        case PacelineError():
            _say(error.message, error.hint)
            return 2 if isinstance(error, UsageError) else 1
        case BrokenPipeError():
            # The reader of our output has gone (`| head`); keep the interpreter from saying so at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            _say(f"{where}{error.strerror or error}", None)
            return 1
        case _:
            _say(
                f"internal error: {type(error).__name__}: {error}",
                "PACELINE_DEBUG=1 shows where; please report it",
            )
            return 1


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave with its exit code."""
    try:
        code = cli.main(args=args, prog_name="paceline", standalone_mode=False)
    except SystemExit:
        raise
    except BaseException as error:
        if os.environ.get("PACELINE_DEBUG") == "1" and not isinstance(error, click.exceptions.Exit):
            raise
        sys.exit(_verdict(error))
    sys.exit(code if isinstance(code, int) else 0)
