"""One request over all its attempts, and what its end means.

Pure.  The question of this file: when an attempt goes wrong, may the request
be sent again, and if not, what is the honest answer?

    what happened                    reads, and writes with an id     writes without an id
    -------------------------------  -------------------------------  --------------------
    could not connect                again                            again
    connection broke after sending   again (the id makes it once)     OutcomeUnknown
    server: outcome unknown          again                            OutcomeUnknown
    server: not leader, unavailable  again                            again
    server: other refusal            raise it; but a write in doubt   raise it
                                     whose refusal is temporary: again
    time limit passed                OutcomeUnknown for a write that may have been sent,
                                     else the last reason

*In doubt* means that an earlier attempt was sent and its answer lost.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import count
from typing import Any, Final

from paceline.client import protocol
from paceline.client.results import ExecuteResult, QueryResult, Value
from paceline.errors import (
    NotLeader,
    OutcomeUnknown,
    PacelineError,
    ProtocolError,
    TimedOut,
    Unavailable,
    UsageError,
    from_wire,
)
from paceline.ids import COUNTED_SESSION_BYTES, counted_id
from paceline.limits import TIMEOUT_MS_DEFAULT, TIMEOUT_MS_MAX

__all__ = ["Call", "RequestIds", "Statement", "execute_message", "result_of", "timeout_of"]

Args = Sequence[Value] | dict[str, Value]
Statement = str | tuple[str] | tuple[str, Args]
"""SQL alone, or with its arguments: a sequence (``?``) or a dict (``:name``)."""

_AGAIN: Final = (Unavailable, NotLeader)
"""Exactly these classes: their subclasses (overloaded, stopped ...) are the application's to judge."""


class RequestIds:
    """Ids that no other client draws: counted ones, of a random session.  The counter lets a leader tell an id that it
    has forgotten from one that it never saw."""

    def __init__(self) -> None:
        self._session = os.urandom(COUNTED_SESSION_BYTES)
        self._counter = count(1)

    def next(self) -> bytes:
        return counted_id(self._session, next(self._counter))


class Call:
    """A request under way.  ``deadline`` is on the caller's monotonic clock."""

    __slots__ = ("deadline", "future", "in_doubt", "last_error", "message", "repeatable", "sent_at", "write")

    def __init__(self, message: Any, deadline: float, future: Any = None) -> None:
        self.message = message
        self.deadline = deadline
        self.future = future
        self.sent_at = 0.0
        self.in_doubt = False
        self.last_error: PacelineError | None = None
        kind = type(message)
        self.write = kind is protocol.Execute or kind is protocol.Admin
        self.repeatable = not self.write or (kind is protocol.Execute and message.request_id is not None)

    def lost(self, error: PacelineError) -> PacelineError | None:
        """The connection broke after this was sent.  Returns what to raise; None: send it again."""
        self.last_error = error
        if self.write:
            self.in_doubt = True
        return None if self.repeatable else self._unknown(error)

    def refused(self, error: PacelineError) -> PacelineError | None:
        """The server answered with an error.  Returns what to raise; None: send it again."""
        self.last_error = error
        if isinstance(error, OutcomeUnknown):
            self.in_doubt = True
            return None if self.repeatable else error
        if type(self.message) is protocol.Admin and not isinstance(error, NotLeader):
            return error  # an operator's action is never repeated: it may have happened in part
        if type(error) in _AGAIN or (self.in_doubt and isinstance(error, Unavailable)):
            return None
        return error

    def expired(self, *, sent: bool) -> PacelineError:
        """The time limit passed; ``sent``: an attempt is still without an answer."""
        if self.write and (self.in_doubt or sent):
            return self._unknown(self.last_error)
        return self.last_error or TimedOut("no answer within the time limit", hint="raise timeout_ms")

    def _unknown(self, reason: PacelineError | None) -> OutcomeUnknown:
        why = f": {reason.message}" if reason is not None else " within the time limit"
        if isinstance(reason, OutcomeUnknown):
            return reason
        hint = "the write may have happened; repeat it under the same request id, or look"
        return OutcomeUnknown(f"no answer to a write{why}", hint=hint)


def timeout_of(timeout_ms: int | None) -> int:
    """The time limit to use; raises ``UsageError``."""
    if timeout_ms is None:
        return TIMEOUT_MS_DEFAULT
    if not 1 <= timeout_ms <= TIMEOUT_MS_MAX:
        raise UsageError(f"timeout_ms={timeout_ms} is not between 1 and {TIMEOUT_MS_MAX}")
    return timeout_ms


def execute_message(
    statements: str | Sequence[Statement],
    durability: str | None,
    request_id: bytes | None,
    timeout_ms: int,
) -> protocol.Execute:
    """The message of a write; a lone text is one statement.  Raises ``UsageError``."""
    if isinstance(statements, str):
        statements = [statements]
    pairs: list[tuple[str, Any]] = []
    for statement in statements:
        if isinstance(statement, str):
            pairs.append((statement, ()))
        elif len(statement) == 2:
            pairs.append(statement)
        elif len(statement) == 1:
            pairs.append((statement[0], ()))
        else:
            raise UsageError(f"a statement is SQL or (SQL, args), not {len(statement)} things")
    return protocol.Execute(0, pairs, durability, request_id, timeout_ms)


def result_of(reply: protocol.Reply) -> Any:
    """What the caller gets for a reply; a ``PacelineError`` is returned, not raised."""
    if type(reply) is protocol.Written:
        if reply.error is not None:
            return from_wire(reply.error)
        return ExecuteResult(reply.results, reply.receipt, reply.repeated_at)
    if type(reply) is protocol.Rows:
        return QueryResult(
            reply.columns, reply.types, reply.rows, reply.position, reply.leader, reply.term, reply.node
        )
    if type(reply) is protocol.Info:
        return reply.info
    if type(reply) is protocol.Failure:
        return from_wire(reply.error)
    if type(reply) is protocol.Pong:
        return None
    return ProtocolError(f"an unexpected {type(reply).__name__} came as a reply")
