"""What a node answers: receipts and replies, shared by every protocol."""

from __future__ import annotations

import msgspec

from paceline.engines.base import Outcome, QueryResult

__all__ = ["QueryReply", "Receipt", "WriteReply"]


class Receipt(msgspec.Struct, gc=False, omit_defaults=True):
    """Proof of a write: where it stands, which durability was really reached, and on which nodes.

    ``durable_on``/``applied_on`` are what the leader knew when it answered.
    """

    position: str
    term: int
    index: int
    durability: str
    durable_on: list[str]
    applied_on: list[str]
    leader: str
    asked: str | None = None
    """The level that was asked for and not reached in time, when the cluster degrades."""


class WriteReply(msgspec.Struct, gc=False):
    """``outcome.error`` is set when SQLite or a limit refused the request; ``receipt`` then proves that nothing changed."""

    outcome: Outcome
    receipt: Receipt | None


class QueryReply(msgspec.Struct, gc=False):
    """``position`` is the end of the history that the read saw: a session token."""

    result: QueryResult
    position: str | None
    leader: str | None
    term: int
    node: str
