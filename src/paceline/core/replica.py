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

from paceline.core.durability import Durability
from paceline.core.effects import Batch, LogView, Random, Role, Timing
from paceline.core.election import Ballot, may_campaign, refusal
from paceline.core.entry import Entry, EntryKind, encode_entry
from paceline.core.hardstate import HardState
from paceline.core.leading import Leading
from paceline.core.membership import History, Membership, differing_voters
from paceline.core.messages import (
    Append,
    AppendResponse,
    Heartbeat,
    Message,
    SnapshotNeeded,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from paceline.core.progress import Progress
from paceline.errors import NotLeader, Unavailable, UsageError
from paceline.ids import Index, NodeId, Position, Slot, Term

__all__ = ["Replica"]


class Replica:
    """Invariants: term never falls; at most one vote a term; commit never falls; commit <= log end.

    ``durable`` and ``applied`` are what the driver last reported of this node's own log and database.
    """

    def __init__(
        self,
        *,
        name: NodeId,
        incarnation: str,
        log: LogView,
        hard_state: HardState,
        history: History,
        commit: Index,
        timing: Timing,
        random: Random,
        now_ms: int,
    ) -> None:
        self.name = name
        self.incarnation = incarnation
        self.log = log
        self.history = history
        self.timing = timing
        self.role = Role.FOLLOWER
        self.leader: NodeId | None = None
        self.commit = commit
        self.durable = log.last.index
        self.applied = Index(0)
        self.wall_us = 0
        self.health = "ok"
        self._state = hard_state
        self._random = random
        self._batch = Batch()
        self._leading: Leading | None = None
        self._ballot: Ballot | None = None
        self._verified = Index(0)
        self._last = log.last
        self._reserved = False
        self._queued: list[tuple[EntryKind, bytes]] = []
        self._quiet_since_ms = now_ms
        self._deadline_ms = now_ms
        self._draw_deadline(now_ms)

    # -- what outsiders may look at ---------------------------------------------

    @property
    def term(self) -> Term:
        return self._state.term

    @property
    def hard_state(self) -> HardState:
        return self._state

    @property
    def last(self) -> Position:
        """End of the log, entries of this step included."""
        return self._leading.last if self._leading else self._last

    @property
    def membership(self) -> Membership | None:
        return self.history.current

    @property
    def voters(self) -> frozenset[NodeId]:
        return self.history.voters

    @property
    def followers(self) -> dict[NodeId, Progress]:
        return self._leading.followers if self._leading else {}

    def reached(self, durability: Durability, now_ms: int) -> Index:
        """Leader: the highest index that has this durability now."""
        assert self._leading is not None
        return self._leading.reached(durability, self.commit, self.durable, self.voters, now_ms)

    def take(self) -> Batch:
        """The effects of the last input."""
        batch, self._batch = self._batch, Batch()
        if self._leading:
            batch.entries = self._leading.fresh
            self._leading.fresh = []
        return batch

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
            self.campaign(now_ms)

    def leader_lost(self) -> None:
        if self.leader is not None:
            self.leader = None
            self._batch.leader_changed = True

    def _draw_deadline(self, now_ms: int) -> None:
        base = self.timing.election_timeout_ms
        settings = self.membership.settings if self.membership else None
        if settings and settings.authority == "designated" and settings.leader == self.name:
            base = 2 * self.timing.heartbeat_ms  # nobody else campaigns: no reason to wait
        self._quiet_since_ms = now_ms
        self._deadline_ms = now_ms + base + self._random.randrange(max(1, base))

    # -- elections ------------------------------------------------------------------

    def campaign(self, now_ms: int, *, force: bool = False) -> None:
        """Ask for votes, if this node may lead.  With authority ``auto`` a pre-vote comes first."""
        membership = self.membership
        if membership is None or self._leading:
            return
        me = membership.member(self.name)
        if me is None or me.incarnation != self.incarnation:
            return
        if not may_campaign(self.name, membership.settings, voter=me.voter):
            return
        if self._ballot is not None and membership.settings.authority == "designated" and not force:
            # Nobody else campaigns: votes of this term are merely slow, and a new term would void them.
            for voter in sorted(self.voters - self._ballot.granted - {self.name}):
                self._ask_for_vote(voter, self._ballot)
            return
        pre = membership.settings.authority == "auto" and not force
        self._stand(now_ms, pre=pre, force=force)

    def _stand(self, now_ms: int, *, pre: bool, force: bool) -> None:
        self._become(Role.CANDIDATE)
        if not pre:
            self._save(HardState(term=Term(self.term + 1), voted_for=self.name, leader=self._state.leader))
        # Its own vote counts like any other: when it is durable (see ``saved``).
        self._ballot = Ballot(pre=pre, granted={self.name} if pre else set(), refused={})
        for voter in sorted(self.voters - {self.name}):
            self._ask_for_vote(voter, self._ballot, force=force)
        self._count(now_ms, force=force)

    def _ask_for_vote(self, voter: NodeId, ballot: Ballot, *, force: bool = False) -> None:
        term = Term(self.term + 1) if ballot.pre else self.term
        self._after_hard_state(voter, VoteRequest(term, self.last.term, self.last.index, ballot.pre, force))

    def _count(self, now_ms: int, *, force: bool = False) -> None:
        ballot = self._ballot
        assert ballot is not None
        if ballot.won(self.voters):
            if ballot.pre:
                self._stand(now_ms, pre=False, force=force)
            else:
                self._lead(now_ms)
        elif ballot.lost(self.voters):
            self._ballot = None
            self._become(Role.FOLLOWER)

    def _on_vote_request(self, sender: NodeId, message: VoteRequest, now_ms: int) -> None:
        settings = self.membership.settings if self.membership else None
        if message.pre:
            reason = (
                "term is old"
                if message.term <= self.term
                else refusal(sender, message, state=self._state, last=self.last, settings=settings)
            )
            if reason is None and self._leader_alive(now_ms):
                reason = f"{self.leader} is alive"
            term = message.term if reason is None else self.term
            self._send(sender, VoteResponse(term, reason is None, True, self.incarnation, reason or ""))
            return
        reason = refusal(sender, message, state=self._state, last=self.last, settings=settings)
        if reason is None:
            if self._state.voted_for is None:
                self._save(HardState(term=self.term, voted_for=sender, leader=self._state.leader))
            self._draw_deadline(now_ms)
        response = VoteResponse(self.term, reason is None, False, self.incarnation, reason or "")
        self._after_hard_state(sender, response)

    def _on_vote_response(self, sender: NodeId, message: VoteResponse, now_ms: int) -> None:
        ballot = self._ballot
        expected = self.term + 1 if ballot and ballot.pre else self.term
        if ballot is None or message.pre != ballot.pre or (message.granted and message.term != expected):
            return
        member = self.membership.member(sender) if self.membership else None
        if member is None or member.incarnation != message.incarnation:
            return
        if message.granted:
            ballot.granted.add(sender)
            ballot.refused.pop(sender, None)
        else:
            ballot.refused[sender] = message.reason
        self._count(now_ms)

    def _leader_alive(self, now_ms: int) -> bool:
        if self._leading:
            return self._leading.heard_majority(self.voters, now_ms)
        return self.leader is not None and now_ms - self._quiet_since_ms < self.timing.election_timeout_ms

    # -- roles --------------------------------------------------------------------

    def _become(self, role: Role) -> None:
        if role is not self.role:
            self.role = role
            self._batch.role = role

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
            case AppendResponse():
                self._on_append_response(sender, message, now_ms)
            case SnapshotNeeded():
                if self._accept_leader(sender, now_ms):
                    self._batch.snapshot_from = sender
            case TimeoutNow():
                self.campaign(now_ms, force=True)

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
        if self.role is not Role.FOLLOWER or self.leader != sender:
            self._follow(sender, now_ms)
        else:
            self._draw_deadline(now_ms)
        return True

    # -- following ------------------------------------------------------------------

    def _on_append(self, sender: NodeId, message: Append) -> None:
        here = self._position_at(message.prev_index)
        if here != message.prev:
            if message.prev_index < self.log.base.index:
                message = self._beyond_base(message)
                if not message.entries and message.prev != self.log.base:
                    return
            else:
                self._refuse(sender, message.prev_index)
                return
        self._take_entries(message)
        self._verified = max(self._verified, Index(message.prev_index + len(message.entries)))
        self._advance_to(message.commit)
        if self.durable >= self._verified:
            self._report()  # else the sync that these entries wait for reports them

    def _beyond_base(self, message: Append) -> Append:
        """Entries at or before our base are committed and covered by a snapshot: skip them."""
        base = self.log.base
        for count, entry in enumerate(message.entries):
            if entry.position == base:
                return Append(
                    message.term,
                    base.term,
                    base.index,
                    base.chain,
                    message.commit,
                    message.entries[count + 1 :],
                )
        return Append(message.term, message.prev_term, message.prev_index, message.prev_chain, message.commit)

    def _take_entries(self, message: Append) -> None:
        for count, entry in enumerate(message.entries):
            here = self._position_at(entry.index)
            if here is not None and here.chain == entry.chain:
                continue
            if here is not None:
                self._truncate(Index(entry.index - 1))
            for new in message.entries[count:]:
                assert new.follows(self._last), "an append's entries are one chain"
                self._batch.entries.append(new)
                self._last = new.position
                if new.kind is EntryKind.CONFIG:
                    self._learn(new)
            return

    def _truncate(self, after: Index) -> None:
        assert after >= self.commit, "committed entries are never removed"
        position = self._position_at(after)
        assert position is not None and not self._batch.entries
        self._batch.truncate_after = after
        self._last = position
        self.durable = min(self.durable, after)
        self.history.truncate(after)
        self._batch.membership_changed = True

    def _learn(self, entry: Entry) -> None:
        self.history.append(entry.index, Membership.decode(entry.body))
        self._batch.membership_changed = True

    def _refuse(self, sender: NodeId, prev_index: Index) -> None:
        hint = self._position_at(min(prev_index, self._last.index)) or self.log.base
        self._send(
            sender,
            AppendResponse(
                self.term, False, Index(0), Index(0), self.applied, hint.term, hint.index, 0, self.health
            ),
        )

    def _report(self, round_: int = 0) -> None:
        """Tell the leader how far this node is."""
        assert self.leader is not None
        self._send(
            self.leader,
            AppendResponse(
                self.term,
                True,
                min(self.durable, self._verified),
                self._verified,
                self.applied,
                Term(0),
                Index(0),
                round_,
                self.health,
            ),
        )

    def _position_at(self, index: Index) -> Position | None:
        """Like the log's, with the entries of this step."""
        if self._leading:
            return self._leading.position_at(index)
        fresh = self._batch.entries
        if fresh and index >= fresh[0].index:
            offset = index - fresh[0].index
            return fresh[offset].position if offset < len(fresh) else None
        return self.log.position_at(index) if index <= self._last.index else None

    def _advance_to(self, commit: Index) -> None:
        commit = min(commit, self._verified)
        if commit > self.commit:
            self.commit = commit
            self._batch.commit = commit

    def installed(self, base: Position, membership: Membership, *, durable: Index) -> None:
        """A snapshot at ``base`` is in place; the log was reset to it, or goes on behind it."""
        assert self._leading is None and self._batch.truncate_after is None
        self._last = self.log.last
        self.durable = durable
        if self.log.base == base:
            self.history.reset(base.index, membership)
            self._batch.membership_changed = True
        self._verified = min(max(self._verified, base.index), self._last.index)
        if base.index > self.commit:
            self.commit = base.index
            self._batch.commit = base.index
        if self.leader is not None:
            self._report()

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
        leading.pump(progress, self.commit, now_ms)

    def connected(self, name: NodeId, now_ms: int) -> None:
        """The network has a fresh connection to ``name``."""
        if self._leading:
            self._leading.connected(name, self.commit, now_ms)
        elif self._ballot and name in self.voters - self._ballot.granted:
            self._ask_for_vote(name, self._ballot)  # the first request may have been lost

    def durable_to(self, position: Position, now_ms: int) -> None:
        """This node's log is synced up to ``position``."""
        if self._position_at(position.index) != position:
            return  # synced, then truncated
        self.durable = max(self.durable, position.index)
        if self._leading:
            self._batch.progress_changed = True
            self._advance()
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

    def announce_commit(self) -> None:
        """Tell followers at once how far they may apply (when no append is on its way)."""
        if self._leading:
            self._leading.announce(self.commit)

    # -- effects ----------------------------------------------------------------------

    def _send(self, to: NodeId, message: Message) -> None:
        self._batch.messages.append((to, message))

    def _after_hard_state(self, to: NodeId, message: Message) -> None:
        self._batch.after_hard_state.append((to, message))

    def _save(self, state: HardState) -> None:
        assert state.term >= self._state.term, "the term never falls"
        assert state.term > self._state.term or self._state.voted_for in (None, state.voted_for), (
            "one vote a term"
        )
        if state != self._state:
            self._state = state
            self._batch.hard_state = state
