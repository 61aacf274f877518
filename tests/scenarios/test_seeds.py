"""The simulator over seeds: those that once failed, a fixed range, and many more when there is time."""

from __future__ import annotations

from collections import Counter

import pytest
from saved import saved_seeds

from paceline.sim.main import Result, simulate

FRESH = range(10_000, 10_150)
NEVER_VACUOUS = (
    "acknowledged_is_durable",
    "applied_within_commit_and_durable",
    "commit_is_durable",
    "custody_before_removal",
    "equal_position_equal_database",
    "leader_read_is_committed",
    "one_vote_per_term",
    "report_is_durable",
    "same_index_same_chain",
    "session_never_goes_back",
    "state_equals_replay",
    "vote_is_durable",
)


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
    for seed in range(start, start + 50):
        result = simulate(seed)
        assert result.violation is None, explain(result)
        judged.update(result.checks)
    assert not [rule for rule in NEVER_VACUOUS if not judged[rule]]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_seeds() -> None:
    for seed in range(20_000, 21_500):
        result = simulate(seed)
        assert result.violation is None, explain(result)
