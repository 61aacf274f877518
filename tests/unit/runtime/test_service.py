"""A node's service when the leadership moves: n1 is here (faked below the service), n2 is a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from service_fake import Database, FakeService

from paceline.core.membership import Member, Membership, Settings
from paceline.engines.base import WriteRequest
from paceline.errors import NotLeader, OutcomeUnknown, PacelineError, UsageError
from paceline.ids import GENESIS, Index, NodeId, Position, Term
from paceline.node.replies import WriteReply
from paceline.runtime.events import EventHub
from paceline.runtime.service import NodeService
from paceline.server.native import NativeServer

pytestmark = pytest.mark.asyncio


class Log:
    def position_at(self, index: Index) -> Position | None:
        return GENESIS if index == 0 else None


class Here:
    """What the service sees of n1."""

    def __init__(self, n2: str) -> None:
        self.events = EventHub()
        self.config = SimpleNamespace(name="n1")
        self.held: list[Any] = []
        self.submitted: asyncio.Queue[Any] = asyncio.Queue()
        members = tuple(
            Member(name=NodeId(name), incarnation="i", address=address, http="h:1", peer="h:2", voter=True)
            for name, address in (("n1", "127.0.0.1:1"), ("n2", n2))
        )
        settings = Settings(authority="auto", leader=None, durability="quorum")
        membership = Membership(cluster="c", cluster_name="main", members=members, settings=settings)
        self.replica = SimpleNamespace(leader="n1", term=Term(1), membership=membership, commit=Index(0))
        loop = asyncio.get_running_loop()
        self.node = SimpleNamespace(
            replica=self.replica,
            leads=True,
            leads_or_will=True,
            stopping=False,
            log=Log(),
            ports=SimpleNamespace(deadline=lambda ms: loop.time() + ms / 1000),
            writes=SimpleNamespace(submit=self._submit),
        )

    def _submit(self, request: WriteRequest, timeout_ms: int, done: Any) -> None:
        self.held.append(done)
        self.submitted.put_nowait(done)

    def elect(self, leader: str | None) -> None:
        self.replica.leader = leader
        self.replica.term = Term(self.replica.term + 1)
        self.node.leads = self.node.leads_or_will = leader == "n1"
        self.events.publish(
            {"event": "role", "role": "follower", "term": self.replica.term, "leader": leader}
        )


class World:
    here: Here
    other: FakeService
    service: NodeService


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    database = Database()
    database.connection.execute("CREATE TABLE t (a)")
    world.other = FakeService("n2", database)
    world.other.leads = "n2"
    server = NativeServer(world.other)
    host, port = await server.start("127.0.0.1", 0)
    world.other.addresses = {"n2": {"address": f"{host}:{port}"}}
    world.here = Here(f"{host}:{port}")
    nothing: Any = SimpleNamespace(make=dict)
    process: Any = world.here
    world.service = NodeService(process, nothing, nothing)
    yield world
    await world.service.close()
    await server.close()


def write(request_id: bytes | None = None) -> WriteRequest:
    return WriteRequest([("INSERT INTO t VALUES (1)", [])], "", request_id)


def submit(world: World, request: WriteRequest) -> asyncio.Future[WriteReply | PacelineError]:
    future: asyncio.Future[WriteReply | PacelineError] = asyncio.get_running_loop().create_future()
    world.service.submit(request, 5_000, future.set_result)
    return future


async def test_a_write_that_had_not_started_when_the_leader_was_deposed_goes_to_the_new_one(
    world: World,
) -> None:
    waiting = submit(world, write())
    world.here.elect("n2")
    world.here.held[0](NotLeader("the leader changed before the write started"))
    reply = await waiting
    assert isinstance(reply, WriteReply) and reply.receipt is not None and reply.receipt.leader == "n2"
    assert world.other.requests[0].request_id is not None, "an id is drawn, so that a repeat is safe"
    assert world.other.requests[0].durability == "quorum"


async def test_a_forwarded_receipt_says_what_was_asked_for(world: World) -> None:
    world.here.elect("n2")
    world.other.asked = "all"
    reply = await submit(world, write())
    assert isinstance(reply, WriteReply) and reply.receipt is not None and reply.receipt.asked == "all"


async def test_a_bounded_read_waits_for_a_leader_only_when_this_node_cannot_prove_its_age(
    world: World,
) -> None:
    """Without a leader: at once from a state that is fresh enough; else it is retried until somebody leads."""
    answers: list[Any] = []
    fresh = True

    def submitted(*_: Any, done: Any, **__: Any) -> None:
        answers.append(done)
        done(NotLeader("the leader went away") if len(answers) == 2 else answered)

    answered: Any = object()
    world.here.node.reads = SimpleNamespace(submit=submitted, is_fresh=lambda read: fresh)
    world.here.elect(None)
    read = {"read": "bounded 500", "token": None}
    assert await world.service.query("SELECT 1", [], timeout_ms=1_000, **read) is answered
    fresh = False
    with pytest.raises(NotLeader):
        await world.service.query("SELECT 1", [], timeout_ms=60, **read)
    assert len(answers) == 1, "nobody was asked"
    waiting = asyncio.ensure_future(world.service.query("SELECT 1", [], timeout_ms=5_000, **read))
    await asyncio.sleep(0)
    world.here.elect("n2")
    assert await waiting is answered
    assert len(answers) == 3, "asked again after the leader went away"


async def test_a_write_in_doubt_is_repeated_only_under_the_clients_id(world: World) -> None:
    named, nameless = submit(world, write(b"id")), submit(world, write())
    world.here.elect("n2")
    for done in world.here.held:
        done(OutcomeUnknown("n1 no longer leads"))
    assert isinstance(await nameless, OutcomeUnknown)
    assert isinstance(await named, WriteReply)
    assert [request.request_id for request in world.other.requests] == [b"id"]


async def test_what_a_leader_that_still_leads_says_is_final(world: World) -> None:
    waiting = submit(world, write(b"id"))
    world.here.held[0](OutcomeUnknown("not reached in time"))
    assert isinstance(await waiting, OutcomeUnknown)
    assert not world.other.requests


async def test_a_node_that_stops_does_not_look_for_leaders(world: World) -> None:
    waiting = submit(world, write(b"id"))
    world.here.elect("n2")
    world.here.node.stopping = True
    world.here.held[0](NotLeader("n1 is stopping"))
    assert isinstance(await waiting, NotLeader)


async def test_a_follower_waits_for_the_leader_and_may_become_it(world: World) -> None:
    world.here.elect(None)
    waiting = submit(world, write())
    await asyncio.sleep(0)
    world.here.elect("n1")
    async with asyncio.timeout(5):
        (await world.here.submitted.get())(NotLeader("the engine is not ready yet"))
        again = await world.here.submitted.get()
    reply = WriteReply(world.other.database.run(write()), None)
    again(reply)
    assert await waiting is reply


async def test_subscribers_hear_first_who_leads_and_then_every_change_once(world: World) -> None:
    events = aiter(world.service.subscribe())
    first = await anext(events)
    assert first["event"] == "leader" and first["leader"] == "n1" and first["term"] == 1
    world.here.elect("n2")
    world.here.events.publish({"event": "membership", "members": ["n1", "n2"]})
    role, leader, membership = [await anext(events) for _ in range(3)]
    assert (role["event"], membership["event"]) == ("role", "membership")
    assert (
        leader["leader"] == "n2"
        and leader["addresses"]["address"] == world.here.replica.membership.members[1].address
    )


async def test_an_operation_is_asked_of_the_leader_once(world: World) -> None:
    world.here.elect("n2")
    with pytest.raises(UsageError, match="unknown operation 'nonsense'"):
        await world.service.admin("nonsense", {})
    with pytest.raises(UsageError, match="unknown operation 'verify'"):
        await world.service.admin("verify", {})  # n2's fake knows none; the error comes back as it is


async def test_the_outcome_that_a_follower_cannot_tell_is_asked_of_the_leader(world: World) -> None:
    world.here.elect("n2")
    position = str(Position(Term(1), Index(7), b"c" * 16))
    with pytest.raises(UsageError, match="not a position"):
        await world.service.outcome("7")
    assert (await world.service.outcome(position))["outcome"] == "unknown", "the leader's fake refuses it"
    world.other.outcomes[position] = "committed"
    assert (await world.service.outcome(position))["outcome"] == "committed"
