"""One node's part in the cluster, as a pure state machine.

Inputs are method calls that carry the time; after each of them the driver takes
:class:`~paceline.core.effects.Batch` and carries it out (the order is documented
there).  The names are Raft's: term, vote, pre-vote, commit, check-quorum.

    role \\ message   VoteRequest  VoteResponse  Append/Heartbeat  AppendResponse
    follower         vote         -             follow            -
    candidate        vote         count         follow            -
    leader           vote         -             (own term: bug)   progress

A message of a higher term turns any role into a follower first (except a vote
request while a leader is alive: check-quorum's other half); one of a lower term is
answered with ours, so that its sender learns.

``reserve`` hands the end of the log to the leader's writer: while a group runs
nothing else is appended; ``append`` brings its entries, ``release`` lets waiting
config and barrier entries follow.
"""

from __future__ import annotations

from paceline.core.campaigning import Campaigning
from paceline.core.durability import Durability, missing
from paceline.core.effects import Role
from paceline.core.entry import Entry, EntryKind, encode_entry
from paceline.core.following import Following
from paceline.core.hardstate import HardState
from paceline.core.leading import Leading
from paceline.core.membership import Membership, differing_voters
from paceline.core.messages import (
    Append,
    AppendResponse,
    Heartbeat,
    Message,
    ReadIndex,
    ReadIndexResponse,
    SnapshotNeeded,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from paceline.errors import NotLeader, Unavailable, UsageError
from paceline.ids import Index, NodeId, Position, Slot, Term

__all__ = ["Replica"]


class Replica(Campaigning, Following):
    """One node's part in the cluster: what to do with each input, by role."""

    # -- time ---------------------------------------------------------------------

    def tick(self, now_ms: int, wall_us: int) -> None:
        self.wall_us = wall_us
        if self._leading:
            self._leading.tick(self.commit, now_ms)
            settings = self.membership.settings if self.membership else None
            if (
                settings
                and settings.authority == "auto"
                and not self._leading.heard_majority(self.voters, now_ms)
            ):
                self._follow(None, now_ms)
            return
        if now_ms >= self._deadline_ms:
            self._draw_deadline(now_ms)
            self.leader_lost()
            self._silences += 1
            self.campaign(now_ms)

    # -- roles --------------------------------------------------------------------

    def _lead(self, now_ms: int) -> None:
        assert self.membership is not None
        self._ballot = None
        self._save(HardState(term=self.term, voted_for=self.name, leader=self.name))
        self._leading = Leading(self.name, self.term, self.log, self.timing, self._send, now_ms)
        self._leading.adopt(self.membership, now_ms)
        self._become(Role.LEADER)
        self.leader = self.name
        self._batch.leader_changed = True
        self._reserved = False
        self._queued.clear()
        self._append_now(EntryKind.NOOP, self.name.encode(), now_ms)
        self._leading.pump_all(self.commit, now_ms)
        self._advance()

    def _follow(self, leader: NodeId | None, now_ms: int) -> None:
        """Become (or stay) a follower in the current term."""
        if self._leading:
            assert not self._leading.fresh, "effects were not taken"
            self._last = self._leading.last
            self._leading = None
            self._reserved = False
            self._queued.clear()
        self._ballot = None
        self._become(Role.FOLLOWER)
        if leader != self.leader:
            self.leader = leader
            self._batch.leader_changed = True
        self._draw_deadline(now_ms)

    def _raise_term(self, term: Term, now_ms: int) -> None:
        self._save(HardState(term=term, voted_for=None, leader=self._state.leader))
        self._verified = Index(0)
        self._follow(None, now_ms)

    # -- messages -------------------------------------------------------------------

    def receive(self, sender: NodeId, message: Message, now_ms: int) -> None:
        """Digest one message from ``sender``."""
        if message.term > self.term and not self._term_is_hypothetical(message):
            if self._must_ignore(sender, message, now_ms):
                return
            self._raise_term(message.term, now_ms)
        elif message.term < self.term:
            self._enlighten(sender, message)
            return
        match message:
            case VoteRequest():
                self._on_vote_request(sender, message, now_ms)
            case VoteResponse():
                self._on_vote_response(sender, message, now_ms)
            case Append():
                if self._accept_leader(sender, now_ms):
                    self._on_append(sender, message)
            case Heartbeat():
                if self._accept_leader(sender, now_ms):
                    self._advance_to(message.commit)
                    if message.round:
                        self._report(round_=message.round)
                    if message.want_applied:
                        self._report_applied_at = min(message.commit, self.commit)
                        self._report_applied()
            case AppendResponse():
                self._on_append_response(sender, message, now_ms)
            case SnapshotNeeded():
                if self._accept_leader(sender, now_ms):
                    self._batch.snapshot_from = sender
            case TimeoutNow():
                self.campaign(now_ms, force=True)
            case ReadIndex():
                if self._leading:
                    self._leading.reads.ask((sender, message.number))
                    self._answer_reads(now_ms)
            case ReadIndexResponse():
                self._batch.read_indexes.append((message.number, message.index))

    def _must_ignore(self, sender: NodeId, message: Message, now_ms: int) -> bool:
        """A vote request while a leader is alive; unless it is that leader's own, which has restarted then."""
        return (
            isinstance(message, VoteRequest)
            and not message.force
            and sender != self.leader
            and self._leader_alive(now_ms)
        )

    @staticmethod
    def _term_is_hypothetical(message: Message) -> bool:
        """A pre-vote speaks of a term that nobody has entered."""
        return (
            isinstance(message, VoteRequest | VoteResponse)
            and message.pre
            and (isinstance(message, VoteRequest) or message.granted)
        )

    def _enlighten(self, sender: NodeId, message: Message) -> None:
        """Tell the sender of an old term ours."""
        match message:
            case Append() | Heartbeat() | SnapshotNeeded():
                self._send(
                    sender,
                    AppendResponse(self.term, False, Index(0), Index(0), Index(0), Term(0), Index(0), 0),
                )
            case VoteRequest():
                self._send(
                    sender, VoteResponse(self.term, False, message.pre, self.incarnation, "term is old")
                )
            case _:
                pass

    def _accept_leader(self, sender: NodeId, now_ms: int) -> bool:
        """The sender leads our term; False (and nothing happens) when we know another leader of it."""
        assert self._leading is None, f"two leaders in term {self.term}: {self.name} and {sender}"
        if self.leader not in (None, sender):
            return False
        if self._state.leader != sender:
            self._save(HardState(term=self.term, voted_for=self._state.voted_for, leader=sender))
        self._silences = 0
        if self.role is not Role.FOLLOWER or self.leader != sender:
            self._follow(sender, now_ms)
        else:
            self._extend_deadline(now_ms)
        return True

    # -- leading --------------------------------------------------------------------

    def reserve(self) -> Slot | None:
        """The place of the next entry, for the writer alone until ``release``; None when it is taken."""
        if self._leading is None or self._reserved or self._queued:
            return None
        self._reserved = True
        return self._leading.last_slot()

    def append(self, entries: list[Entry], now_ms: int) -> bool:
        """Entries that the writer made at the reserved slot; False when this node no longer leads their term."""
        if self._leading is None or not entries or entries[0].term != self.term:
            return False
        assert self._reserved
        self._leading.extend(entries)
        self._leading.pump_all(self.commit, now_ms)
        self._batch.progress_changed = True
        return True

    def release(self, now_ms: int) -> None:
        """The writer is between groups: what queued behind it may follow."""
        self._reserved = False
        if self._leading is None:
            return
        queued, self._queued = self._queued, []
        for kind, body in queued:
            self._append_now(kind, body, now_ms)
        if queued:
            self._leading.pump_all(self.commit, now_ms)

    def propose(self, kind: EntryKind, body: bytes, now_ms: int) -> None:
        """Append a barrier entry (configs go through ``change``), behind a running group."""
        if self._leading is None:
            raise NotLeader(f"{self.name} does not lead", leader=self.leader)
        if self._reserved:
            self._queued.append((kind, body))
            return
        self._append_now(kind, body, now_ms)
        self._leading.pump_all(self.commit, now_ms)

    def change(self, membership: Membership, now_ms: int) -> None:
        """Start a change of membership or settings; one at a time, and only in a reign that has committed."""
        if self._leading is None:
            raise NotLeader(f"{self.name} does not lead", leader=self.leader)
        if self.history.index > self.commit or any(kind is EntryKind.CONFIG for kind, _ in self._queued):
            raise Unavailable(
                "another change of membership is under way", hint="wait until it is committed, then repeat"
            )
        if self.commit < self._leading.first_own:
            raise Unavailable("the leader has not committed in its term yet", hint="repeat in a moment")
        current = self.membership
        if current is not None and differing_voters(current, membership) > 1:
            raise UsageError(
                "only one voter can change at a time", hint="make the changes one after the other"
            )
        self.propose(EntryKind.CONFIG, membership.encode(), now_ms)

    def _append_now(self, kind: EntryKind, body: bytes, now_ms: int) -> None:
        leading = self._leading
        assert leading is not None and not self._reserved
        entry = encode_entry(leading.last_slot(), kind, body, time_us=self.wall_us)
        leading.extend([entry])
        if kind is EntryKind.CONFIG:
            self._learn(entry)
            assert self.membership is not None
            leading.adopt(self.membership, now_ms)

    def _on_append_response(self, sender: NodeId, message: AppendResponse, now_ms: int) -> None:
        leading = self._leading
        progress = leading.followers.get(sender) if leading else None
        if leading is None or progress is None:
            return
        if leading.answer(progress, message, now_ms):
            self._batch.progress_changed = True
            self._advance()
        self._answer_reads(now_ms)
        leading.pump(progress, self.commit, now_ms)

    def connected(self, name: NodeId, now_ms: int) -> None:
        """The network has a fresh connection to ``name``."""
        if self._leading:
            self._leading.connected(name, self.commit, now_ms)
        elif self._ballot and name in self.voters - self._ballot.granted:
            self._ask_for_vote(name, self._ballot)  # the first request may have been lost

    def disconnected(self, name: NodeId, now_ms: int) -> None:
        """The connection on which ``name`` speaks broke: most likely its process has died.

        A follower of it loses its patience soon, unless the leader calls again.  Nothing is risked by an error:
        the pre-vote asks the others, who refuse while they hear the leader.
        """
        settings = self.membership.settings if self.membership else None
        if self._leading or name != self.leader or settings is None or settings.authority != "auto":
            return
        self._leader_gone = True
        patience = self.timing.heartbeat_ms + self._random.randrange(2 * self.timing.heartbeat_ms)
        self._deadline_ms = min(self._deadline_ms, now_ms + patience)

    def resign(self, now_ms: int) -> None:
        """This node cannot go on leading: let another one be elected."""
        if self._leading:
            self._follow(None, now_ms)

    def hand_over(self, target: NodeId) -> None:
        """Leader: have ``target`` campaign at once; to be called when it has everything."""
        if self._leading:
            self._send(target, TimeoutNow(self.term))

    # -- reads -----------------------------------------------------------------------

    def read_index(self, number: int, now_ms: int) -> None:
        """Ask for the index that makes a read linearizable; it comes as ``Batch.read_indexes``."""
        if self._leading:
            self._leading.reads.ask((None, number))
            self._answer_reads(now_ms)
        elif self.leader is not None:
            self._send(self.leader, ReadIndex(self.term, number))

    def _answer_reads(self, now_ms: int) -> None:
        assert self._leading is not None
        for (asker, number), index in self._leading.reads_ready(self.commit, self.voters, now_ms):
            if asker is None:
                self._batch.read_indexes.append((number, index))
            else:
                self._send(asker, ReadIndexResponse(self.term, number, index))

    def final_with(self, index: Index, receiver: NodeId | None) -> bool:
        """Leader: whether nothing can take ``index`` back once ``receiver`` has it, too (see ``would_commit``)."""
        leading = self._leading
        return leading is not None and leading.would_commit(index, self.durable, self.voters, receiver)

    def durable_to(self, position: Position, now_ms: int) -> None:
        """This node's log is synced up to ``position``."""
        if self._position_at(position.index) != position:
            return  # synced, then truncated
        self.durable = max(self.durable, position.index)
        if self._leading:
            self._batch.progress_changed = True
            self._advance()
            self._answer_reads(now_ms)
        elif self.leader is not None and self._verified:
            self._report()

    def saved(self, state: HardState, now_ms: int) -> None:
        """This hard state is durable: with it the vote that a candidate gave to itself."""
        ballot = self._ballot
        if ballot and not ballot.pre and state.term == self.term and state.voted_for == self.name:
            ballot.granted.add(self.name)
            self._count(now_ms)

    def applied_to(self, index: Index) -> None:
        self.applied = index
        if self._report_applied_at:
            self._report_applied()

    def _advance(self) -> None:
        """Raise the commit index when a majority has more."""
        leading = self._leading
        assert leading is not None and self.membership is not None
        designated = self.membership.settings.authority == "designated"
        index = leading.committable(self.voters, self.durable, own_required=designated)
        if index > self.commit:
            self.commit = index
            self._batch.commit = index
            self._batch.progress_changed = True

    def ask_resync(self, name: NodeId) -> None:
        """Leader: the follower's database was found to differ; it must compare its units with ours."""
        if self._leading:
            self._send(name, SnapshotNeeded(self.term, self.log.base.index))

    def announce_commit(self, *, want_applied: bool = False) -> None:
        """Tell followers at once how far they may apply (when no append is on its way)."""
        if self._leading:
            self._leading.announce(self.commit, want_applied=want_applied)

    def missing(self, durability: Durability, now_ms: int) -> str | None:
        """Leader: why this durability cannot be reached as things are now."""
        assert self._leading is not None
        return missing(durability, self._leading.facts(self.commit, self.durable, self.voters, now_ms))
