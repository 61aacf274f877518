"""What a client gets back: plain values, the same shapes on the wire and in Python.

Nothing here knows sockets.  Field names equal those of the HTTP API, so that
one page of documentation serves both.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["ExecuteResult", "QueryResult", "Receipt", "StatementResult", "Value"]

Value = None | int | float | str | bytes
"""SQLite's storage classes."""


class Receipt(msgspec.Struct, omit_defaults=True):
    """Proof of a write: where it stands in history, and the durability really reached.

    ``position`` is a session token.  ``durable_on``/``applied_on`` name the
    nodes known to have it when the answer left.  ``asked`` is set when the cluster
    degrades: the level that was asked for and could not be reached in time.
    """

    position: str
    term: int
    index: int
    durability: str
    durable_on: list[str]
    applied_on: list[str]
    leader: str
    asked: str | None = None


class StatementResult(msgspec.Struct, omit_defaults=True, gc=False):
    """One statement's effect; ``columns``/``rows`` only when it returns rows."""

    last_insert_rowid: int = 0
    rows_affected: int = 0
    columns: list[str] | None = None
    rows: list[list[Any]] | None = None


class ExecuteResult(msgspec.Struct, gc=False):
    """A write's answer.

    ``repeated_at`` is set when the request id had been applied before, at that
    index; ``results`` are the first run's then, and None when those were too
    large to keep.
    """

    results: list[StatementResult] | None
    receipt: Receipt | None
    repeated_at: int | None = None


class QueryResult(msgspec.Struct, gc=False):
    """A read's answer.  ``position`` (a session token) is None before the first write of a cluster."""

    columns: list[str]
    types: list[str | None]
    rows: list[list[Any]]
    position: str | None
    leader: str | None
    term: int
    node: str
