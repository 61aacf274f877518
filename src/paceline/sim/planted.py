"""Planted bugs: faults put into the shipped code, to see that the checkers see.

Each is a small change of the kind that real systems had (acknowledge before the sync, forget the vote,
truncate what is committed ...), switched on from outside for the length of one run.  The shipped code has no
switches for them.  A checker that never caught a planted bug proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from unittest.mock import patch

import msgspec

from paceline.core.durability import Facts
from paceline.core.hardstate import HardState
from paceline.core.leading import Leading
from paceline.core.replica import Replica
from paceline.engines.base import WriteRequest
from paceline.engines.sqlite import surplus
from paceline.engines.sqlite.capture import Capture
from paceline.engines.sqlite.dedup import Dedup
from paceline.engines.sqlite.engine import SqliteEngine
from paceline.engines.sqlite.mark import Mark
from paceline.engines.sqlite.pagesource import PageSource
from paceline.engines.sqlite.walwriter import WalWriter
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

__all__ = ["PLANTED", "PLANTED_SQLITE", "planted"]

Plant = Callable[[], Any]


def _patched(owner: type, name: str, make: Callable[[Any], Any]) -> Any:
    defined_in = next(base for base in owner.__mro__ if name in base.__dict__)
    return patch.object(defined_in, name, make(defined_in.__dict__[name]))


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

    return _patched(Replica, "_report", make)


def _leader_counts_unsynced() -> Any:
    """A leader counts its own entries before its fsync (d-engine #446, etcd #14370)."""

    def make(original: Any) -> Any:
        def committable(self: Leading, voters: Any, own_durable: Index, *, own_required: bool) -> Index:
            return original(self, voters, self.last.index, own_required=own_required)  # type: ignore[no-any-return]

        return committable

    return _patched(Leading, "committable", make)


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

    return _patched(VoteFile, "save", make)


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

    return _patched(Writer, "_write", make)


def _commits_what_one_has() -> Any:
    """A majority of one: the leader's own disk is enough."""

    def make(original: Any) -> Any:
        def committable(self: Leading, voters: Any, own_durable: Index, *, own_required: bool) -> Index:
            return own_durable if own_durable >= self.first_own else Index(0)

        return committable

    return _patched(Leading, "committable", make)


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

    return _patched(Leading, "answer", make)


def _applies_beyond_commit() -> Any:
    """A follower applies what it has, committed or not."""

    def make(original: Any) -> Any:
        def target(self: Applies) -> Index:
            return self._node.replica.durable

        return target

    return _patched(Applies, "target", make)


def _forgets_requests() -> Any:
    """Repeated request ids run again (curvine #676)."""

    def make(original: Any) -> Any:
        def run(self: MemoryEngine, request: WriteRequest, index: Index, changes: Any) -> Any:
            return original(self, msgspec.structs.replace(request, request_id=None), index, changes)

        return run

    return _patched(MemoryEngine, "_run", make)


def _installs_without_position() -> Any:
    """A snapshot's state comes without saying where in history it stands (rqlite #2747)."""

    def make(original: Any) -> Any:
        def write_config(self: InstallActions, plan: Any) -> None:
            original(self, msgspec.structs.replace(plan, database=None))

        return write_config

    return _patched(InstallActions, "write_config", make)


def _keeps_log_at_install() -> Any:
    """The log is not reset to the snapshot."""

    def make(original: Any) -> Any:
        def reset_log(self: InstallActions, plan: Any) -> None:
            pass

        return reset_log

    return _patched(InstallActions, "reset_log", make)


def _verified_is_not_reset() -> Any:
    """What the last leader verified counts for the next one: an unverified tail is reported durable and committed."""

    def make(original: Any) -> Any:
        def raise_term(self: Replica, term: Any, now_ms: int) -> None:
            original(self, term, now_ms)
            self._verified = self._last.index

        return raise_term

    return _patched(Replica, "_raise_term", make)


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

    return _patched(Replica, "_report", make)


def _skips_custody() -> Any:
    """A truncation forgets to keep what it removes."""

    def make(original: Any) -> Any:
        def keep(self: Custody, *args: Any, **kwargs: Any) -> str:
            return ""

        return keep

    return _patched(Custody, "keep", make)


def _truncates_committed() -> Any:
    """A conflict truncates one entry too many."""

    def make(original: Any) -> Any:
        def truncate(self: Log, after: Index) -> None:
            original(self, Index(max(self.base.index, after - 1)))

        return truncate

    return _patched(Log, "truncate", make)


def _commits_older_terms() -> Any:
    """Entries of earlier terms are committed by counting (Raft, figure 8; canonical/raft #220)."""

    def make(original: Any) -> Any:
        def committable(self: Leading, *args: Any, **kwargs: Any) -> Index:
            first, self.first_own = self.first_own, Index(0)
            try:
                return original(self, *args, **kwargs)  # type: ignore[no-any-return]
            finally:
                self.first_own = first

        return committable

    return _patched(Leading, "committable", make)


def _leader_reads_uncommitted() -> Any:
    """A read at level leader does not wait for the commit (aphyr 316)."""

    def make(original: Any) -> Any:
        def answer(self: Reads, result: Any, read: str, deadline_ms: int, done: Any) -> None:
            original(self, result, "local", deadline_ms, done)

        return answer

    return _patched(Reads, "_answer", make)


def _session_does_not_wait() -> Any:
    """A session read answers at once."""

    def make(original: Any) -> Any:
        def session(self: Reads, token: Any, deadline_ms: int, run: Any, done: Any) -> None:
            run()

        return session

    return _patched(Reads, "_session", make)


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

    return _patched(VoteFile, "open", make)


def _term_falls() -> Any:
    """The term is taken from zero again when the process starts."""

    def make(original: Any) -> Any:
        def opened(cls: Any, files: Any, path: str) -> VoteFile:
            vote = original.__func__(cls, files, path)
            vote.state = HardState(type(vote.state.term)(0), None)
            return vote  # type: ignore[no-any-return]

        return classmethod(opened)

    return _patched(VoteFile, "open", make)


def _surplus_stays() -> Any:
    """What a killed leader executed beyond its log stays in its database."""

    def make(original: Any) -> Any:
        def surplus(self: MemoryEngine, marks: Any) -> Any:
            return []

        return surplus

    return _patched(MemoryEngine, "surplus", make)


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

    return _patched(Checkpoints, "start", make)


def _answers_abandoned_as_done() -> Any:
    """A write whose time is up is answered as done (MongoDB 2.4.3)."""

    def make(original: Any) -> Any:
        def settle(self: Acks, replica: Replica, now_ms: int) -> None:
            original(self, _Everything(replica), now_ms)

        return settle

    return _patched(Acks, "settle", make)


class _Everything:
    """A replica that has reached every level."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    def reached(self, durability: object, now_ms: int) -> Index:
        return self._replica.last.index

    def __getattr__(self, name: str) -> Any:
        return getattr(self._replica, name)


def _sqlite_surplus_stays() -> Any:
    """What a killed leader had executed but not logged stays in its database."""
    return patch.object(SqliteEngine, "surplus", lambda self, marks: [])


def _sqlite_half_entry_counts() -> Any:
    """An entry of several commits counts as there when the first one is."""

    def make(original: Any) -> Any:
        def whole(marks: Any, note: Any, index: Any) -> Any:
            header = index.header()
            first = next((Mark.decode(mark) for _, mark in marks), None)
            if first is not None and first.salts == header.salts and first.frame > header.frames:
                return Mark.at(header, header.page_count)
            return original(marks, note, index)

        return whole

    return patch.object(surplus, "_whole", make(surplus._whole))


def _sqlite_reign_forgets_requests() -> Any:
    """A new reign begins without the memory of request ids."""
    return patch.object(Dedup, "_load", lambda self: None)


def _sqlite_checkpoint_not_synced() -> Any:
    """A checkpoint that a reader keeps from emptying the log promises durability all the same."""
    return patch.object(WalWriter, "sync", lambda self: None)


def _sqlite_images_from_the_old_log() -> Any:
    """SQLite began the log anew, and capture reads the images before the change where they were."""

    def make(original: Any) -> Any:
        def changed(self: Capture) -> Any:
            with patch.object(PageSource, "restart", lambda self, count: None):
                yield from original(self)

        return changed

    return _patched(Capture, "changed", make)


PLANTED: Final[dict[str, Plant]] = {
    "follower-acks-before-sync": _reports_received_as_durable,
    "leader-counts-unsynced": _leader_counts_unsynced,
    "vote-not-synced": _vote_is_not_synced,
    "log-not-synced": _log_is_not_synced,
    "majority-of-one": _commits_what_one_has,
    "counts-one-too-many": _counts_one_too_many,
    "applies-beyond-commit": _applies_beyond_commit,
    "forgets-requests": _forgets_requests,
    "snapshot-without-position": _installs_without_position,
    "snapshot-keeps-log": _keeps_log_at_install,
    "verified-not-reset": _verified_is_not_reset,
    "reports-whole-log": _reports_whole_log,
    "custody-skipped": _skips_custody,
    "truncates-committed": _truncates_committed,
    "commits-older-terms": _commits_older_terms,
    "leader-read-uncommitted": _leader_reads_uncommitted,
    "session-does-not-wait": _session_does_not_wait,
    "quorum-acked-at-local": _acks_quorum_at_local,
    "vote-forgotten": _votes_twice,
    "term-falls": _term_falls,
    "surplus-stays": _surplus_stays,
    "checkpoint-too-early": _checkpoints_too_early,
    "acked-at-once": _answers_abandoned_as_done,
}
"""By name; each value makes a context manager that plants the bug."""
PLANTED_SQLITE: Final[dict[str, Plant]] = {
    "surplus-stays-in-sqlite": _sqlite_surplus_stays,
    "half-entry-counts": _sqlite_half_entry_counts,
    "reign-forgets-requests": _sqlite_reign_forgets_requests,
    "checkpoint-not-synced": _sqlite_checkpoint_not_synced,
    "images-from-the-old-log": _sqlite_images_from_the_old_log,
}
"""In the SQLite engine: needs ``simulate(seed, engine="sqlite")``.  By name, as ``PLANTED``."""
_ALL: Final = PLANTED | PLANTED_SQLITE


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Run with the bug of that name in the code."""
    with _ALL[name]():
        yield
