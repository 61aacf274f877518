"""A replica with a log in memory, and a small cluster of them with hand-carried messages."""

from __future__ import annotations

import random

from paceline.core.effects import Batch, Timing
from paceline.core.entry import Entry, EntryKind, encode_entry
from paceline.core.hardstate import HardState
from paceline.core.membership import History, Member, Membership, Settings
from paceline.core.messages import Message
from paceline.core.replica import Replica
from paceline.ids import GENESIS, Index, NodeId, Position, Slot, Term

TIMING = Timing(heartbeat_ms=100, election_timeout_ms=1000)


class MemoryLog:
    """``LogView``; ``stage`` and ``truncate`` as the driver would call them."""

    def __init__(self, base: Position = GENESIS) -> None:
        self.base = base
        self._entries: list[Entry] = []

    @property
    def last(self) -> Position:
        return self._entries[-1].position if self._entries else self.base

    def position_at(self, index: Index) -> Position | None:
        if index == self.base.index:
            return self.base
        offset = index - self.base.index - 1
        return self._entries[offset].position if 0 <= offset < len(self._entries) else None

    def entries(self, after: Index, *, bytes_max: int) -> list[Entry]:
        return self._entries[after - self.base.index :]

    def stage(self, entries: list[Entry]) -> None:
        self._entries += entries

    def truncate(self, after: Index) -> None:
        del self._entries[after - self.base.index :]


def chain_of(log: MemoryLog, *terms: int) -> list[Entry]:
    """Entries of these terms behind the log's end."""
    entries: list[Entry] = []
    before = log.last
    for term in terms:
        slot = Slot(Term(term), Index(before.index + 1), before.chain)
        entries.append(encode_entry(slot, EntryKind.TXN, b"body", time_us=0))
        before = entries[-1].position
    return entries


def member(name: str, *, voter: bool = True, incarnation: str = "") -> Member:
    return Member(
        name=NodeId(name),
        incarnation=incarnation or f"i-{name}",
        address=f"{name}:1",
        http=f"{name}:2",
        peer=f"{name}:3",
        voter=voter,
    )


def membership(*names: str, leader: str | None = "n1", authority: str = "designated") -> Membership:
    return Membership(
        cluster="c" * 32,
        cluster_name="test",
        members=tuple(member(name) for name in names),
        settings=Settings(
            authority=authority, leader=NodeId(leader) if leader else None, durability="quorum"
        ),
    )


def replica(
    name: str,
    members: Membership,
    *,
    log: MemoryLog | None = None,
    state: HardState | None = None,
    now_ms: int = 0,
) -> Replica:
    return Replica(
        name=NodeId(name),
        incarnation=f"i-{name}",
        log=log or MemoryLog(),
        hard_state=state or HardState(Term(0), None),
        history=History([(Index(0), members)]),
        commit=Index(0),
        timing=TIMING,
        random=random.Random(1),
        now_ms=now_ms,
    )


class Cluster:
    """Carries out batches; nothing is synced or delivered unless a test says so."""

    def __init__(self, *names: str, authority: str = "designated") -> None:
        self.now_ms = 0
        members = membership(*names, authority=authority, leader="n1" if authority == "designated" else None)
        self.logs = {NodeId(name): MemoryLog() for name in names}
        self.nodes = {name: replica(name, members, log=log) for name, log in self.logs.items()}
        self.wire: list[tuple[NodeId, NodeId, Message]] = []
        self.unsynced: dict[NodeId, list[tuple[NodeId, Message]]] = {name: [] for name in self.nodes}
        self.synced = {name: (node.hard_state, GENESIS) for name, node in self.nodes.items()}

    def drain(self, name: str) -> Batch:
        node, log = self.nodes[NodeId(name)], self.logs[NodeId(name)]
        batch = node.take()
        if batch.truncate_after is not None:
            log.truncate(batch.truncate_after)
        log.stage(batch.entries)
        self.wire += [(NodeId(name), to, message) for to, message in batch.messages]
        self.unsynced[NodeId(name)] += batch.after_hard_state
        if not self.dirty(name):
            self._release(name)
        return batch

    def dirty(self, name: str) -> bool:
        state = self.nodes[NodeId(name)].hard_state, self.logs[NodeId(name)].last
        return state != self.synced[NodeId(name)]

    def _release(self, name: str) -> None:
        held, self.unsynced[NodeId(name)] = self.unsynced[NodeId(name)], []
        self.wire += [(NodeId(name), to, message) for to, message in held]

    def sync(self, name: str) -> None:
        """Term, vote and log of ``name`` become durable, if something is not."""
        node = self.nodes[NodeId(name)]
        if not self.dirty(name):
            return
        self.synced[NodeId(name)] = node.hard_state, self.logs[NodeId(name)].last
        self._release(name)
        node.saved(node.hard_state, self.now_ms)
        node.durable_to(self.logs[NodeId(name)].last, self.now_ms)
        self.drain(name)

    def deliver(self, *, to: str | None = None) -> int:
        """Deliver what is on the wire now (only to one node, if given); returns how many messages."""
        ready = [item for item in self.wire if to is None or item[1] == to]
        self.wire = [item for item in self.wire if item not in ready]
        for sender, receiver, message in ready:
            if receiver not in self.nodes:
                continue
            self.nodes[receiver].receive(sender, message, self.now_ms)
            self.drain(receiver)
        return len(ready)

    def settle(self) -> None:
        """Sync and deliver until nothing moves."""
        for _ in range(50):
            for name in self.nodes:
                self.sync(name)
            if not self.deliver():
                return
        raise AssertionError("the cluster does not come to rest")

    def lead(self, name: str = "n1") -> Replica:
        node = self.nodes[NodeId(name)]
        node.campaign(self.now_ms, force=True)
        self.drain(name)
        self.settle()
        return node

    def write(self, name: str = "n1") -> Entry:
        """One transaction through the leader's reserved slot."""
        node = self.nodes[NodeId(name)]
        slot = node.reserve()
        assert slot is not None
        entry = encode_entry(slot, EntryKind.TXN, b"change", time_us=1)
        assert node.append([entry], self.now_ms)
        node.release(self.now_ms)
        self.drain(name)
        return entry
