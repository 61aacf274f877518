"""Who holds how much of the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from paceline.ids import Index
from paceline.log.retention import RetentionDecision, RetentionFacts, decide_retention
from paceline.log.segment import SegmentInfo

HOUR = 3_600_000_000
SEGMENTS = [SegmentInfo(Index(10 * n + 1), Index(10 * n + 10), 1000, (n + 1) * HOUR) for n in range(5)]


def decide(
    followers: Mapping[str, int],
    *,
    database: int = 50,
    pins: Sequence[int] = (),
    bytes_max: int = 1 << 30,
    hours_max: int = 1000,
) -> RetentionDecision:
    return decide_retention(
        RetentionFacts(
            segments=SEGMENTS,
            database_durable=Index(database),
            followers={name: Index(index) for name, index in followers.items()},
            pins=[Index(pin) for pin in pins],
            now_us=5 * HOUR,
            bytes_max=bytes_max,
            seconds_max=hours_max * 3600,
        )
    )


def test_everything_but_the_current_segment_goes_when_all_have_it() -> None:
    assert decide({"b": 50, "c": 50}) == RetentionDecision(Index(40), [])
    assert decide({}) == RetentionDecision(Index(40), [])


def test_slowest_follower_holds_what_it_lacks() -> None:
    assert decide({"b": 50, "c": 25}) == RetentionDecision(Index(20), [])
    assert decide({"b": 50, "c": 30}) == RetentionDecision(Index(30), [])
    assert decide({"c": 0}) == RetentionDecision(Index(0), [])


def test_database_that_is_not_durable_holds_the_log_whatever_the_caps_say() -> None:
    assert decide({"b": 50}, database=12, bytes_max=1, hours_max=0) == RetentionDecision(Index(10), [])


def test_pin_holds_the_log_whatever_the_caps_say() -> None:
    assert decide({"b": 50}, pins=[45, 22], bytes_max=1, hours_max=0) == RetentionDecision(Index(20), [])


def test_follower_beyond_the_byte_cap_must_seed_itself_anew() -> None:
    assert decide({"b": 50, "c": 15, "d": 25}, bytes_max=3000) == RetentionDecision(Index(20), ["c"])
    assert decide({"b": 50, "c": 20}, bytes_max=3000) == RetentionDecision(Index(20), [])
    assert decide({"c": 1, "a": 2}, bytes_max=1) == RetentionDecision(Index(40), ["a", "c"])


def test_follower_beyond_the_time_cap_must_seed_itself_anew() -> None:
    assert decide({"b": 50, "c": 15}, hours_max=3) == RetentionDecision(Index(10), [])
    assert decide({"b": 50, "c": 5}, hours_max=3) == RetentionDecision(Index(40), ["c"])
    assert decide({"b": 50, "c": 15}, hours_max=2) == RetentionDecision(Index(40), ["c"])


def test_follower_is_not_sent_away_while_its_entries_are_held_anyway() -> None:
    assert decide({"c": 15}, database=15, bytes_max=1) == RetentionDecision(Index(10), [])
