"""What the servers need from the node: the contract that the node's runtime implements.

The servers translate protocols and nothing else.  They never decide who leads,
what is durable or what may be read; they hand a request to the ``Service`` and
its answer to the client.  Everything here is called on the event loop's thread.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from paceline.engines.base import Value, WriteRequest
from paceline.errors import PacelineError
from paceline.node.replies import QueryReply, Receipt, WriteReply

__all__ = ["EventStream", "QueryReply", "Receipt", "Service", "WriteReply"]


class EventStream(Protocol):
    """Events as they happen: ``{"event": "role" | "leader" | "membership" | "position" | "log" ..., ...}``.

    The queue behind it is bounded: a slow consumer is dropped with a last event that says so.
    """

    def __aiter__(self) -> AsyncIterator[dict[str, Any]]: ...

    def close(self) -> None: ...


class Service(Protocol):
    name: str
    """This node's name."""

    def submit(
        self,
        request: WriteRequest,
        timeout_ms: int,
        done: Callable[[WriteReply | PacelineError], None],
    ) -> None:
        """Run a write here or on the leader.  ``done`` is called exactly once, on the loop.

        ``request.durability`` is ``""`` for the cluster's default.
        """
        ...

    async def query(
        self,
        sql: str,
        args: list[Value] | dict[str, Value],
        *,
        read: str,
        token: str | None,
        timeout_ms: int,
    ) -> QueryReply:
        """``read``: local, session, leader, linearizable or ``bounded MS``, checked.  Raises ``PacelineError``."""
        ...

    def status(self) -> dict[str, Any]:
        """JSON-able; has ``cluster`` and ``ready`` (knows a leader and has caught up)."""
        ...

    def leader(self) -> tuple[str | None, int, dict[str, Any] | None]:
        """Name, term, and ``{"address": ..., "http": ...}`` of the leader."""
        ...

    def subscribe(self) -> EventStream: ...

    async def outcome(self, position: str) -> dict[str, Any]:
        """What became of the write at ``position``: ``{"outcome": "committed" | "pending" | "lost" | "unknown", ...}``."""
        ...

    async def admin(self, op: str, params: dict[str, Any]) -> dict[str, Any]:
        """``node_remove``, ``writes_stop``, ``verify``, ``switch``, ``lost_list`` ...  Raises ``PacelineError``."""
        ...
