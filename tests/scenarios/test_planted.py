"""A simulator that finds nothing proves nothing: bugs are planted into the shipped code, and must be found."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from paceline.sim.main import simulate
from paceline.sim.planted import PLANTED, planted, search

SEEDS = range(1, 301)
QUICK = sorted(name for name, bug in PLANTED.items() if bug.engine == "memory" and not bug.rare)
SLOW = sorted(PLANTED.keys() - set(QUICK))
THE_TEN = ("18", "19", "23/24", "33", "49/51/53", "60/61", "71", "84", "85", "87")
"""Those of the catalogue that hit a segmented log, execute-first, SQLite and rewinds."""


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", QUICK)
def test_planted_bug_is_found(name: str) -> None:
    assert search(name, SEEDS) is not None


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SLOW)
def test_rare_planted_bug_is_found(name: str) -> None:
    assert search(name, SEEDS) is not None


def test_the_canary_is_red() -> None:
    """If this ever finds nothing the checkers do not run at all: a log that never syncs."""
    with planted("log-not-synced"):
        assert [simulate(seed).violation is not None for seed in range(1, 6)] == [True] * 5


@pytest.mark.parametrize(
    "name", ["follower-acks-before-sync", "commits-older-terms", "snapshot-without-position"]
)
def test_without_a_plant_the_same_runs_are_green(name: str) -> None:
    bug = PLANTED[name]
    for seed in range(1, 6):
        assert simulate(seed, authority=bug.authority, directed=bug.directed).violation is None


def test_every_bug_cites_one_that_a_system_had() -> None:
    assert len(PLANTED) >= 20
    numbers = {bug.cites.split()[0] for bug in PLANTED.values()}
    assert all(re.fullmatch(r"\d+ \(.+\)", bug.cites) for bug in PLANTED.values())
    assert not [which for which in THE_TEN if not numbers & set(which.split("/"))]


def test_the_documentation_lists_every_planted_bug() -> None:
    page = (Path(__file__).parents[2] / "docs" / "simulation.md").read_text()
    missing = [name for name, bug in PLANTED.items() if f"| `{name}` | {bug.cites} |" not in page]
    assert not missing
