"""The sender's side of one transfer, without I/O of its own.

It owns the conversation over one pinned image: what to offer, how to answer a
range, when everything was asked for.  ``answer`` reads and compresses up to
one range (some milliseconds) and belongs in a worker thread; it is called for
one message at a time.

The digest falls out on the way: ranges come in order, so the hashes of the
units are fed to it as they are read, and the image is read only once.
"""

from __future__ import annotations

from paceline.engines.base import UNIT_HASH_BYTES, Pin, UnitsDigest, unit_hash
from paceline.errors import ProtocolError
from paceline.ids import Position
from paceline.snapshot.delta import encode_units
from paceline.snapshot.messages import (
    SNAPSHOT_VERSION,
    RangeHashes,
    RangeUnits,
    SnapshotDone,
    SnapshotOffer,
    SnapshotRequest,
)
from paceline.snapshot.shape import Range, Shape

__all__ = ["SendingSession"]


class SendingSession:
    def __init__(
        self, request: SnapshotRequest, pin: Pin, *, position: Position, config: bytes, snapshot: str
    ) -> None:
        if request.version < 1:
            raise ProtocolError(f"snapshot version {request.version} does not exist")
        self._pin = pin
        self._shape = Shape(pin.unit_bytes, pin.unit_count)
        self._position = position
        self._digest = UnitsDigest(pin.unit_bytes, pin.unit_count)
        self._next = 1
        self.offer = SnapshotOffer(
            version=min(request.version, SNAPSHOT_VERSION),
            snapshot=snapshot,
            position=str(position),
            database=pin.position,
            unit_bytes=pin.unit_bytes,
            unit_count=pin.unit_count,
            config=config,
        )

    @property
    def complete(self) -> bool:
        """True when every unit was asked for and answered."""
        return self._next > self._shape.unit_count

    def answer(self, asked: RangeHashes) -> RangeUnits:
        """Read the range and encode what differs.  Blocking.  Only the next range may be asked for."""
        if self.complete or Range(asked.first, asked.count) != self._shape.range_at(self._next):
            raise ProtocolError(f"units {asked.first}+{asked.count} are not the next range (at {self._next})")
        if len(asked.hashes) not in (0, asked.count * UNIT_HASH_BYTES):
            raise ProtocolError(f"{len(asked.hashes)} bytes are not the hashes of {asked.count} units")
        units = self._pin.read(asked.first, asked.count)
        assert len(units) == asked.count
        hashes = b"".join(map(unit_hash, units))
        which, blob = encode_units(units, hashes, asked.hashes)
        self._digest.update(hashes)
        self._next += asked.count
        return RangeUnits(asked.first, asked.count, which, blob)

    def done(self) -> SnapshotDone:
        """The last message.  To be sent only when the position is committed."""
        assert self.complete
        return SnapshotDone(self._digest.value, str(self._position))
