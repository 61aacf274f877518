"""Becoming a member: contradicting files are refused, wiped founders come back, the cluster's membership counts."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from paceline.config.shape import Member as Founder
from paceline.config.shape import NodeConfig
from paceline.config.shape import Settings as ConfigSettings
from paceline.core.membership import Member, Membership, Settings
from paceline.errors import UsageError
from paceline.ids import NodeId
from paceline.runtime import joining
from paceline.runtime.greeting import Hello, Welcome

NAMES = ("n1", "n2", "n3")


def address(name: str, port: int) -> str:
    return f"10.0.0.{name[1:]}:{port}"


def config(name: str = "n1", names: tuple[str, ...] = NAMES, **changes: Any) -> NodeConfig:
    values: dict[str, Any] = {
        "name": NodeId(name),
        "data": "/d",
        "listen": address(name, 1),
        "http": address(name, 2),
        "peer": address(name, 3),
        "advertise": address(name, 1),
        "advertise_http": address(name, 2),
        "advertise_peer": address(name, 3),
        "cluster": "main",
        "leader": NodeId("n1"),
        "members": tuple(
            Founder(name=NodeId(n), listen=address(n, 1), http=address(n, 2), peer=address(n, 3))
            for n in names
        ),
    }
    return NodeConfig(**(values | changes))


def membership(*names: str, forming: tuple[str, ...] = (), authority: str = "auto") -> Membership:
    return Membership(
        cluster="c" * 32,
        cluster_name="main",
        members=tuple(
            Member(
                name=NodeId(n),
                incarnation="i",
                address=address(n, 1),
                http=address(n, 2),
                peer=address(n, 3),
                voter=True,
            )
            for n in names
        ),
        settings=Settings(authority=authority, leader=None, durability="quorum"),
        forming=tuple(NodeId(n) for n in forming),
    )


def hello(*founders: str) -> Hello:
    return Hello(
        purpose="join",
        cluster=None,
        cluster_name="main",
        name="n4",
        incarnation="x",
        boot="b",
        founders=founders,
    )


def test_founder_with_another_list_is_refused_while_the_cluster_forms() -> None:
    forming = membership("n1", forming=("n2", "n3"))
    joining.check_founders(hello(*NAMES), forming)
    joining.check_founders(hello(), forming)  # comes with join, and lists nobody
    with pytest.raises(
        UsageError, match="lists n4 as a member, but the cluster that forms is that of n1, n2, n3"
    ):
        joining.check_founders(hello(*NAMES, "n4"), forming)
    joining.check_founders(hello(*NAMES, "n4"), membership(*NAMES))  # formed: members come and go


def test_file_that_agrees_with_the_cluster_contradicts_nothing() -> None:
    assert joining.contradictions(config(), membership(*NAMES, "n4")) == []
    assert joining.contradictions(config(), membership("n1", forming=("n2", "n3"))) == []
    assert joining.contradictions(config("n4", members=(), join=("x:1",)), membership(*NAMES)) == []


def test_contradictions_between_file_and_cluster_are_named() -> None:
    moved = config()
    there = membership("n1", "n2", authority="designated")
    moved = config(
        members=(
            *moved.members[:1],
            Founder(name=NodeId("n2"), listen="h:1", http="h:2", peer="h:3"),
            moved.members[2],
        )
    )
    found = "\n".join(joining.contradictions(moved, there))
    assert "lists n3, which is not a member" in found
    assert "says n2 is at h:1 and h:3, the cluster says 10.0.0.2:1" in found
    assert "says authority auto, the cluster has designated" in found


def welcome(name: str, cluster: str | None) -> Welcome:
    return Welcome(version=1, name=name, incarnation="i", cluster=cluster)


@pytest.mark.asyncio
async def test_a_silent_founder_does_not_hide_anothers_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(address_: str, request: Hello) -> Welcome:
        assert request.purpose == "peer", "a question must not admit anybody"
        if address_ == address("n2", 3):
            await asyncio.Event().wait()
        return welcome("n3", "c" * 32)

    monkeypatch.setattr(joining, "_ask", ask)
    monkeypatch.setattr(joining, "_PROBE_S", 0.05)
    found = await joining._somebody_with_a_cluster(config(), hello())
    assert found is not None and found.name == "n3"


@pytest.mark.asyncio
async def test_a_wiped_founder_joins_and_a_wiped_designated_leader_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    joined: list[str] = []

    class Directory:
        has_database = False

    async def join(config_: NodeConfig, *_: Any) -> None:
        joined.append(str(config_.name))

    async def ask(address_: str, request: Hello) -> Welcome:
        return welcome("n2", "c" * 32)

    monkeypatch.setattr(joining, "_ask", ask)
    monkeypatch.setattr(joining, "join", join)
    directory: Any = Directory()
    engines: Any = None
    await joining.found(config(), directory, engines, hello())
    assert joined == ["n1"]
    with pytest.raises(
        UsageError, match=r"already belongs to cluster cccccccc, but n1's data directory .* is empty"
    ):
        await joining.found(config(authority="designated"), directory, engines, hello())


@pytest.mark.parametrize(
    ("level", "authority", "says"),
    [
        ("any 5", "auto", "needs 5 followers, the cluster has 2"),
        ("first 1 (n2)", "auto", "when n2 leads"),
        ("first 1 (n2)", "designated", None),
        ("all+applied", "auto", None),
    ],
)
def test_founders_that_can_never_reach_their_default_are_refused(
    level: str, authority: str, says: str | None
) -> None:
    chosen = config(settings=ConfigSettings(durability=level))
    leader = NodeId("n1") if authority == "designated" else None
    settings = Settings(authority=authority, leader=leader, durability=level)
    alone = msgspec.structs.replace(membership("n1"), settings=settings)
    if says is None:
        joining._check_durability(chosen, alone)
    else:
        with pytest.raises(UsageError, match=says):
            joining._check_durability(chosen, alone)
    one = config(names=("n1",), settings=ConfigSettings(durability=level))
    joining._check_durability(one, alone)
