"""The leader's half of replication: what to send to whom, and what is committed.

Commit counts only entries of the leader's own term (Raft, figure 8), over the
*durable* indexes of the voters.  Under the authority ``designated`` the leader's own
disk must be among them: the only node that may ever lead again then
has every committed entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from paceline.core.durability import Durability, Facts, Level, reached
from paceline.core.effects import LogView, Timing
from paceline.core.entry import Entry
from paceline.core.membership import Membership, majority
from paceline.core.messages import Append, AppendResponse, Heartbeat, Message, SnapshotNeeded
from paceline.core.progress import Progress, Sending
from paceline.core.readindex import ReadRounds
from paceline.ids import Index, NodeId, Position, Slot, Term
from paceline.limits import APPEND_BYTES_MAX

__all__ = ["Leading"]

Send = Callable[[NodeId, Message], None]


class Leading:
    """State that exists only while this node leads ``term``."""

    def __init__(
        self, name: NodeId, term: Term, log: LogView, timing: Timing, send: Send, now_ms: int
    ) -> None:
        self.name = name
        self.term = term
        self.log = log
        self.timing = timing
        self.send = send
        self.followers: dict[NodeId, Progress] = {}
        self.first_own = Index(log.last.index + 1)
        """Index of this reign's noop: nothing before it is committed by counting."""
        self.last = log.last
        self.fresh: list[Entry] = []
        """Appended in this step, not yet in the log view."""
        self.round = 0
        self.since_ms = now_ms
        self.heartbeat_due_ms = now_ms
        self.reads = ReadRounds()

    # -- followers ---------------------------------------------------------

    def adopt(self, membership: Membership, now_ms: int) -> None:
        """Follow a change of membership."""
        wanted = {m.name for m in membership.members} - {self.name}
        for gone in self.followers.keys() - wanted:
            del self.followers[gone]
        for name in sorted(wanted - self.followers.keys()):
            self.followers[name] = Progress(name, Index(self.last.index + 1), now_ms)

    def connected(self, name: NodeId, commit: Index, now_ms: int) -> None:
        """A connection to ``name`` is new: whatever was in flight may be lost."""
        if progress := self.followers.get(name):
            progress.reconnected()
            progress.probe(progress.next)
            self.pump(progress, commit, now_ms)

    def pump_all(self, commit: Index, now_ms: int) -> None:
        for progress in self.followers.values():
            self.pump(progress, commit, now_ms)

    def pump(self, progress: Progress, commit: Index, now_ms: int) -> None:
        """Send what the follower lacks, as far as its state allows."""
        while progress.may_send():
            if progress.state is Sending.REPLICATE and progress.next > self.last.index:
                return
            prev = self.position_at(Index(progress.next - 1))
            entries = self._entries(prev.index) if prev is not None else []
            if prev is None or (not entries and prev.index < self.last.index):
                progress.snapshot()
                self.send(progress.name, SnapshotNeeded(self.term, self.log.base.index))
                return
            self.send(
                progress.name,
                Append(self.term, prev.term, prev.index, prev.chain, commit, tuple(entries)),
            )
            progress.sent(entries, now_ms)
            progress.told = commit

    def answer(self, progress: Progress, message: AppendResponse, now_ms: int) -> bool:
        """Digest a follower's report; True when its progress moved."""
        progress.heard_ms = now_ms
        progress.health = message.health
        progress.round = max(progress.round, message.round)
        if not message.ok:
            progress.refused(message.hint_index)
            progress.probe(self._meeting(message))
            return False
        moved = progress.accept(message.received, message.durable, message.applied, now_ms)
        if (
            progress.state is not Sending.REPLICATE
            and message.received >= self.log.base.index
            and message.received
        ):
            progress.replicate()
        return moved

    def _meeting(self, message: AppendResponse) -> Index:
        """Where to probe next: the hinted place if the terms agree there, else before the wrong term."""
        index = min(message.hint_index, self.last.index)
        while index > self.log.base.index:
            here = self.position_at(index)
            if here is None or here.term <= message.hint_term:
                break
            index = Index(index - 1)
        if index == message.hint_index:
            here = self.position_at(index)
            if here is not None and here.term != message.hint_term:
                index = Index(index - 1)  # at the base: before it, where only a snapshot helps
        return Index(index + 1)

    # -- heartbeats ----------------------------------------------------------

    def tick(self, commit: Index, now_ms: int) -> None:
        if now_ms >= self.heartbeat_due_ms:
            self.beat(commit, now_ms)
        for progress in self.followers.values():
            if progress.stuck and now_ms - progress.moved_ms > self.timing.election_timeout_ms:
                progress.moved_ms = now_ms
                progress.probe(progress.next)
            self.pump(progress, commit, now_ms)

    def beat(self, commit: Index, now_ms: int) -> int:
        """Send a heartbeat round; returns its number."""
        self.heartbeat_due_ms = now_ms + self.timing.heartbeat_ms
        self.round += 1
        for name, progress in self.followers.items():
            self.send(name, Heartbeat(self.term, commit, self.round))
            progress.told = commit
            if progress.state is Sending.SNAPSHOT:
                self.send(name, SnapshotNeeded(self.term, self.log.base.index))
        return self.round

    def announce(self, commit: Index, *, want_applied: bool) -> None:
        """Tell how far followers may apply, to those that no append has told; round 0 wants no answer.

        ``want_applied``: tell it to everybody who has not applied it, and have them report.
        """
        for name, progress in self.followers.items():
            if progress.told < commit or (want_applied and progress.applied < commit):
                progress.told = commit
                self.send(name, Heartbeat(self.term, commit, 0, want_applied))

    def reads_ready(
        self, commit: Index, voters: frozenset[NodeId], now_ms: int
    ) -> list[tuple[tuple[NodeId | None, int], Index]]:
        """Linearizable reads that a majority of voters has confirmed."""

        def confirmed(round_: int) -> bool:
            answered = sum(1 for name in voters if name == self.name or self._round(name) >= round_)
            return answered >= majority(len(voters))

        return self.reads.advance(commit, self.first_own, confirmed, lambda: self.beat(commit, now_ms))

    def _round(self, name: NodeId) -> int:
        progress = self.followers.get(name)
        return progress.round if progress is not None else 0

    def heard_majority(self, voters: frozenset[NodeId], now_ms: int) -> bool:
        """Whether a majority of voters answered within the last election timeout (check-quorum)."""
        oldest = now_ms - self.timing.election_timeout_ms
        if self.since_ms > oldest:
            return True
        heard = sum(1 for name in voters if name == self.name or self._heard_since(name, oldest))
        return heard >= majority(len(voters))

    def _heard_since(self, name: NodeId, oldest_ms: int) -> bool:
        progress = self.followers.get(name)
        return progress is not None and progress.heard_ms is not None and progress.heard_ms >= oldest_ms

    # -- commit and durability -------------------------------------------------

    def committable(self, voters: frozenset[NodeId], own_durable: Index, *, own_required: bool) -> Index:
        """The highest index durable on a majority, 0 when that is not of this term."""
        indexes = sorted((own_durable if v == self.name else self._durable(v) for v in voters), reverse=True)
        if not indexes:
            return Index(0)
        index = indexes[majority(len(indexes)) - 1]
        if own_required:
            index = min(index, own_durable)
        return index if index >= self.first_own else Index(0)

    def would_commit(
        self, index: Index, own_durable: Index, voters: frozenset[NodeId], receiver: NodeId | None
    ) -> bool:
        """Whether ``index`` is committed as soon as ``receiver`` has it (decision 0008)."""
        having = sum(
            1
            for name in voters
            if name == receiver or (own_durable if name == self.name else self._durable(name)) >= index
        )
        return index >= self.first_own and own_durable >= index and having >= majority(len(voters))

    def reached(
        self, durability: Durability, commit: Index, own: Index, voters: frozenset[NodeId], now_ms: int
    ) -> Index:
        """The highest index with this durability."""
        if durability.level is Level.QUORUM and not durability.applied:
            return commit
        return reached(durability, self.facts(commit, own, voters, now_ms))

    def facts(self, commit: Index, own: Index, voters: frozenset[NodeId], now_ms: int) -> Facts:
        """What is known now of everybody's progress."""
        oldest = now_ms - self.timing.election_timeout_ms
        return Facts(
            last=self.last.index,
            own=own,
            commit=commit,
            durable={name: progress.durable for name, progress in self.followers.items()},
            applied={name: progress.applied for name, progress in self.followers.items()},
            reachable=frozenset(name for name in self.followers if self._heard_since(name, oldest)),
            voters=frozenset(voters - {self.name}),
        )

    def _durable(self, name: NodeId) -> Index:
        progress = self.followers.get(name)
        return progress.durable if progress is not None else Index(0)

    # -- the log, with what this step appended ----------------------------------

    def extend(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            assert entry.term == self.term, "a leader appends only in its own term"
            assert entry.follows(self.last), "a leader's log has no gap"
            self.fresh.append(entry)
            self.last = entry.position

    def last_slot(self) -> Slot:
        """Where the next entry goes."""
        return Slot(self.term, Index(self.last.index + 1), self.last.chain)

    def position_at(self, index: Index) -> Position | None:
        if self.fresh and index >= self.fresh[0].index:
            offset = index - self.fresh[0].index
            return self.fresh[offset].position if offset < len(self.fresh) else None
        return self.log.position_at(index)

    def _entries(self, after: Index) -> list[Entry]:
        if self.fresh and after + 1 >= self.fresh[0].index:
            found = self.fresh[after + 1 - self.fresh[0].index :]
        else:
            found = self.log.entries(after, bytes_max=APPEND_BYTES_MAX)
        size = 0
        for count, entry in enumerate(found):
            size += len(entry.record)
            if count and size > APPEND_BYTES_MAX:
                return found[:count]
        return found
