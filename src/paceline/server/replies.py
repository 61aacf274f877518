"""Turns the service's answers into frames of the native protocol.

The engine's results travel as they are: their msgspec structs encode to the
shapes that ``client.results`` decodes, so nothing is copied.  Requests of one
group share one ``Receipt`` object; its encoding is kept until another comes.
"""

from __future__ import annotations

from typing import Any

import msgspec

from paceline.client import protocol
from paceline.engines.base import StatementResult
from paceline.errors import PacelineError, to_wire
from paceline.server.service import QueryReply, Receipt, Service, WriteReply

__all__ = ["Replies"]


class _Written(protocol.Message, tag=1):
    """``protocol.Written`` with the engine's types."""

    number: int
    results: list[StatementResult] | None
    error: dict[str, Any] | None
    repeated_at: int | None
    receipt: msgspec.Raw | None


class Replies:
    """One per server: the cache of the last receipt is shared by its connections."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._encode = msgspec.msgpack.Encoder().encode
        self._cluster = ""
        self._receipt: Receipt | None = None
        self._receipt_bytes = msgspec.Raw(b"")

    def written(self, number: int, reply: WriteReply) -> bytes:
        outcome, receipt = reply.outcome, reply.receipt
        raw: msgspec.Raw | None = None
        if receipt is not None:
            if receipt is not self._receipt:
                self._receipt_bytes = msgspec.Raw(self._encode(receipt))
                self._receipt = receipt
            raw = self._receipt_bytes
        error = outcome.error
        return protocol.encode_frame(
            _Written(
                number,
                outcome.results,
                None if error is None else to_wire(error),
                outcome.repeated_at,
                raw,
            )
        )

    def rows(self, number: int, reply: QueryReply) -> bytes:
        result = reply.result
        return protocol.encode_frame(
            protocol.Rows(
                number,
                result.columns,
                result.types,
                result.rows,
                reply.position,
                reply.leader,
                reply.term,
                reply.node,
            )
        )

    def failure(self, number: int | None, error: PacelineError) -> bytes:
        leader, term, address = self.leader()
        return protocol.encode_frame(protocol.Failure(number, to_wire(error), leader, term, address))

    def welcome(self, version: int) -> bytes:
        leader, term, address = self.leader()
        if (
            not self._cluster
        ):  # a whole status is much for a greeting, and clients come all at once after a failover
            self._cluster = str(self._service.status().get("cluster", ""))
        return protocol.encode_frame(
            protocol.Welcome(version, self._service.name, self._cluster, leader, term, address)
        )

    def leader(self) -> tuple[str | None, int, str | None]:
        """Name, term and native address of the leader."""
        name, term, where = self._service.leader()
        address = where.get("address") if where else None
        return name, term, None if address is None else str(address)
