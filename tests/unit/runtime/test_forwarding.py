"""A request that looks for its leader: whoever leads meanwhile, it is answered once and honestly."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from paceline.client.aio import AsyncClient
from paceline.errors import NotLeader, OutcomeUnknown, Overloaded, TimedOut, Unavailable
from paceline.runtime.forwarding import Forwarder

pytestmark = pytest.mark.asyncio


class World:
    """Who leads, and what the leaders answer; ``asked`` has the addresses in order ('here' for this node)."""

    def __init__(self) -> None:
        self.leader: str | None = "a:1"
        self.asked: list[str] = []
        self.answers: dict[str, Any] = {}
        self.arrived = asyncio.Event()
        self.forwarder = Forwarder("n2", self._address, lambda: self.leader == "here")

    def _address(self) -> str | None:
        return None if self.leader == "here" else self.leader

    def elect(self, leader: str | None) -> None:
        self.leader = leader
        self.forwarder.changed()

    async def _answer(self, where: str) -> str:
        self.asked.append(where)
        self.arrived.set()
        answer = self.answers.get(where, where)
        if isinstance(answer, list):
            answer = answer.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if answer == "silence":
            await asyncio.Event().wait()
        return str(answer)

    def run(self, **options: Any) -> Awaitable[str]:
        async def ask(client: AsyncClient, _: int) -> str:
            return await self._answer(client._routes.addresses[0])

        async def here(_: int) -> str:
            return await self._answer("here")

        return self.forwarder.run(ask, here, **({"timeout_ms": 5000, "write": True} | options))


async def test_the_known_leader_is_asked() -> None:
    world = World()
    assert await world.run() == "a:1" and world.asked == ["a:1"]
    await world.forwarder.close()


async def test_this_node_answers_when_it_leads() -> None:
    world = World()
    world.leader = "here"
    assert await world.run() == "here"


@pytest.mark.parametrize("new", ["b:1", "here"])
async def test_a_silent_leader_is_given_up_when_another_leads(new: str) -> None:
    world = World()
    world.answers["a:1"] = "silence"
    running = asyncio.ensure_future(world.run())
    await world.arrived.wait()
    world.elect(None)
    world.elect(new)
    assert await running == new
    assert world.asked == ["a:1", new]
    await world.forwarder.close()


async def test_a_request_waits_for_a_leader_and_says_so_when_none_comes() -> None:
    world = World()
    world.leader = None
    waiting = asyncio.ensure_future(world.run())
    await asyncio.sleep(0)
    world.elect("b:1")
    assert await waiting == "b:1"
    world.elect(None)
    with pytest.raises(NotLeader, match="knows no leader"):
        await world.run(patience=0.05)
    with pytest.raises(NotLeader, match="knows no leader"):
        await world.run(timeout_ms=50)
    await world.forwarder.close()


async def test_a_write_whose_leader_vanished_is_in_doubt_a_read_is_not() -> None:
    for write, expected in ((True, OutcomeUnknown), (False, Unavailable)):
        world = World()
        world.answers["a:1"] = "silence"
        running = asyncio.ensure_future(world.run(write=write, timeout_ms=200))
        await world.arrived.wait()
        world.elect(None)
        with pytest.raises(expected):
            await running
        await world.forwarder.close()


async def test_a_deposed_leaders_doubt_stays_in_doubt() -> None:
    world = World()
    world.leader = None
    first = OutcomeUnknown("n2 no longer leads")
    with pytest.raises(OutcomeUnknown, match="no longer leads"):
        await world.run(patience=0.05, in_doubt=True, reason=first)


async def test_refusals_that_pass_are_repeated_and_verdicts_are_not() -> None:
    world = World()
    world.answers["a:1"] = [NotLeader("not yet"), Unavailable("not yet"), "done"]
    assert await world.run() == "done" and len(world.asked) == 3
    for verdict in (Overloaded("full"), TimedOut("late")):
        world.answers["a:1"] = verdict
        with pytest.raises(type(verdict)):
            await world.run()
    await world.forwarder.close()


async def test_a_leading_node_that_is_unavailable_is_a_verdict() -> None:
    world = World()
    world.leader = "here"
    world.answers["here"] = [Unavailable("the cluster is forming")]
    with pytest.raises(Unavailable, match="forming"):
        await world.run()
    world.answers["here"] = [NotLeader("the engine is not ready yet"), "done"]
    assert await world.run() == "done"


async def test_cancelling_the_caller_is_no_change_of_leader() -> None:
    world = World()
    world.answers["a:1"] = "silence"
    running = asyncio.ensure_future(world.run())
    await world.arrived.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert world.asked == ["a:1"]
    await world.forwarder.close()


async def test_await_leader_tells_an_address_or_this_node() -> None:
    world = World()
    assert await world.forwarder.await_leader() == "a:1"
    world.elect("here")
    assert await world.forwarder.await_leader() is None
    world.elect(None)
    with pytest.raises(NotLeader):
        await world.forwarder.await_leader(patience=0.02)
