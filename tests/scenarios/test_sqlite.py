"""The shipped SQLite engine in the simulator: real SQLite on a simulated disk.  Ten times slower than the small engine."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from saved import saved_seeds

from paceline.sim.main import Result, simulate

FRESH = range(30_002, 30_042)
NEVER_VACUOUS = (
    "acknowledged_is_durable",
    "applied_within_commit_and_durable",
    "commit_is_durable",
    "equal_position_equal_database",
    "leader_read_is_committed",
    "same_index_same_chain",
    "session_never_goes_back",
    "state_equals_replay",
)
HAPPENS = ("installed", "power-cut", "surplus-undone")
REPLAYED = (30_001, 30_002, 30_007)
PROGRAM = (
    "from paceline.sim.main import simulate; "
    f"print([simulate(s, engine='sqlite').digest for s in {REPLAYED}])"
)


def run(seed: int, authority: str | None = None) -> Result:
    result = simulate(seed, engine="sqlite", authority=authority)
    assert result.violation is None, "\n".join([f"seed {seed}: {result.violation}", *result.tail[-30:]])
    return result


@pytest.mark.parametrize(("seed", "authority"), saved_seeds("seeds-sqlite.txt"))
def test_seeds_that_once_failed(seed: int, authority: str | None) -> None:
    run(seed, authority)


def test_fresh_seeds() -> None:
    """Also that no checker is silent, and that what only this engine can get wrong happens."""
    judged: Counter[str] = Counter()
    events: Counter[str] = Counter()
    for seed in FRESH:
        result = run(seed)
        judged.update(result.checks)
        events.update(result.events)
    assert not [rule for rule in NEVER_VACUOUS if not judged[rule]]
    assert not [event for event in HAPPENS if not events[event]]


def test_trace_does_not_depend_on_the_process() -> None:
    """SQLite's salts, file names and the hash seed differ in each; the run is the same."""
    outputs = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert outputs == {f"{[simulate(seed, engine='sqlite').digest for seed in REPLAYED]}\n"}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("start", range(40_000, 40_200, 50))
def test_many_seeds(start: int) -> None:
    for seed in range(start, start + 50):
        run(seed)
