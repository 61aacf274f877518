"""The receiver's side of one transfer: what to ask for, what to do with the answers.

No socket and no clock.  ``ask``, ``take`` and ``finish`` read, hash and write
up to one range and belong in a worker thread, one call at a time.  Several
ranges are in flight so that the connection never runs dry; answers come in
the order of the questions, so matching them is a queue.

Nothing here trusts the sender with the result: the digest is computed again
from the bytes of the target after they are durable.
"""

from __future__ import annotations

from collections import deque

from paceline.errors import Corruption, ProtocolError
from paceline.ids import Position
from paceline.limits import SNAPSHOT_RANGES_INFLIGHT
from paceline.snapshot.delta import decode_units
from paceline.snapshot.messages import (
    SNAPSHOT_VERSION,
    RangeHashes,
    RangeUnits,
    SnapshotDone,
    SnapshotOffer,
)
from paceline.snapshot.shape import Range, Shape
from paceline.snapshot.target import Target, digest_of

__all__ = ["ReceivingSession"]


class ReceivingSession:
    def __init__(self, offer: SnapshotOffer, target: Target) -> None:
        if not 1 <= offer.version <= SNAPSHOT_VERSION:
            raise ProtocolError(
                f"snapshot version {offer.version} is not known here", hint="upgrade this node first"
            )
        try:
            self.position = Position.parse(offer.position)
        except ValueError as error:
            raise ProtocolError(f"bad snapshot offer: {error}") from None
        self.offer = offer
        self.shape = Shape(offer.unit_bytes, offer.unit_count)
        self.units_received = 0
        self.units_done = 0
        self._target = target
        self._next = 1
        self._asked: deque[Range] = deque()

    def begin(self) -> None:
        self._target.begin(self.shape)

    @property
    def may_ask(self) -> bool:
        return self._next <= self.shape.unit_count and len(self._asked) < SNAPSHOT_RANGES_INFLIGHT

    @property
    def complete(self) -> bool:
        return self.units_done == self.shape.unit_count

    def ask(self) -> RangeHashes:
        """The next question.  Blocking: hashes what is here."""
        assert self.may_ask
        part = self.shape.range_at(self._next)
        hashes = self._target.hashes(part)
        self._asked.append(part)
        self._next += part.count
        return RangeHashes(part.first, part.count, hashes)

    def take(self, units: RangeUnits) -> None:
        """Put an answer into the target.  Blocking."""
        if not self._asked or self._asked[0] != Range(units.first, units.count):
            raise ProtocolError(f"units {units.first}+{units.count} were not asked for, or not now")
        differing = decode_units(units.first, units.count, self.shape.unit_bytes, units.which, units.blob)
        self._target.write(differing)
        self._asked.popleft()
        self.units_received += len(differing)
        self.units_done += units.count

    def finish(self, done: SnapshotDone) -> bytes:
        """Make the target durable and prove it; returns the digest.  Blocking."""
        if not self.complete or done.position != self.offer.position:
            raise ProtocolError("the snapshot ended before it was complete")
        self._target.finish()
        digest = digest_of(self._target, self.shape)
        if digest != done.digest:
            raise Corruption(
                f"the snapshot at {self.position.short} does not have the digest that its sender computed",
                hint="repeat the transfer: only what is wrong is sent again",
            )
        return digest
