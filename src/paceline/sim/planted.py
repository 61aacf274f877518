"""Bugs planted into the replication of the shipped code; the others stand in ``planted_*.py``, the table of all here.

Each is a small change of the kind that real systems had (acknowledge before the sync, forget the vote,
truncate what is committed ...), switched on from outside for the length of one run.  The shipped code has no
switches for them.  A checker that never caught a planted bug proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from unittest.mock import patch

import msgspec

from paceline.core.durability import Facts
from paceline.core.hardstate import HardState
from paceline.core.leading import Leading
from paceline.core.replica import Replica
from paceline.engines.base import WriteRequest
from paceline.ids import Index
from paceline.log.custody import Custody
from paceline.log.journal import Log
from paceline.log.vote import VoteFile
from paceline.log.writer import Writer
from paceline.node.acks import Acks
from paceline.node.applies import Applies
from paceline.node.checkpoints import Checkpoints
from paceline.node.installing import InstallActions
from paceline.node.reads import Reads
from paceline.sim.engine import MemoryEngine
from paceline.sim.main import simulate
from paceline.sim.planted_elections import ELECTION_BUGS
from paceline.sim.planted_sqlite import SQLITE_BUGS
from paceline.sim.planting import CRASHES, ELECTIONS, SNAPSHOTS, Planted, patched

__all__ = ["PLANTED", "planted", "search"]


def _reports_received_as_durable() -> Any:
    """A follower acknowledges before its fsync."""

    def make(original: Any) -> Any:
        def report(self: Replica, round_: int = 0) -> None:
            real, self.durable = self.durable, self._verified
            try:
                original(self, round_)
            finally:
                self.durable = real

        return report

    return patched(Replica, "_report", make)


def _leader_counts_unsynced() -> Any:
    """A leader counts its own entries before its fsync (d-engine #446, etcd #14370)."""

    def make(original: Any) -> Any:
        def committable(self: Leading, voters: Any, own_durable: Index, *, own_required: bool) -> Index:
            return original(self, voters, self.last.index, own_required=own_required)  # type: ignore[no-any-return]

        return committable

    return patched(Leading, "committable", make)


def _vote_is_not_synced() -> Any:
    """The vote file is written, never synced (robustmq 2039)."""

    def make(original: Any) -> Any:
        def save(self: VoteFile, state: HardState) -> None:
            file, self._file = self._file, _Unsynced(self._file)
            try:
                original(self, state)
            finally:
                self._file = file

        return save

    return patched(VoteFile, "save", make)


class _Unsynced:
    def __init__(self, file: Any) -> None:
        self._file = file

    def sync(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _log_is_not_synced() -> Any:
    """The log says durable, and never asked the disk."""

    def make(original: Any) -> Any:
        def write(self: Writer, run: Any) -> Any:
            file = self._file(run.header.name)
            name = run.header.name
            self._open = (name, _Unsynced(file))
            yield from original(self, run)

        return write

    return patched(Writer, "_write", make)


def _commits_what_one_has() -> Any:
    """A majority of one: the leader's own disk is enough."""

    def make(original: Any) -> Any:
        def committable(self: Leading, voters: Any, own_durable: Index, *, own_required: bool) -> Index:
            return own_durable if own_durable >= self.first_own else Index(0)

        return committable

    return patched(Leading, "committable", make)


def _counts_one_too_many() -> Any:
    """The leader takes a follower's report for one entry more than it says."""

    def make(original: Any) -> Any:
        def answer(self: Leading, progress: Any, message: Any, now_ms: int) -> bool:
            if message.ok and message.durable < self.last.index:
                message = msgspec.structs.replace(
                    message,
                    durable=message.durable + 1,
                    received=max(message.received, message.durable + 1),
                )
            return original(self, progress, message, now_ms)  # type: ignore[no-any-return]

        return answer

    return patched(Leading, "answer", make)


def _applies_beyond_commit() -> Any:
    """A follower applies what it has, committed or not."""

    def make(original: Any) -> Any:
        def target(self: Applies) -> Index:
            return self._node.replica.durable

        return target

    return patched(Applies, "target", make)


def _forgets_requests() -> Any:
    """Repeated request ids run again (curvine #676)."""

    def make(original: Any) -> Any:
        def run(self: MemoryEngine, request: WriteRequest, index: Index, changes: Any) -> Any:
            return original(self, msgspec.structs.replace(request, request_id=None), index, changes)

        return run

    return patched(MemoryEngine, "_run", make)


def _installs_without_position() -> Any:
    """A snapshot's state comes without saying where in history it stands (rqlite #2747)."""

    def make(original: Any) -> Any:
        def write_config(self: InstallActions, plan: Any) -> None:
            original(self, msgspec.structs.replace(plan, database=None))

        return write_config

    return patched(InstallActions, "write_config", make)


def _keeps_log_at_install() -> Any:
    """The log is not reset to the snapshot."""

    def make(original: Any) -> Any:
        def reset_log(self: InstallActions, plan: Any) -> None:
            pass

        return reset_log

    return patched(InstallActions, "reset_log", make)


def _verified_is_not_reset() -> Any:
    """What the last leader verified counts for the next one: an unverified tail is reported durable and committed."""

    def make(original: Any) -> Any:
        def raise_term(self: Replica, term: Any, now_ms: int) -> None:
            original(self, term, now_ms)
            self._verified = self._last.index

        return raise_term

    return patched(Replica, "_raise_term", make)


def _reports_whole_log() -> Any:
    """``durable`` is not limited to what the leader's history is known to share."""

    def make(original: Any) -> Any:
        def report(self: Replica, round_: int = 0) -> None:
            real, self._verified = self._verified, self._last.index
            try:
                original(self, round_)
            finally:
                self._verified = real

        return report

    return patched(Replica, "_report", make)


def _skips_custody() -> Any:
    """A truncation forgets to keep what it removes."""

    def make(original: Any) -> Any:
        def keep(self: Custody, *args: Any, **kwargs: Any) -> str:
            return ""

        return keep

    return patched(Custody, "keep", make)


def _truncates_committed() -> Any:
    """A conflict truncates one entry too many."""

    def make(original: Any) -> Any:
        def truncate(self: Log, after: Index) -> None:
            original(self, Index(max(self.base.index, after - 1)))

        return truncate

    return patched(Log, "truncate", make)


def _leader_reads_uncommitted() -> Any:
    """A read at level leader does not wait for the commit (aphyr 316)."""

    def make(original: Any) -> Any:
        def answer(self: Reads, result: Any, read: str, deadline_ms: int, done: Any) -> None:
            original(self, result, "local", deadline_ms, done)

        return answer

    return patched(Reads, "_answer", make)


def _session_does_not_wait() -> Any:
    """A session read answers at once."""

    def make(original: Any) -> Any:
        def session(self: Reads, token: Any, deadline_ms: int, run: Any, done: Any) -> None:
            run()

        return session

    return patched(Reads, "_session", make)


def _acks_quorum_at_local() -> Any:
    """``quorum`` is taken for reached when the leader alone is durable."""

    def wrong(durability: Any, facts: Facts) -> Index:
        return facts.own

    return patch("paceline.core.leading.reached", wrong)


def _votes_twice() -> Any:
    """The vote is forgotten when the process starts again."""

    def make(original: Any) -> Any:
        def opened(cls: Any, files: Any, path: str) -> VoteFile:
            vote = original.__func__(cls, files, path)
            vote.state = HardState(vote.state.term, None)
            return vote  # type: ignore[no-any-return]

        return classmethod(opened)

    return patched(VoteFile, "open", make)


def _term_falls() -> Any:
    """The term is taken from zero again when the process starts."""

    def make(original: Any) -> Any:
        def opened(cls: Any, files: Any, path: str) -> VoteFile:
            vote = original.__func__(cls, files, path)
            vote.state = HardState(type(vote.state.term)(0), None)
            return vote  # type: ignore[no-any-return]

        return classmethod(opened)

    return patched(VoteFile, "open", make)


def _surplus_stays() -> Any:
    """What a killed leader executed beyond its log stays in its database."""

    def make(original: Any) -> Any:
        def surplus(self: MemoryEngine, marks: Any) -> Any:
            return []

        return surplus

    return patched(MemoryEngine, "surplus", make)


def _checkpoints_too_early() -> Any:
    """The database is checkpointed before the log is durable that far (Litestream, LiteFS PR 157)."""

    def make(original: Any) -> Any:
        def start(self: Checkpoints) -> bool:
            node = self._node
            real, node.replica.durable = node.replica.durable, node.applied
            try:
                return original(self)  # type: ignore[no-any-return]
            finally:
                node.replica.durable = real

        return start

    return patched(Checkpoints, "start", make)


def _answers_abandoned_as_done() -> Any:
    """A write whose time is up is answered as done (MongoDB 2.4.3)."""

    def make(original: Any) -> Any:
        def settle(self: Acks, replica: Replica, now_ms: int) -> None:
            original(self, _Everything(replica), now_ms)

        return settle

    return patched(Acks, "settle", make)


class _Everything:
    """A replica that has reached every level."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    def reached(self, durability: object, now_ms: int) -> Index:
        return self._replica.last.index

    def __getattr__(self, name: str) -> Any:
        return getattr(self._replica, name)


REPLICATION_BUGS: Final[dict[str, Planted]] = {
    "follower-acks-before-sync": Planted(plant=_reports_received_as_durable, cites="37 (d-engine #329)"),
    "leader-counts-unsynced": Planted(plant=_leader_counts_unsynced, cites="39 (etcd #14370)"),
    "vote-not-synced": Planted(plant=_vote_is_not_synced, cites="7 (robustmq 2039)"),
    "log-not-synced": Planted(plant=_log_is_not_synced, cites="36 (NATS 2.12.1)"),
    "majority-of-one": Planted(plant=_commits_what_one_has, cites="40 (MongoDB 2.4.3)"),
    "counts-one-too-many": Planted(plant=_counts_one_too_many, cites="30 (SERVER-16570)"),
    "applies-beyond-commit": Planted(plant=_applies_beyond_commit, cites="38 (TiKV #994)"),
    "forgets-requests": Planted(plant=_forgets_requests, cites="84 (curvine #676)"),
    "snapshot-without-position": Planted(
        plant=_installs_without_position, cites="51 (rqlite #2747)", directed=SNAPSHOTS
    ),
    "snapshot-keeps-log": Planted(
        plant=_keeps_log_at_install, cites="71 (hashicorp/raft #697)", directed=SNAPSHOTS
    ),
    "verified-not-reset": Planted(
        plant=_verified_is_not_reset, cites="30 (SERVER-16570)", authority="auto", directed=ELECTIONS
    ),
    "reports-whole-log": Planted(
        plant=_reports_whole_log, cites="29 (SERVER-22136)", authority="auto", directed=ELECTIONS, rare=True
    ),
    "custody-skipped": Planted(plant=_skips_custody, cites="87 (GitHub 2018-10-21)"),
    "truncates-committed": Planted(plant=_truncates_committed, cites="20 (etcd 1763)"),
    "leader-read-uncommitted": Planted(plant=_leader_reads_uncommitted, cites="78 (Consul #54)"),
    "session-does-not-wait": Planted(plant=_session_does_not_wait, cites="83 (etcd #15271)"),
    "quorum-acked-at-local": Planted(plant=_acks_quorum_at_local, cites="40 (MongoDB 2.4.3)"),
    "vote-forgotten": Planted(
        plant=_votes_twice, cites="1 (zeebe #5356)", authority="auto", directed=ELECTIONS
    ),
    "term-falls": Planted(plant=_term_falls, cites="3 (nebula #2405)"),
    "surplus-stays": Planted(plant=_surplus_stays, cites="53 (LiteFS 157)", rare=True),
    "checkpoint-too-early": Planted(
        plant=_checkpoints_too_early, cites="53 (LiteFS 157)", directed=CRASHES, rare=True
    ),
    "acked-at-once": Planted(plant=_answers_abandoned_as_done, cites="40 (MongoDB 2.4.3)"),
}
PLANTED: Final[dict[str, Planted]] = REPLICATION_BUGS | ELECTION_BUGS | SQLITE_BUGS
"""By name."""


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Run with the bug of that name in the code."""
    with PLANTED[name].plant():
        yield


def search(name: str, seeds: range) -> tuple[int, str] | None:
    """How many seeds it takes to find the bug, and the rule that finds it."""
    bug = PLANTED[name]
    with planted(name):
        for count, seed in enumerate(seeds, 1):
            found = simulate(
                seed, engine=bug.engine, authority=bug.authority, directed=bug.directed
            ).violation
            if found is not None:
                return count, found.rule
    return None
