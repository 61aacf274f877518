"""The node: carries out what the core decides, the same in production and in the simulator.

Everything here runs on one loop and never blocks; what may block goes through a
lane of :class:`~paceline.node.ports.Ports`.  After every input to the core ``drain``
carries out its batch in the order that ``core/effects.py`` promises; ``pump`` gives the state
lane its next piece of work when it is free.

    input (message, tick, synced, group done)  ->  core  ->  drain: stage, send, flush
                                                             |      settle acks, wake readers
    state lane free  ->  pump: lead/follow, pins, checkpoint, next group or next apply
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from paceline.core.effects import Role
from paceline.core.entry import Entry, EntryKind, encode_local
from paceline.core.membership import Membership
from paceline.core.messages import AppendResponse, Message
from paceline.core.replica import Replica
from paceline.engines.base import Engine, Pin, join_local
from paceline.errors import Corruption, DiskFull, NotLeader, PacelineError, Unavailable
from paceline.files import Files
from paceline.ids import DatabasePosition, Index, NodeId, Position, Term
from paceline.log.custody import Custody
from paceline.log.journal import Log
from paceline.node.acks import Acks
from paceline.node.anchors import Anchor, pack
from paceline.node.applies import Applies
from paceline.node.checkpoints import Checkpoints
from paceline.node.locate import idle_end
from paceline.node.members import Members
from paceline.node.ports import Lane, Ports
from paceline.node.reads import Reads
from paceline.node.retain import Retainer
from paceline.node.rewinding import Rewinding
from paceline.node.switching import Switching
from paceline.node.syncing import Syncing
from paceline.node.verifier import Verifier
from paceline.node.writes import Writes

__all__ = ["Node", "NodeSettings"]

T = TypeVar("T")
_ANNOUNCE_MS = 2
_ANNOUNCE_BUSY_MS = 10
"""Under load the next append says it first."""
_FINAL_POLL_MS = 20


class NodeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Local settings of one node (those that all share are in the membership)."""

    apply_interval_ms: int
    checkpoint_retry_ms: int
    retention_bytes: int
    retention_seconds: int


class Node:
    """One member of the cluster.  Every method runs on the loop."""

    def __init__(
        self,
        *,
        ports: Ports,
        files: Files,
        anchor_path: str,
        anchor: Anchor,
        log: Log,
        custody: Custody,
        engine: Engine,
        replica: Replica,
        applied: Index,
        settings: NodeSettings,
        quarantined: str | None,
    ) -> None:
        self.ports = ports
        self.files = files
        self.log = log
        self.custody = custody
        self.engine = engine
        self.replica = replica
        self.settings = settings
        self.applied = applied
        self.quarantined = quarantined
        self.installing = False
        self.stopping = False
        self.state_busy = False
        self.acks = Acks()
        self.writes = Writes(self)
        self.applies = Applies(self, settings.apply_interval_ms)
        self.reads = Reads(self)
        self.verifier = Verifier(self)
        self.members = Members(self)
        self.retainer = Retainer(self)
        self.syncing = Syncing(self, anchor_path, anchor)
        self.rewinding = Rewinding(self)
        self.switching = Switching(self)
        self.engine_leads = False
        self._engine_term = Term(0)
        """Of the reign for which the engine was last made the writer."""
        self._tasks: list[tuple[Callable[[], Any], Callable[[Any], None]]] = []
        self._announcing = False
        self._pumping = False
        self.checkpoints = Checkpoints(self)
        replica.applied_to(applied)
        replica.database_end = applied
        replica.health = quarantined or "ok"

    # -- what the parts ask ------------------------------------------------------

    @property
    def leads(self) -> bool:
        """Whether this node leads and its engine is ready to write."""
        return self.replica.role is Role.LEADER and self.engine_leads

    @property
    def anchor(self) -> Anchor:
        return self.syncing.anchor

    @property
    def disk_full(self) -> DiskFull | None:
        return self.syncing.disk_full

    @property
    def leads_or_will(self) -> bool:
        return self.replica.role is Role.LEADER

    def idle_end(self) -> Index:
        return idle_end(self.log, self.applied)

    def set_applied(self, index: Index) -> None:
        self.applied = index
        self.replica.applied_to(index)
        self.replica.database_end = index
        self.reads.applied()

    # -- inputs ---------------------------------------------------------------------

    def begin(self) -> None:
        """First step after start-up: who can only be elected by itself, or is designated, campaigns at once."""
        membership, name = self.replica.membership, self.replica.name
        self.replica.wall_us = self.ports.wall_us()
        if membership and (membership.settings.leader == name or membership.voters == {name}):
            self.replica.campaign(self.ports.now_ms())
        self.drain()
        self.pump()

    def receive(self, sender: NodeId, incarnation: str, message: Message) -> None:
        """Digest what the process of that incarnation says in the name of ``sender``.

        What a member's namesake with another data directory reports counts for nothing: its call may have come
        before this node led, when it could not be judged.
        """
        if self.installing:
            return
        if isinstance(message, AppendResponse) and self.leads_or_will:
            membership = self.replica.membership
            member = membership.member(sender) if membership else None
            if member is None or member.incarnation != incarnation:
                return
        self.replica.receive(sender, message, self.ports.now_ms())
        self.drain()

    def tick(self) -> None:
        if self.installing or self.stopping:
            return
        now_ms = self.ports.now_ms()
        self.replica.tick(now_ms, self.ports.wall_us())
        self.drain()
        self.writes.tick(now_ms)
        self.acks.expire(now_ms)
        self.reads.expire(now_ms)
        self.members.tick(now_ms)
        self.switching.tick(now_ms)
        self.retainer.tick(now_ms)
        if self.quarantined and self.replica.leader and not self.leads_or_will:
            self.ports.fetch_snapshot(self.replica.leader)
        self.pump()

    def connected(self, name: NodeId) -> None:
        self.replica.connected(name, self.ports.now_ms())
        self.drain()

    def disconnected(self, name: NodeId) -> None:
        """The connection on which ``name`` speaks to this node broke."""
        if not self.installing:
            self.replica.disconnected(name, self.ports.now_ms())

    def append(self, entries: list[Entry], local: Sequence[bytes]) -> bool:
        """Entries from the leader's writer; False when they no longer belong to this reign (they are undone then)."""
        appended = self.replica.append(entries, self.ports.now_ms())
        if not appended:
            self.rewinding.strand(entries, local)
            local = ()
        self.drain(local)
        return appended

    # -- carrying out a batch -----------------------------------------------------------

    def drain(self, local: Sequence[bytes] = ()) -> None:
        """Carry out what the core asks for, in the order that it promises."""
        batch = self.replica.take()
        if batch.rewind_to is not None:
            self.rewinding.want(batch.rewind_to)
            self.pump_soon()
        if batch.truncate_after is not None:
            self._truncate(batch.truncate_after)
        if batch.hard_state is not None:
            self.log.stage_hard_state(batch.hard_state)
        if batch.entries:
            self.log.stage(batch.entries, local)
        for to, message in batch.messages:
            self.ports.send(to, message)
        if batch.hard_state is not None or batch.after_hard_state:
            self.syncing.hold(batch)
        self.syncing.flush()
        if batch.role is not None or batch.leader_changed:
            self._role_changed()
        if batch.membership_changed:
            self.writes.reconsider()
            self.members.changed()
        if batch.commit is not None:
            self._committed()
        if batch.progress_changed and self.leads_or_will:
            self.acks.settle(self.replica, self.ports.now_ms())
        if batch.commit is not None or batch.role is not None or len(self.writes):
            self.pump_soon()
        if batch.snapshot_from is not None:
            self.ports.fetch_snapshot(batch.snapshot_from)
        if batch.read_indexes:
            self.reads.confirmed(batch.read_indexes)

    def _truncate(self, after: Index) -> None:
        """The database has nothing behind ``after`` (``Rewinding`` saw to that)."""
        assert after >= self.replica.database_end
        entries = self.log.entries(after, bytes_max=1 << 40)
        self.custody.keep(
            "not in the leader's log",
            entries,
            self.notes_of(entries),
            acknowledged=self.acknowledged(entries),
            time_us=self.ports.wall_us(),
            term_now=self.replica.term,
        )
        self.ports.event(
            "lost",
            first=entries[0].position.short,
            last=entries[-1].position.short,
            transactions=sum(entry.kind is EntryKind.TXN for entry in entries),
        )
        self.log.truncate(after)

    def notes_of(self, entries: Sequence[Entry]) -> dict[Index, bytes]:
        """The bodies of the local records beside these entries."""
        return {entry.index: note for entry in entries if (note := self.log.local(entry.index)) is not None}

    def acknowledged(self, entries: Sequence[Entry]) -> dict[Index, frozenset[str]]:
        """At which levels their requests were acknowledged, where this process knows it."""
        return {e.index: told for e in entries if (told := self.acks.told(e.term, e.index)) is not None}

    def _role_changed(self) -> None:
        leader = self.replica.leader
        self.writes.reconsider()
        self.ports.event("role", role=self.replica.role.value, term=self.replica.term, leader=leader)
        self.reads.leader_changed()
        self.switching.role_changed()
        if not self.leads_or_will:
            self.acks.abandon(f"{self.replica.name} no longer leads")
            self.writes.abandon(str(leader) if leader else None)

    def _committed(self) -> None:
        self.reads.committed()
        self.syncing.keep_membership()
        if self.leads and not self._announcing:
            self._announcing = True
            delay_ms = _ANNOUNCE_BUSY_MS if self.writes.busy else _ANNOUNCE_MS
            self.ports.later(0 if self.acks.want_applied else delay_ms, self._announce)

    def _announce(self) -> None:
        """Followers that no append has told of the commit index meanwhile hear of it now."""
        self._announcing = False
        self.replica.announce_commit(want_applied=self.acks.want_applied)
        self.drain()

    # -- the state lane ---------------------------------------------------------------------

    def run_state(
        self,
        work: Callable[[], T],
        done: Callable[[T], None],
        failed: Callable[[BaseException], None] | None = None,
        *,
        quick: bool = False,
    ) -> None:
        """Run ``work`` on the state lane; then ``done``, then whatever is next."""
        assert not self.state_busy
        self.state_busy = True

        def finished(result: T) -> None:
            self.state_busy = False
            done(result)
            if not self.state_busy:
                self.pump()

        def broke(error: BaseException) -> None:
            self.state_busy = False
            (failed or self.ports.fatal)(error)

        self.ports.run(Lane.STATE, work, finished, broke, quick=quick)

    def on_state(self, work: Callable[[], T], done: Callable[[T], None]) -> None:
        """Queue ``work`` for the state lane, ahead of groups and applies."""
        self._tasks.append((work, done))
        self.pump()

    def pump_soon(self) -> None:
        """Look for the state lane's next work once everything that has arrived by now is digested."""
        if not self._pumping and not self.state_busy:
            self._pumping = True
            self.ports.soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        self.pump()

    def pump(self) -> None:
        """Give the state lane its next piece of work, if it is free."""
        if self.state_busy or self.stopping:
            return
        if self.engine_leads and not (self.leads_or_will and self._engine_term == self.replica.term):
            self._stand_down()
        elif not self.engine_leads and self.rewinding.start():
            return
        elif self._tasks:
            work, done = self._tasks.pop(0)
            self.run_state(work, done)
        elif self.installing or self.quarantined:
            return
        elif self.leads_or_will:
            self._pump_leader()
        elif not self.applies.start() and not self.state_busy:
            self.checkpoints.start()

    def _pump_leader(self) -> None:
        if not self.engine_leads:
            if not self.applies.start() and not self.state_busy:
                log_end, term = self.log.last.index, self.replica.term
                self.run_state(
                    lambda: self.engine.lead(log_end), lambda _: self._lead(term), self.state_failed
                )
            return
        if self.applied < self.replica.last.index:
            self.set_applied(self.idle_end())
        if self.verifier.start() or self.checkpoints.start():
            return
        if self.syncing.marked and self.writes.ready() and not self.checkpoints.waits():
            self.writes.start_group()

    def _stand_down(self) -> None:
        """The reign is over for the engine, too."""
        self.engine_leads = False
        self.writes.reconsider()
        self.run_state(self.engine.follow, lambda _: None, self.state_failed)

    def state_failed(self, error: BaseException) -> None:
        """A database that is not what it must be: fetched anew when somebody else can lead meanwhile."""
        membership = self.replica.membership
        alone = membership is None or membership.settings.authority != "auto" or len(membership.voters) < 2
        if isinstance(error, Corruption) and not alone:
            self.quarantine(error)
        else:
            self.ports.fatal(error)

    def _lead(self, term: Term) -> None:
        """The engine writes now: note in the log how far the database has been captured.

        The first group waits until the note is durable: without it a killed leader's surplus would not be known.
        """
        self.engine_leads, self._engine_term, self.syncing.marked = True, term, False
        self.writes.reconsider()
        self.set_applied(self.idle_end())
        mark = join_local(self.engine.capture_mark(), b"")
        last = self.log.last
        record = encode_local(EntryKind.MARK, last.term, last.index, mark, time_us=self.ports.wall_us())
        self.log.stage([], [record])
        self.syncing.flush()
        self.ports.event("leading", term=self.replica.term)

    # -- snapshots -----------------------------------------------------------------------------

    def pin(self, done: Callable[[Pin, Position], None]) -> None:
        """Pin the state for a transfer; the log is kept from there until ``retainer.release``."""

        def pinned(pin: Pin) -> None:
            position = self.log.position_at(self.applied)
            assert position is not None
            done(pin, position)

        self.on_state(self.engine.pin, pinned)

    def begin_resync(self) -> None:
        """A snapshot is being fetched: nothing is applied or served until it is in place."""
        if self.quarantined is None:
            self.quarantined = "re-syncing: what comes next is no longer in the leader's log"
            self.replica.health = self.quarantined

    def quarantine(self, error: Exception) -> None:
        """This copy can no longer be trusted: stop serving, re-sync from the leader."""
        reason = error.message if isinstance(error, PacelineError) else str(error)
        self.quarantined = f"quarantined: {reason}"
        self.replica.health = self.quarantined
        self.ports.event("quarantined", reason=reason)
        if self.leads_or_will:
            self.replica.resign(self.ports.now_ms())
            self.drain()
        if self.replica.leader is not None and not self.leads_or_will:
            self.ports.fetch_snapshot(self.replica.leader)

    def when_final(
        self,
        position: Position,
        receiver: NodeId | None,
        deadline_ms: int,
        go: Callable[[], None],
        late: Callable[[], None],
    ) -> None:
        """Call ``go`` once nothing can take ``position`` back: the condition for handing out a snapshot.

        Committed; or on the disk of a designated leader, for nobody else may ever lead (decision 0007); or committed
        as soon as the ``receiver``, a voter, has it (decision 0008).  Waiting for the commit could be waiting for
        the very nodes that fetch.
        """
        index, replica = position.index, self.replica
        if index >= self.log.base.index and self.log.position_at(index) != position:
            late()  # taken back already
        elif index <= replica.commit or self._final_here(index, receiver):
            go()
        elif self.ports.now_ms() >= deadline_ms:
            late()
        else:
            self.ports.later(
                _FINAL_POLL_MS, lambda: self.when_final(position, receiver, deadline_ms, go, late)
            )

    def _final_here(self, index: Index, receiver: NodeId | None) -> bool:
        membership = self.replica.membership
        if not self.leads or membership is None:
            return False
        if membership.settings.authority == "designated":
            return self.replica.durable >= index
        return receiver is not None and self.replica.final_with(index, receiver)

    def switch(
        self, target: NodeId | None, timeout_ms: int, done: Callable[[dict[str, Any] | PacelineError], None]
    ) -> None:
        """Hand the leadership over; see ``switching.py``."""
        self.switching.start(target, timeout_ms, done)

    def heal(self, name: NodeId) -> None:
        """Leader: ``name`` holds another state than this node at the same position; have it re-sync."""
        self.ports.event("differs", follower=name)
        self.replica.ask_resync(name)
        self.drain()

    def begin_install(self) -> None:
        """A snapshot is staged: stop following until it is in place."""
        if self.leads_or_will:
            raise NotLeader("this node leads; it installs no snapshot")
        if self.engine_leads or self.rewinding.stranded:
            raise Unavailable("this node has not yet ended its own reign")
        self.installing = True

    def installed(self, base: Position, membership: Membership, database: DatabasePosition | None) -> None:
        """The database and the log stand at ``base``: follow from there."""
        self.syncing.anchor = Anchor(
            base=str(base), database=pack(database), memberships=((base.index, membership),)
        )
        self.installing = False
        self.quarantined = None
        self.rewinding.installed()
        self.replica.health = "ok"
        self.replica.installed(base, membership, durable=self.log.durable.index)
        self.set_applied(base.index)
        self.ports.event("installed", position=str(base))
        self.drain()
        self.pump()
