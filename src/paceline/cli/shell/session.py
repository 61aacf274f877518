"""What the shell does with a line, without any terminal.

A line is a dot-command or part of a SQL statement; :class:`Feeder` collects
lines until SQLite sees a whole statement.  The session keeps the settings that
dot-commands change.  The client keeps the token of the newest answer, so that
``.read session`` shows what this shell wrote, on whatever node answers, or says that a failover lost it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import click

from paceline.cli.context import Target
from paceline.cli.members import look
from paceline.cli.rows import Mode, render
from paceline.cli.running_sql import Answer, receipt_line, run_sql
from paceline.cli.sqltext import is_complete, split_statements
from paceline.cli.text import human_ms, plural
from paceline.errors import PacelineError, UsageError

if TYPE_CHECKING:
    from paceline.client import Client

__all__ = ["DOT_COMMANDS", "Feeder", "Quit", "Session"]

DOT_COMMANDS: Final[dict[str, tuple[str, str]]] = {
    ".tables": ("", "list tables and views"),
    ".schema": ("[TABLE]", "show CREATE statements"),
    ".nodes": ("", "list nodes with addresses and health"),
    ".status": ("", "roles, positions, lag, durability"),
    ".read": ("local|session|leader|linearizable|bounded MS", "level of reads"),
    ".durability": ("[LEVEL[+applied]|default]", "what writes wait for"),
    ".mode": ("table|csv|json", "how rows are printed"),
    ".timer": ("[on|off]", "show the time of each statement"),
    ".help": ("", "this list"),
    ".quit": ("", "leave (also Ctrl-D)"),
}
"""Name -> (arguments, what it does)."""

_MODES: Final[dict[str, Mode]] = {"table": "table", "csv": "csv", "json": "json"}
_SWITCH: Final = {"on": True, "off": False}


class Quit(Exception):
    """The user has seen enough."""


class Feeder:
    """Collects lines into whole inputs."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    @property
    def pending(self) -> bool:
        return bool(self._lines)

    def feed(self, line: str) -> str | None:
        """Take a line; returns a whole input, None when more is to come."""
        if not self._lines and (not line.strip() or line.lstrip().startswith(".")):
            return line.strip() or None
        self._lines.append(line)
        text = "\n".join(self._lines)
        return self.flush() if is_complete(text) else None

    def flush(self) -> str | None:
        """What was collected, complete or not."""
        text = "\n".join(self._lines)
        self._lines.clear()
        return text if split_statements(text) else None


class Session:
    """One user's settings and connection.  ``out`` prints results, ``err`` what is said about them."""

    def __init__(
        self,
        client: Client,
        target: Target,
        *,
        out: Callable[[str], None] = click.echo,
        cell_width: int | None = None,
        mode: Mode = "table",
    ) -> None:
        self._client = client
        self._target = target
        self._out = out
        self._cell_width = cell_width
        self.mode: Mode = mode
        self.read = "local"
        self.durability: str | None = None
        self.timer = False
        self.schema_changed = True

    # -- input --------------------------------------------------------------------

    def handle(self, text: str) -> None:
        """Do a whole input; raises what went wrong, or :class:`Quit`."""
        started = time.perf_counter()
        if text.startswith("."):
            self._dot(text.rstrip(";").split())
            return
        answers = run_sql(
            self._client,
            text,
            read=self.read,
            durability=self.durability,
        )
        elapsed = (time.perf_counter() - started) * 1000
        for answer in answers:
            self._show(answer)
        if self.timer:
            self._out(f"time: {human_ms(elapsed)}")

    def _show(self, answer: Answer) -> None:
        if answer.columns is not None:
            if answer.rows or self.mode != "json":
                self._out(render(answer.columns, answer.rows, self.mode, width_max=self._cell_width))
            if self.mode == "table":
                self._out(f"({plural(len(answer.rows), 'row')})")
        if answer.receipt is not None:
            self.schema_changed = True
            if self.mode == "table":
                changed = (
                    "" if answer.columns is not None else f"{plural(answer.rows_affected, 'row')} affected; "
                )
                self._out(changed + receipt_line(answer.receipt))

    # -- dot-commands ---------------------------------------------------------------

    def _dot(self, words: list[str]) -> None:
        name, args = words[0], words[1:]
        handlers: dict[str, Callable[[list[str]], None]] = {
            ".tables": self._tables,
            ".schema": self._schema,
            ".nodes": self._nodes,
            ".status": self._status,
            ".read": self._set_read,
            ".durability": self._set_durability,
            ".mode": self._set_mode,
            ".timer": self._set_timer,
            ".help": self._help,
            ".quit": self._quit,
            ".exit": self._quit,
        }
        if name not in handlers:
            from difflib import get_close_matches

            near = get_close_matches(name, DOT_COMMANDS, n=1)
            raise UsageError(
                f"no command {name}", hint=f"did you mean {near[0]}?" if near else ".help lists them"
            )
        handlers[name](args)

    def _names(self) -> list[str]:
        found = self._client.query(
            "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')"
            " AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
        )
        return [str(row[0]) for row in found.rows]

    def _tables(self, args: list[str]) -> None:
        for name in self._names():
            self._out(name)

    def _schema(self, args: list[str]) -> None:
        found = self._client.query(
            "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL"
            " AND (?1 IS NULL OR lower(tbl_name) = lower(?1)) ORDER BY tbl_name, type DESC, name",
            [args[0] if args else None],
        )
        if not found.rows and args:
            raise UsageError(f"no table {args[0]}", hint=".tables lists them")
        for (sql,) in found.rows:
            self._out(f"{sql};")

    def _nodes(self, args: list[str]) -> None:
        rows = look(self._target).rows
        cells = [
            [row["name"], row["role"], row["voting"], row["address"], row["http"], row["health"]]
            for row in rows
        ]
        self._out(render(["node", "role", "voting", "clients", "HTTP", "health"], cells, self.mode))

    def _status(self, args: list[str]) -> None:
        from paceline.cli.tables import console, status_view

        screen = console()
        with screen.capture() as capture:
            screen.print(status_view(look(self._target), screen.width))
        self._out(capture.get().rstrip("\n"))

    def _choose(self, args: list[str], what: str, choices: tuple[str, ...], now: str) -> str:
        """The one argument, checked; without one the current value is shown."""
        if not args:
            self._out(f"{what} is {now}")
            return now
        if len(args) > 1 or args[0] not in choices:
            raise UsageError(f"{what} {' '.join(args)}: expected one of {', '.join(choices)}")
        return args[0]

    def _set_read(self, args: list[str]) -> None:
        if not args:
            self._out(f"read is {self.read}")
            return
        from paceline.client.reading import parse_read

        self.read = parse_read(" ".join(args))

    def _set_mode(self, args: list[str]) -> None:
        self.mode = _MODES[self._choose(args, "mode", tuple(_MODES), self.mode)]

    def _set_timer(self, args: list[str]) -> None:
        self.timer = _SWITCH[
            self._choose(args or ["off" if self.timer else "on"], "timer", tuple(_SWITCH), "")
        ]

    def _set_durability(self, args: list[str]) -> None:
        if not args:
            self._out(f"durability is {self.durability or 'the default of the cluster'}")
        elif args == ["default"]:
            self.durability = None
        else:
            from paceline.core.durability import parse_durability

            self.durability = str(parse_durability(" ".join(args)))

    def _help(self, args: list[str]) -> None:
        width = max(len(f"{name} {usage}") for name, (usage, _) in DOT_COMMANDS.items())
        for name, (usage, meaning) in DOT_COMMANDS.items():
            self._out(f"{f'{name} {usage}'.ljust(width)}   {meaning}")
        self._out(
            "Everything else is SQL and ends with ';'. All statements of one input are one transaction."
        )

    def _quit(self, args: list[str]) -> None:
        raise Quit

    # -- for the prompt ---------------------------------------------------------------

    def columns_by_table(self) -> dict[str, list[str]]:
        """Tables with their columns, for completion; empty when nobody answers."""
        try:
            found = self._client.query(
                "SELECT m.name, c.name FROM sqlite_schema AS m, pragma_table_info(m.name) AS c"
                " WHERE m.type IN ('table', 'view')"
            )
        except PacelineError:
            return {}
        tables: dict[str, list[str]] = {}
        for table, column in found.rows:
            tables.setdefault(str(table), []).append(str(column))
        return tables

    @property
    def summary(self) -> str:
        return f"read {self.read}   durability {self.durability or 'default'}   mode {self.mode}"
