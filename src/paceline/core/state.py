"""What a replica knows, and the doors through which its effects leave: shared by all of its halves.

``campaigning.py`` holds the elections, ``following.py`` the follower's half; the leader's is an object of
its own (``leading.py``) that lives only while there is a reign.  ``replica.py`` joins them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from paceline.core.durability import Durability
from paceline.core.effects import Batch, LogView, Random, Role, Timing
from paceline.core.election import Ballot
from paceline.core.entry import EntryKind
from paceline.core.hardstate import HardState
from paceline.core.leading import Leading
from paceline.core.membership import History, Membership
from paceline.core.messages import Message
from paceline.core.progress import Progress
from paceline.ids import Index, NodeId, Position, Term

__all__ = ["ReplicaState"]


class ReplicaState(ABC):
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
        self._report_applied_at = Index(0)
        """The leader wants to hear when this is applied; 0: nothing."""
        self.database_end = Index(0)
        """Up to here the database may hold entries of this log, applied or about to be."""
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
        self._leader_gone = False
        """Its connection broke and it was not heard of since."""
        self._silences = 0
        """Patiences that ended in a row without word of a leader."""
        self._deadline_ms = now_ms
        self._luck = 0
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

    @abstractmethod
    def _lead(self, now_ms: int) -> None: ...

    def _become(self, role: Role) -> None:
        if role is not self.role:
            self.role = role
            self._batch.role = role

    def leader_lost(self) -> None:
        if self.leader is not None:
            self.leader = None
            self._batch.leader_changed = True

    def _draw_deadline(self, now_ms: int) -> None:
        """A new random patience, from now on."""
        self._luck = self._random.randrange(1000)
        self._extend_deadline(now_ms)

    def _extend_deadline(self, now_ms: int) -> None:
        """The same patience once more: the leader was heard."""
        base = self.timing.election_timeout_ms
        settings = self.membership.settings if self.membership else None
        if settings and settings.authority == "designated" and settings.leader == self.name:
            base = 2 * self.timing.heartbeat_ms  # nobody else campaigns: no reason to wait
        self._quiet_since_ms = now_ms
        self._leader_gone = False
        self._deadline_ms = now_ms + base + base * self._luck // 1000

    def _position_at(self, index: Index) -> Position | None:
        """Like the log's, with the entries of this step."""
        if self._leading:
            return self._leading.position_at(index)
        fresh = self._batch.entries
        if fresh and index >= fresh[0].index:
            offset = index - fresh[0].index
            return fresh[offset].position if offset < len(fresh) else None
        return self.log.position_at(index) if index <= self._last.index else None

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
