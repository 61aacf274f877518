"""The same seed is the same run: twice in a process, and under another hash seed."""

from __future__ import annotations

import subprocess
import sys

from paceline.sim.main import options_of, run, simulate

SEEDS = (3, 5, 11)
PROGRAM = f"from paceline.sim.main import simulate; print([simulate(s).digest for s in {SEEDS}])"


def test_seed_replays_exactly() -> None:
    first = [simulate(seed).digest for seed in SEEDS]
    assert first == [simulate(seed).digest for seed in SEEDS]
    assert len(set(first)) == len(SEEDS)


def test_trace_does_not_depend_on_the_hash_seed() -> None:
    outputs = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0].strip() == str([simulate(seed).digest for seed in SEEDS])


def test_options_are_printed_before_the_run(capsys: object) -> None:
    assert run([3]) == 0
    text = capsys.readouterr().out  # type: ignore[attr-defined]
    assert text.index("authority:") < text.index("entries committed")
    assert simulate(3).digest in text


def test_violation_gives_exit_code_one_and_the_replay_command(capsys: object) -> None:
    from paceline.sim.planted import planted

    with planted("log-not-synced"):
        assert run([1]) == 1
    text = capsys.readouterr().out  # type: ignore[attr-defined]
    assert "broken: commit_is_durable" in text
    assert "paceline sim --engine memory --seed 1" in text


def test_different_seeds_are_about_different_things() -> None:
    faults = {options_of(seed).faults for seed in range(40)}
    assert len(faults) > 30
