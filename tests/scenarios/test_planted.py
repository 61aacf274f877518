"""A simulator that finds nothing proves nothing: bugs are planted into the shipped code, and must be found."""

from __future__ import annotations

import pytest

from paceline.sim.main import simulate
from paceline.sim.planted import PLANTED, planted

# Cannot show while only one configured node may lead; needs elections (authority ``auto``).
NEEDS_ELECTIONS = {"commits-older-terms"}
RARE = {
    "snapshot-without-position",
    "reports-whole-log",
    "verified-not-reset",
    "vote-forgotten",
    "checkpoint-too-early",
}


def first_violation(name: str, seeds: int) -> str | None:
    with planted(name):
        for seed in range(1, seeds + 1):
            result = simulate(seed)
            if result.violation is not None:
                return result.violation.rule
    return None


@pytest.mark.parametrize("name", sorted(PLANTED.keys() - RARE - NEEDS_ELECTIONS))
def test_planted_bug_is_found(name: str) -> None:
    assert first_violation(name, 60) is not None


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", sorted(RARE))
def test_rare_planted_bug_is_found(name: str) -> None:
    assert first_violation(name, 600) is not None


def test_the_canary_is_red() -> None:
    """If this ever finds nothing the checkers do not run at all: a log that never syncs."""
    with planted("log-not-synced"):
        assert [simulate(seed).violation is not None for seed in range(1, 6)] == [True] * 5


def test_without_a_plant_the_same_seeds_are_green() -> None:
    assert [simulate(seed).violation for seed in range(1, 6)] == [None] * 5
