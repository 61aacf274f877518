"""The decision table: complete, without dead rules, and never cutting what was durable."""

from __future__ import annotations

from itertools import product

import pytest

from paceline.log.recovery import RULES, Action, Facts, Header, Link, Place, decide
from paceline.log.scan import Ending

ALL = [
    Facts(header=header, place=place, link=link, ending=ending)
    for header, place, link, ending in product(Header, Place, Link, Ending)
]


def test_table_decides_every_combination_of_facts() -> None:
    assert len(ALL) == 6 * 4 * 6 * 7
    for facts in ALL:
        assert decide(facts) in RULES


def test_every_rule_is_needed() -> None:
    assert {RULES.index(decide(facts)) for facts in ALL} == set(range(len(RULES)))


def test_only_the_torn_end_of_the_last_segment_is_cut() -> None:
    cut = [facts for facts in ALL if decide(facts).action is Action.CUT]
    assert cut
    for facts in cut:
        assert facts.place.is_end
        assert facts.header is Header.GOOD
        assert facts.link in (Link.FIRST, Link.CONTINUES, Link.UNKNOWN)
        assert facts.ending in (Ending.TORN, Ending.TORN_WRITE)


def test_only_a_good_header_and_whole_records_are_kept() -> None:
    for facts in ALL:
        if decide(facts).action is Action.KEEP:
            assert facts.header is Header.GOOD
            assert facts.ending is Ending.WHOLE
            assert facts.link not in (Link.GAP, Link.OVERLAP, Link.FORKED)


def test_only_leftovers_of_a_reset_and_unfinished_last_segments_are_removed() -> None:
    for facts in ALL:
        if decide(facts).action is Action.REMOVE:
            unfinished = facts.header is Header.UNFINISHED and facts.place is Place.LAST
            assert facts.place is Place.STALE or unfinished


@pytest.mark.parametrize(
    "rule", [rule for rule in RULES if rule.action is Action.REFUSE], ids=lambda r: r.why
)
def test_every_refusal_says_what_to_do(rule: object) -> None:
    assert len(rule.todo) > 20  # type: ignore[attr-defined]
