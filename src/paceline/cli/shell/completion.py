"""Completion: dot-commands and their arguments, tables, columns, keywords.

Names of the user's own schema come first; they are read again after a write.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

import apsw
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from paceline.cli.shell.session import DOT_COMMANDS, Session

__all__ = ["SqlCompleter"]

KEYWORDS: Final = tuple(sorted(apsw.keywords))
_DURABILITIES: Final = (
    "async",
    "local",
    "any 1",
    "any 1+applied",
    "quorum",
    "quorum+applied",
    "all",
    "all+applied",
    "default",
)
_WORD: Final = re.compile(r"[A-Za-z0-9_]*$")
_QUALIFIED: Final = re.compile(r"([A-Za-z0-9_]+)\.([A-Za-z0-9_]*)$")


class SqlCompleter(Completer):
    def __init__(self, session: Session) -> None:
        self._session = session
        self._tables: dict[str, list[str]] = {}

    def _schema(self) -> dict[str, list[str]]:
        if self._session.schema_changed:
            self._tables = self._session.columns_by_table()
            self._session.schema_changed = False
        return self._tables

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        if text.startswith("."):
            yield from self._dot(text)
            return
        qualified = _QUALIFIED.search(text)
        if qualified:
            columns = self._columns_of(qualified[1])
            yield from _matching(columns, qualified[2], "column")
            return
        match = _WORD.search(text)
        word = match[0] if match else ""
        if not word and not complete_event.completion_requested:
            return
        tables = self._schema()
        yield from _matching(tables, word, "table")
        used = [name for name in tables if re.search(rf"\b{re.escape(name)}\b", document.text, re.IGNORECASE)]
        yield from _matching({c: None for name in used for c in tables[name]}, word, "column")
        if word:
            yield from _matching(KEYWORDS, word, "")

    def _columns_of(self, table: str) -> list[str]:
        return next((c for name, c in self._schema().items() if name.lower() == table.lower()), [])

    def _dot(self, text: str) -> Iterator[Completion]:
        name, blank, rest = text.partition(" ")
        if not blank:
            for command, (usage, meaning) in DOT_COMMANDS.items():
                if command.startswith(name):
                    yield Completion(command, -len(name), display=f"{command} {usage}", display_meta=meaning)
        elif name == ".schema":
            yield from _matching(self._schema(), rest, "table")
        elif name == ".durability":
            yield from _matching(_DURABILITIES, rest, "")
        elif name in DOT_COMMANDS:
            yield from _matching(DOT_COMMANDS[name][0].strip("[]").split("|"), rest, "")


def _matching(names: Iterable[str], word: str, meta: str) -> Iterator[Completion]:
    for name in names:
        if name.lower().startswith(word.lower()):
            yield Completion(name, -len(word), display_meta=meta)
