"""The linearizability checker against a search that tries every order."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from paceline.sim.histories import History, Ledger, Op, unexplained


def explained_by_search(ops: list[Op]) -> bool:
    """Wing and Gong: any order that respects real time and gives every read the latest write.

    Unknown writes may be left out.
    """
    unknown = [op for op in ops if op.write and op.ended == math.inf]
    for count in range(len(unknown) + 1):
        for left_out in itertools.combinations(unknown, count):
            if _order(tuple(op for op in ops if op not in left_out), None):
                return True
    return False


def _order(rest: tuple[Op, ...], value: str | None) -> bool:
    if not rest:
        return True
    for op in rest:
        others = tuple(other for other in rest if other is not op)
        if any(other.ended < op.began for other in others):
            continue
        if (op.write or op.value == value) and _order(others, op.value):
            return True
    return False


def random_history(rng: random.Random) -> list[Op]:
    """Mostly nearly right: reads of what was written about then."""
    times = rng.sample(range(100), 12)
    ops: list[Op] = []
    for number in range(rng.randint(1, 3)):
        began, ended = sorted(times[2 * number : 2 * number + 2])
        ops.append(Op(True, f"v{number}", began, math.inf if rng.random() < 0.3 else ended))
    for number in range(3, 3 + rng.randint(1, 3)):
        began, ended = sorted(times[2 * number : 2 * number + 2])
        ops.append(Op(False, rng.choice([None, *(op.value for op in ops if op.write)]), began, ended))
    return ops


def test_checker_agrees_with_the_search() -> None:
    verdicts = {True: 0, False: 0}
    for seed in range(3_000):
        ops = random_history(random.Random(seed))
        wanted = explained_by_search(ops)
        assert (unexplained(ops) is None) == wanted, (seed, ops)
        verdicts[wanted] += 1
    assert min(verdicts.values()) > 300


def test_stale_read_is_named() -> None:
    ops = [Op(True, "a", 0, 1), Op(True, "b", 2, 3), Op(False, "a", 4, 5)]
    assert unexplained(ops) is not None
    assert unexplained([ops[0], ops[1], Op(False, "a", 1.5, 5)]) is None


def test_write_without_an_answer_may_happen_late_or_never() -> None:
    write = Op(True, "a", 0, math.inf)
    assert unexplained([write, Op(False, None, 5, 6)]) is None
    assert unexplained([write, Op(False, None, 5, 6), Op(False, "a", 7, 8)]) is None
    assert unexplained([write, Op(False, "a", 5, 6), Op(False, None, 7, 8)]) is not None


def test_list_reads_show_what_was_acknowledged_and_never_less_than_before() -> None:
    history = History()
    history.write("a", None, 0)
    history.acknowledged("a", 1)
    assert history.read_items([], 0.5, 2) is None
    assert history.read_items([], 1.5, 2) is not None
    assert history.read_items(["a", "b"], 2, 3) is None
    assert history.read_items(["a"], 2.5, 4) is None
    assert history.read_items(["a"], 3.5, 4) is not None


def test_lost_register_write_is_found_at_the_end() -> None:
    history = History()
    history.write("a", "1", 0)
    history.acknowledged("a", 1)
    assert history.judge({"1": "a"}) is None
    assert history.judge({}) is not None


@pytest.mark.parametrize(
    ("ledger", "ran", "good"),
    [
        (Ledger(told={"a": [4, 4]}), {"a": 4}, True),
        (Ledger(told={"a": [4, 7]}), {"a": 4}, False),
        (Ledger(told={"a": [4]}), {}, False),
        (Ledger(refused={"a"}), {"b": 1}, True),
        (Ledger(refused={"a"}), {"a": 1}, False),
        (Ledger(failed={"a"}), {"a": 1}, False),
    ],
)
def test_ledger(ledger: Ledger, ran: dict[str, int], good: bool) -> None:
    assert (ledger.judge(ran) is None) == good
