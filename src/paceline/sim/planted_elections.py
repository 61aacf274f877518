"""Bugs planted into elections, rewinds, snapshots of elected leaders and changes of membership (see ``planted.py``)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest.mock import patch

import msgspec

from paceline.core.effects import Batch
from paceline.core.hardstate import HardState
from paceline.core.leading import Leading
from paceline.core.membership import Membership
from paceline.core.readindex import ReadRounds
from paceline.core.replica import Replica
from paceline.errors import NotLeader
from paceline.files import Steps
from paceline.ids import Index, NodeId, Position
from paceline.log.journal import Log
from paceline.log.plan import Plan
from paceline.log.tail import Tail
from paceline.log.writer import Writer
from paceline.node.acks import Acks
from paceline.node.node import Node
from paceline.node.rewinding import Rewinding
from paceline.node.syncing import Syncing
from paceline.sim.engine import MemoryEngine
from paceline.sim.planting import (
    CHANGES,
    CRASHES,
    CUTS,
    ELECTIONS,
    FOLLOWS,
    REWINDS,
    SLOW_GROUPS,
    SNAPSHOTS,
    Planted,
    patched,
)
from paceline.sim.process import Process

__all__ = ["ELECTION_BUGS"]


def _commits_older_terms() -> Any:
    """Entries of earlier terms are committed by counting (Raft, figure 8)."""

    def make(original: Any) -> Any:
        def committable(self: Leading, *args: Any, **kwargs: Any) -> Index:
            first, self.first_own = self.first_own, Index(0)
            try:
                return original(self, *args, **kwargs)  # type: ignore[no-any-return]
            finally:
                self.first_own = first

        return committable

    return patched(Leading, "committable", make)


def _truncated_comes_back() -> Any:
    """A truncation is made in memory; the file keeps what was behind it, and the next start finds it again."""
    return patch.object(Writer, "_cut", lambda self, cut: None)


def _old_segments_count() -> Any:
    """A reset log has no generation of its own: segments from before, which a crash left there, are read with it."""

    def make(original: Any) -> Any:
        def reset(self: Log, base: Position) -> None:
            original(self, base)
            header = self._segments[-1].header
            same = type(header)(
                cluster=header.cluster,
                generation=header.generation - 1,
                before=header.before,
                time_us=header.time_us,
            )
            self._segments[-1].header = same
            self._plan.restart(same)

        return reset

    return patched(Log, "reset", make)


def _entries_before_term() -> Any:
    """Entries of the new term reach the disk before the term itself does."""

    def make(original: Any) -> Any:
        def perform(self: Writer, plan: Plan) -> Steps[None]:
            vote, plan.vote = plan.vote, None
            yield from original(self, plan)
            plan.vote = vote
            yield from original(self, plan)

        return perform

    return patched(Writer, "perform", make)


def _position_behind_data() -> Any:
    """What the database says of its position is one transaction older than what it holds."""

    def make(original: Any) -> Any:
        def opened(self: MemoryEngine) -> Any:
            original(self)
            if len(self._commits) > 1 and not self._commits[-1].led:
                self.state.position = self._commits[-1].before
            return self.position()

        return opened

    return patched(MemoryEngine, "open", make)


def _refuses_what_has_run() -> Any:
    """A leader that steps down tells clients 'not leader, nothing happened' of writes that are in its log."""

    def make(original: Any) -> Any:
        def abandon(self: Acks, reason: str) -> None:
            for items in self._levels.values():
                while items:
                    item = items.popleft()
                    self.waiting -= len(item.replies)
                    for reply in item.replies:
                        reply.done(NotLeader(reason, leader=None))

        return abandon

    return patched(Acks, "abandon", make)


def _empty_disk_is_the_member() -> Any:
    """A node's name is its identity: with an empty directory it votes and counts as before."""

    def make(original: Any) -> Any:
        def new_identity(self: Process) -> Any:
            identity = original(self)
            return msgspec.structs.replace(identity, incarnation=f"always-{self.name}")

        return new_identity

    return patched(Process, "_new_identity", make)


def _elects_old_logs() -> Any:
    """Votes are given without a look at the candidate's log: an out-of-date replica is promoted."""

    def careless(candidate: NodeId, request: Any, *, state: HardState, last: Position, settings: Any) -> Any:
        taken = not request.pre and state.voted_for not in (None, candidate)
        return "voted already" if taken else None

    return patch("paceline.core.campaigning.refusal", careless)


def _vote_before_durable() -> Any:
    """Votes, and requests for them, leave before term and vote are on the disk."""

    def make(original: Any) -> Any:
        def hold(self: Syncing, batch: Batch) -> None:
            for to, message in batch.after_hard_state:
                self._node.ports.send(to, message)

        return hold

    return patched(Syncing, "hold", make)


def _vote_erased_by_step_down() -> Any:
    """Whoever becomes a follower again in the same term may vote once more."""

    def make(original: Any) -> Any:
        def follow(self: Replica, leader: NodeId | None, now_ms: int) -> None:
            original(self, leader, now_ms)
            self._state = HardState(self.term, None, self._state.commit, self._state.leader)

        return follow

    return _both(
        patched(Replica, "_follow", make), patch.object(HardState, "may_become", lambda self, new: True)
    )


def _no_check_quorum() -> Any:
    """A leader that hears nobody goes on leading."""
    return patch.object(Leading, "heard_majority", lambda self, voters, now_ms: True)


def _reads_without_round() -> Any:
    """A linearizable read is answered before a majority has confirmed the leader."""

    def make(original: Any) -> Any:
        def advance(self: ReadRounds, commit: Index, first: Index, confirmed: Any, beat: Any) -> Any:
            return original(self, commit, first, lambda round_: True, beat)

        return advance

    return patched(ReadRounds, "advance", make)


def _reads_before_own_commit() -> Any:
    """A new leader's commit index is taken for the truth before its reign has committed anything."""

    def make(original: Any) -> Any:
        def advance(self: ReadRounds, commit: Index, first: Index, confirmed: Any, beat: Any) -> Any:
            return original(self, commit, Index(0), confirmed, beat)

        return advance

    return patched(ReadRounds, "advance", make)


def _commit_falls() -> Any:
    """A leader that becomes a follower forgets how much was committed."""

    def make(original: Any) -> Any:
        def follow(self: Replica, leader: NodeId | None, now_ms: int) -> None:
            led = self._leading is not None
            original(self, leader, now_ms)
            if led:
                self.commit = self.log.base.index

        return follow

    return patched(Replica, "_follow", make)


def _rewinds_the_log_only() -> Any:
    """A rewind takes back the log, not the database."""

    def make(original: Any) -> Any:
        def undo_logged(self: Rewinding, fork: Index, entries: Any) -> None:
            self._node.set_applied(fork)
            self._node.replica.rewound()
            self._node.drain()

        return undo_logged

    return patched(Rewinding, "_undo_logged", make)


def _stranded_stays() -> Any:
    """What a leader executed after its reign was over stays in its database."""
    return patch.object(Rewinding, "strand", lambda self, entries, local: None)


def _snapshot_of_uncommitted() -> Any:
    """A snapshot is handed out before its state is committed."""

    def make(original: Any) -> Any:
        def when_final(
            self: Node, position: Position, receiver: Any, deadline_ms: int, go: Callable[[], None], late: Any
        ) -> None:
            go()

        return when_final

    return patched(Node, "when_final", make)


def _stale_cache() -> Any:
    """The cache of entries keeps what was truncated and does not take what came instead."""

    class Forgetful(dict):  # type: ignore[type-arg]
        def __setitem__(self, index: int, entry: Any) -> None:
            self.setdefault(index, entry)

        def pop(self, index: int, *default: Any) -> Any:
            return self.get(index, *default)

    def make_init(original: Any) -> Any:
        def init(self: Tail, first: Index, bytes_max: int) -> None:
            original(self, first, bytes_max)
            self._entries = Forgetful()

        return init

    return patched(Tail, "__init__", make_init)


def _learners_vote() -> Any:
    """A node that was only just let in counts at once."""

    def make(original: Any) -> Any:
        def with_member(self: Membership, member: Any) -> Membership:
            return original(self, msgspec.structs.replace(member, voter=True))  # type: ignore[no-any-return]

        return with_member

    return patched(Membership, "with_member", make)


@contextmanager
def _both(*plants: Any) -> Any:
    with ExitStack() as stack:
        for plant in plants:
            stack.enter_context(plant)
        yield


def _elections(plant: Any, cites: str, directed: Any = ELECTIONS, *, rare: bool = False) -> Planted:
    return Planted(plant=plant, cites=cites, authority="auto", directed=directed, rare=rare)


ELECTION_BUGS: Final[dict[str, Planted]] = {
    "commits-older-terms": _elections(_commits_older_terms, "18 (canonical/raft #220)"),
    "truncated-comes-back": _elections(_truncated_comes_back, "19 (etcd #22442)", REWINDS),
    "old-segments-count": _elections(_old_segments_count, "24 (canonical/raft #373)", SNAPSHOTS),
    "entries-before-term": _elections(_entries_before_term, "33 (TigerBeetle 2295)", FOLLOWS, rare=True),
    "position-behind-data": _elections(_position_behind_data, "49 (etcd #13766)", CRASHES),
    "refuses-what-has-run": _elections(_refuses_what_has_run, "84 (openraft #2095)"),
    "empty-disk-is-the-member": _elections(_empty_disk_is_the_member, "85 (openraft 2002)", CHANGES),
    "elects-old-logs": _elections(_elects_old_logs, "87 (GitHub 2012-09)"),
    "vote-before-durable": _elections(_vote_before_durable, "7 (robustmq 2039)"),
    "vote-erased-by-step-down": _elections(_vote_erased_by_step_down, "2 (CCF 8094)"),
    "no-check-quorum": _elections(_no_check_quorum, "45 (lavinmq #2151)", CUTS),
    "reads-without-round": _elections(_reads_without_round, "79 (d-engine #381)", CUTS, rare=True),
    "reads-before-own-commit": _elections(_reads_before_own_commit, "80 (RedisRaft 22)"),
    "commit-falls": _elections(_commit_falls, "32 (CCF #5674)"),
    "rewinds-the-log-only": _elections(_rewinds_the_log_only, "88 (Patroni #3685)", REWINDS),
    "stranded-stays": _elections(_stranded_stays, "87 (orchestrator #854)", SLOW_GROUPS),
    "snapshot-of-uncommitted": _elections(_snapshot_of_uncommitted, "20 (etcd 1763)", SNAPSHOTS, rare=True),
    "stale-cache": _elections(_stale_cache, "21 (CockroachDB 63302)", REWINDS),
    "learners-vote": _elections(_learners_vote, "85 (Ongaro 2015)", CHANGES),
}
