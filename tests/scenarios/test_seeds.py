"""The simulator over seeds: those that once failed, a fixed range, and many more when there is time."""

from __future__ import annotations

from collections import Counter

import pytest
from saved import saved_seeds

from paceline.sim.main import Result, options_of, simulate

FRESH = range(10_000, 10_100)
MANY = range(20_000, 20_700)
"""More than 500 of them with elections; the seed draws the authority."""
NEVER_VACUOUS = (
    "acknowledged_is_durable",
    "applied_within_commit_and_durable",
    "commit_is_durable",
    "commits_in_own_term",
    "exactly_once",
    "leader_has_committed",
    "custody_before_removal",
    "equal_position_equal_database",
    "leader_read_is_committed",
    "one_vote_per_term",
    "read_is_linearizable",
    "registers_are_linearizable",
    "report_is_durable",
    "same_index_same_chain",
    "session_never_goes_back",
    "state_equals_replay",
    "vote_is_durable",
    "vote_is_kept",
)
HAPPENS = ("elected", "installed", "lost", "power-cut", "rewound", "surplus-undone")
FAULTS = ("deaf", "isolate", "kill", "member", "mute", "partition", "stop", "switch", "wipe")


def explain(result: Result) -> str:
    return "\n".join([f"seed {result.seed}: {result.violation}", *result.tail[-30:]])


@pytest.mark.parametrize(("seed", "authority"), saved_seeds("seeds.txt"))
def test_seeds_that_once_failed(seed: int, authority: str | None) -> None:
    result = simulate(seed, authority=authority)
    assert result.violation is None, explain(result)


@pytest.mark.parametrize("start", range(FRESH.start, FRESH.stop, 50))
def test_fresh_seeds(start: int) -> None:
    """Also that no checker is silent: one that never judged anything in fifty runs would prove nothing."""
    judged: Counter[str] = Counter()
    happened: Counter[str] = Counter()
    for seed in range(start, start + 50):
        result = simulate(seed)
        assert result.violation is None, explain(result)
        judged.update(result.checks)
        happened.update(result.events)
        happened.update(result.faults)
    assert not [rule for rule in NEVER_VACUOUS if not judged[rule]]
    assert not [what for what in (*HAPPENS, *FAULTS) if not happened[what]]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("start", range(MANY.start, MANY.stop, 100))
def test_many_seeds(start: int) -> None:
    for seed in range(start, start + 100):
        result = simulate(seed)
        assert result.violation is None, explain(result)


def test_most_seeds_are_about_elections() -> None:
    assert sum(options_of(seed).authority == "auto" for seed in MANY) >= 500
