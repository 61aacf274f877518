"""Shared by the tests of the upper half: a leader's writer without a log."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from paceline.engines.base import Group, Outcome, WriteRequest
from paceline.engines.sqlite.connect import EngineOptions, create_database
from paceline.engines.sqlite.statements import Statements
from paceline.engines.sqlite.writer import Writer
from paceline.ids import Index, Slot, Term

__all__ = ["Leader", "many", "one"]


def one(sql: str, args: Any = (), **more: Any) -> WriteRequest:
    """A request of one statement."""
    return WriteRequest([(sql, args if isinstance(args, dict) else list(args))], "local", **more)


def many(*statements: str, **more: Any) -> WriteRequest:
    return WriteRequest([(sql, []) for sql in statements], "local", **more)


class Leader:
    """A writer on a fresh database; every ``run`` is the next group."""

    def __init__(self, path: str, *, monotonic: Callable[[], float] = time.monotonic, **options: Any) -> None:
        self.options = EngineOptions(**options)
        create_database(path, self.options)
        self.path = path
        self.index = 0
        self.time_s = 1_000
        self.committed = False
        self.monotonic = monotonic
        self.writer = self.open()

    def open(self) -> Writer:
        return Writer(
            self.path,
            options=self.options,
            cluster="c1",
            statements=Statements(),
            monotonic=self.monotonic,
        )

    def reign_again(self) -> None:
        self.writer.close()
        self.writer = self.open()

    def run(self, *requests: WriteRequest) -> list[Outcome]:
        slot = Slot(Term(1), Index(self.index + 1), bytes(16))
        group = Group(slot, list(requests), self.time_s * 1_000_000, lambda entry: None)
        outcomes, self.committed = self.writer.run(group)
        self.index += self.committed
        self.writer.hold(wait=False)
        assert len(outcomes) == len(requests)
        return outcomes

    def ok(self, *requests: WriteRequest) -> list[Outcome]:
        outcomes = self.run(*requests)
        assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)
        return outcomes

    def rows(self, sql: str) -> list[list[Any]]:
        (outcome,) = self.ok(one(sql))
        assert outcome.results is not None and outcome.results[0].rows is not None
        return outcome.results[0].rows

    def allow_pages(self, count: int) -> None:
        """Let the database grow by ``count`` pages, no further."""
        connection = self.writer.connection
        self.writer._auth.trusted = True
        connection.pragma("max_page_count", connection.pragma("page_count") + count)
        self.writer._auth.trusted = False

    def close(self) -> None:
        self.writer.close()
