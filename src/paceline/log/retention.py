"""How much log to keep: facts in, a decision out.  Pure.

Three kinds of holders keep entries:

- The node itself needs everything after its *database-durable* index (what is
  applied may still vanish in a power cut), and every pin (a snapshot transfer
  in progress) everything after its position.  These are never overridden; a
  pin has a time limit of its own.
- Followers, slots and publications need everything after what they have.  They
  hold entries only up to a cap in bytes and in time; one that needs older
  entries is told to seed itself anew, so that the leader's disk never fills
  for it.

Only whole segments are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from paceline.ids import Index
from paceline.log.segment import SegmentInfo

__all__ = ["RetentionDecision", "RetentionFacts", "decide_retention"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionFacts:
    """``followers``: name to the last index that it holds durably; ``pins``: the last index that each has."""

    segments: Sequence[SegmentInfo]
    database_durable: Index
    followers: Mapping[str, Index]
    pins: Sequence[Index]
    now_us: int
    bytes_max: int
    seconds_max: int


@dataclass(frozen=True, slots=True)
class RetentionDecision:
    """Give ``drop_before`` to ``Log.drop_before``; ``reseed`` names whoever needs an entry that goes."""

    drop_before: Index
    reseed: list[str]


def decide_retention(facts: RetentionFacts) -> RetentionDecision:
    needed = min((facts.database_durable, *facts.pins))
    over_cap = min(_over_cap(facts), needed)
    reseed = sorted(name for name, index in facts.followers.items() if index < over_cap)
    holding = [index for name, index in facts.followers.items() if index >= over_cap]
    wished = min((needed, *holding))
    ends = [segment.last for segment in facts.segments[:-1] if segment.last <= wished]
    return RetentionDecision(ends[-1] if ends else Index(0), reseed)


def _over_cap(facts: RetentionFacts) -> Index:
    """The last index that the caps no longer protect: segments are kept while they fit and are young."""
    kept_bytes = 0
    oldest_us = facts.now_us - facts.seconds_max * 1_000_000
    for number in range(len(facts.segments) - 1, -1, -1):
        segment = facts.segments[number]
        kept_bytes += segment.bytes
        being_written = number == len(facts.segments) - 1
        if not being_written and (kept_bytes > facts.bytes_max or segment.newest_us < oldest_us):
            return segment.last
    return Index(0)
