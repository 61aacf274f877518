"""A stopped process: nothing happens in it, and then everything that arrived meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from paceline.sim.world import Life, Violation, World


def made() -> tuple[World, Life]:
    def call(what: Callable[[], object]) -> None:
        what()

    return World(1), Life("n1/1", call)


def test_stopped_life_catches_up_arrivals_first_then_its_own_timers() -> None:
    world, life = made()
    seen: list[str] = []
    world.at(10, lambda: seen.append("timer"), life)
    world.at(20, lambda: life.call(lambda: seen.append("message")))
    world.stop(life)
    world.run_until(50)
    assert seen == []
    world.go_on(life)
    world.run_until(100)
    assert seen == ["message", "timer"]
    assert life.held is None


def test_what_arrives_while_it_catches_up_comes_after_what_waited() -> None:
    world, life = made()
    seen: list[int] = []
    world.stop(life)
    life.call(lambda: (seen.append(1), life.call(lambda: seen.append(3))))
    life.call(lambda: seen.append(2))
    world.go_on(life)
    world.run_until(100)
    assert seen == [1, 2, 3]


def test_stopped_life_that_dies_does_nothing_more() -> None:
    world, life = made()
    seen: list[int] = []
    world.stop(life)
    life.call(lambda: seen.append(1))
    life.alive = False
    world.go_on(life)
    world.run_until(100)
    assert seen == []


def test_endless_events_are_a_violation() -> None:
    world, _ = made()

    def again() -> None:
        world.at(0, again)

    again()
    with pytest.raises(Violation, match="no_livelock"):
        world.run_until(1)
