"""Every operating error of Paceline.

    PacelineError
    ├── UsageError                 the request or the configuration is wrong; change it
    ├── SqlError                   SQLite refused a statement (carries code, extended code, message)
    ├── Unavailable                try again, perhaps elsewhere
    │   ├── NotLeader              (knows the leader when anybody does)
    │   ├── NoQuorum               not enough nodes reachable for what was asked
    │   ├── TimedOut               the time limit of the request passed
    │   ├── WritesStopped          an operator stopped writes
    │   ├── DiskFull               no space for the log or the database
    │   └── Overloaded             a queue is full
    ├── Rejected                   this request will never be accepted
    │   ├── Forbidden              SQL that the cluster fences off
    │   └── TooLarge               over a limit of ``limits.py``
    ├── OutcomeUnknown             the write may or may not have happened
    ├── TokenLost                  the history of a session token is gone
    ├── RequestExpired             a repeated request is older than the memory of request ids
    ├── ProtocolError              bytes from a peer or client that are not the protocol
    ├── AppendFailed               the disk failed under the database: its files are in an unknown state, end the process
    └── Corruption                 bytes on disk or wire that fail their checks
        ├── BadEntry               a log record
        ├── HashMismatch           a page
        ├── Diverged               this copy does not continue the leader's history
        ├── LogFailed              a write or sync of the log failed: fatal for the node, never retried
        └── VoteLost               the vote file is missing or damaged: the node must not vote

Two kinds of error exist and never mix: operating errors (this tree, with a
hint for the operator) and programmer errors (``AssertionError``: the node
stops).  ``retryable`` tells a client whether the same request may be sent
again without thought; ``hint`` says what to do.
"""

from __future__ import annotations

__all__ = [
    "AppendFailed",
    "BadEntry",
    "Corruption",
    "DiskFull",
    "Diverged",
    "Forbidden",
    "HashMismatch",
    "LogFailed",
    "NoQuorum",
    "NotLeader",
    "OutcomeUnknown",
    "Overloaded",
    "PacelineError",
    "ProtocolError",
    "Rejected",
    "RequestExpired",
    "SqlError",
    "TimedOut",
    "TokenLost",
    "TooLarge",
    "Unavailable",
    "UsageError",
    "VoteLost",
    "WritesStopped",
    "from_wire",
    "to_wire",
]


class PacelineError(Exception):
    """Base of all operating errors.  ``hint`` tells the operator what to do next."""

    retryable = False
    http_status = 500

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(PacelineError):
    http_status = 400


class SqlError(PacelineError):
    """SQLite's own verdict: ``code`` (primary), ``extended`` code and ``name`` such as SQLITE_CONSTRAINT_UNIQUE."""

    http_status = 400

    def __init__(
        self,
        message: str,
        *,
        code: int,
        extended: int,
        name: str,
        statement: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.extended = extended
        self.name = name
        self.statement = statement


class Unavailable(PacelineError):
    retryable = True
    http_status = 503


class NotLeader(Unavailable):
    def __init__(self, message: str, *, leader: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.leader = leader


class NoQuorum(Unavailable):
    pass


class TimedOut(Unavailable):
    http_status = 504


class WritesStopped(Unavailable):
    pass


class DiskFull(Unavailable):
    http_status = 507


class Overloaded(Unavailable):
    http_status = 429


class Rejected(PacelineError):
    http_status = 400


class Forbidden(Rejected):
    http_status = 403


class TooLarge(Rejected):
    http_status = 413


class OutcomeUnknown(PacelineError):
    http_status = 504


class TokenLost(PacelineError):
    http_status = 409


class RequestExpired(PacelineError):
    """A repeated request is older than the memory of request ids: nobody knows whether it was applied; it is not now."""

    http_status = 409


class ProtocolError(PacelineError):
    http_status = 400


class Corruption(PacelineError):
    pass


class BadEntry(Corruption):
    pass


class HashMismatch(Corruption):
    pass


class AppendFailed(PacelineError):
    """Fatal for the node: only a restart, and SQLite's own recovery, brings the database back to a known state."""


class Diverged(Corruption):
    pass


class LogFailed(Corruption):
    pass


class VoteLost(Corruption):
    pass


def _tree(root: type[PacelineError]) -> dict[str, type[PacelineError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


def to_wire(error: PacelineError) -> dict[str, object]:
    """The one JSON/msgpack shape of an error, for every protocol: ``{"kind", "message", "retryable", ...}``."""
    shape: dict[str, object] = {
        "kind": type(error).__name__,
        "message": error.message,
        "retryable": error.retryable,
    }
    if error.hint:
        shape["hint"] = error.hint
    if isinstance(error, SqlError):
        shape["sqlite"] = {"code": error.code, "extended": error.extended, "name": error.name}
        if error.statement is not None:
            shape["statement"] = error.statement
    if isinstance(error, NotLeader):
        shape["leader"] = error.leader
    return shape


def from_wire(shape: dict[str, object]) -> PacelineError:
    """Rebuild the error a server sent; an unknown kind becomes a plain :class:`PacelineError`."""
    kind = _tree(PacelineError).get(str(shape.get("kind")), PacelineError)
    message = str(shape.get("message", "unknown error"))
    hint = shape.get("hint")
    text = str(hint) if hint is not None else None
    if kind is SqlError:
        sqlite = shape.get("sqlite")
        detail = sqlite if isinstance(sqlite, dict) else {}
        statement = shape.get("statement")
        return SqlError(
            message,
            code=int(detail.get("code", 1)),
            extended=int(detail.get("extended", 1)),
            name=str(detail.get("name", "SQLITE_ERROR")),
            statement=statement if isinstance(statement, int) else None,
            hint=text,
        )
    if kind is NotLeader:
        leader = shape.get("leader")
        return NotLeader(message, leader=str(leader) if leader is not None else None, hint=text)
    return kind(message, hint=text)
