"""The shape of an image: how many units of which size, and the ranges they travel in.

Units are numbered from 1.  A range is at most ``SNAPSHOT_RANGE_PAGES`` units
and about ``SNAPSHOT_RANGE_BYTES`` raw bytes, so one range in memory is bounded
whatever the unit size; both sides derive the same limit from the shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from paceline.errors import ProtocolError
from paceline.limits import (
    SNAPSHOT_RANGE_BYTES,
    SNAPSHOT_RANGE_PAGES,
    SNAPSHOT_UNIT_BYTES_MAX,
    SNAPSHOT_UNITS_MAX,
)

__all__ = ["Range", "Shape"]


@dataclass(frozen=True, slots=True)
class Range:
    """``count`` units from ``first`` on."""

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Shape:
    unit_bytes: int
    unit_count: int

    def __post_init__(self) -> None:
        if not 1 <= self.unit_bytes <= SNAPSHOT_UNIT_BYTES_MAX:
            raise ProtocolError(f"units of {self.unit_bytes} bytes are not possible")
        if not 0 <= self.unit_count <= SNAPSHOT_UNITS_MAX:
            raise ProtocolError(f"an image of {self.unit_count} units is not possible")

    @property
    def total_bytes(self) -> int:
        return self.unit_bytes * self.unit_count

    @property
    def range_units(self) -> int:
        """Units in a full range."""
        return max(1, min(SNAPSHOT_RANGE_PAGES, SNAPSHOT_RANGE_BYTES // self.unit_bytes))

    def range_at(self, first: int) -> Range:
        """The range that starts at ``first``; the last one of the image is shorter."""
        assert 1 <= first <= self.unit_count
        return Range(first, min(self.range_units, self.unit_count - first + 1))

    def ranges(self) -> Iterator[Range]:
        first = 1
        while first <= self.unit_count:
            part = self.range_at(first)
            yield part
            first += part.count
