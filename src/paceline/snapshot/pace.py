"""Pace of a transfer: the sender's rate limit and the receiver's progress.

Pure: time is an argument, in seconds of any monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["Meter", "Progress", "TokenBucket"]

_WINDOW_SECONDS: Final = 1.0


class TokenBucket:
    """At most ``rate`` bytes a second, with bursts of a quarter of a second; 0 is no limit.

    Spending may overdraw the bucket; whoever spends then waits until it is level again.
    So several sessions may share one bucket.
    """

    def __init__(self, rate: int) -> None:
        assert rate >= 0
        self._rate = rate
        self._burst = rate / 4
        self._level = self._burst
        self._at: float | None = None

    @property
    def slice_bytes(self) -> int | None:
        """What to spend at once, so that a wait is at most about a quarter of a second; None: all."""
        return max(1, self._rate // 4) if self._rate else None

    def spend(self, size: int, now: float) -> float:
        """Take ``size`` bytes; returns the seconds to wait before going on."""
        if not self._rate:
            return 0.0
        elapsed = now - self._at if self._at is not None else 0.0
        self._at = now
        self._level = min(self._burst, self._level + elapsed * self._rate) - size
        return max(0.0, -self._level / self._rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a transfer is, for a progress bar and for status.

    ``bytes_done`` counts the image (units that were equal included);
    ``bytes_per_second`` is its present speed.  ``attempt`` counts connections from 1;
    ``trouble`` says why the last one broke, None while one works.
    """

    bytes_done: int
    units_done: int
    units_total: int
    units_equal: int
    units_received: int
    bytes_per_second: float
    attempt: int
    trouble: str | None


class Meter:
    """Speed over the last second or so."""

    def __init__(self, now: float) -> None:
        self._since = now
        self._total = 0
        self._speed = 0.0

    def add(self, size: int, now: float) -> float:
        """Count ``size`` bytes; returns the present bytes a second."""
        self._total += size
        elapsed = now - self._since
        if elapsed >= _WINDOW_SECONDS:
            self._speed = self._total / elapsed
            self._since, self._total = now, 0
        elif self._speed == 0.0 and elapsed > 0:
            return self._total / elapsed
        return self._speed
