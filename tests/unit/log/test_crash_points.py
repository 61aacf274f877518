"""Every crash point of everything the log does on disk, in every crash mode.

A story is a function that works on a log (or vote, or custody) and tells the
*ledger* what it was promised.  The power is cut at its first, second, third ...
changing operation until it runs through; after each cut every mode is tried
with several seeds, and the promises are checked on what is left.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from logtools import CLUSTER, DIRECTORY, all_entries, check_whole, local_of, make_entries, new_disk, open_log

from paceline.core.entry import Entry, EntryKind, encode_local
from paceline.core.hardstate import HardState
from paceline.files import Files
from paceline.ids import Index, NodeId, Position, Term
from paceline.log.custody import Custody
from paceline.log.journal import Log
from paceline.log.vote import VoteFile
from paceline.sim.disk import CRASH_MODES, DiskOptions, PowerCut, SimDisk

SEEDS = 4


@dataclass
class Ledger:
    """What must be true after a crash.

    ``durable``: entries that a flush returned, by index, and nobody has been told to forget since.
    ``possible``: chains that may be found at an index.  ``gone``: chains that must never be found again.
    """

    durable: dict[int, bytes] = field(default_factory=dict)
    gone: set[bytes] = field(default_factory=set)
    base_min: int = 0
    bases: set[bytes] = field(default_factory=lambda: {bytes(16)})
    votes: list[HardState] = field(default_factory=list)
    vote_next: HardState | None = None
    kept: list[tuple[str, list[Entry]]] = field(default_factory=list)

    def flushed(self, log: Log) -> None:
        end = log.flush()
        assert end == log.last == log.durable
        for index in range(log.first_index, end.index + 1):
            position = log.position_at(Index(index))
            assert position is not None
            self.durable[index] = position.chain

    def forget_after(self, index: int) -> None:
        """Before a truncation is planned: from now on these may be there or not."""
        for later in [later for later in self.durable if later > index]:
            del self.durable[later]

    def forget_before(self, index: int) -> None:
        for earlier in [earlier for earlier in self.durable if earlier <= index]:
            del self.durable[earlier]


Story = Callable[[Files, Ledger], None]


def append(files: Files, ledger: Ledger) -> None:
    log = open_log(files, segment_bytes=100_000)
    for size in (10, 700, 40):
        entries = make_entries(log.last, 3, size=size)
        log.stage(entries, [local_of(entries[1])])
        ledger.flushed(log)


def roll(files: Files, ledger: Ledger) -> None:
    log = open_log(files, segment_bytes=600)
    for _ in range(2):
        log.stage(make_entries(log.last, 9, size=100))
        ledger.flushed(log)
    assert log.segments > 4


def truncate(files: Files, ledger: Ledger) -> None:
    log = open_log(files, segment_bytes=600)
    log.stage(make_entries(log.last, 12, size=100))
    ledger.flushed(log)
    old = [entry.chain for entry in all_entries(log)][4:]
    ledger.forget_after(4)
    log.truncate(Index(4))
    log.flush()
    ledger.gone.update(old)
    log.stage(make_entries(log.last, 3, term=2, size=90))
    ledger.flushed(log)


def truncate_and_stage_in_one_flush(files: Files, ledger: Ledger) -> None:
    log = open_log(files, segment_bytes=600)
    log.stage(make_entries(log.last, 12, size=100))
    ledger.flushed(log)
    old = [entry.chain for entry in all_entries(log)][6:]
    ledger.forget_after(6)
    log.truncate(Index(6))
    log.stage(make_entries(log.last, 2, term=2, size=100))
    ledger.flushed(log)
    ledger.gone.update(old)


def reset(files: Files, ledger: Ledger) -> None:
    log = open_log(files, segment_bytes=600)
    log.stage(make_entries(log.last, 8, size=100))
    ledger.flushed(log)
    old = [entry.chain for entry in all_entries(log)]
    ledger.forget_after(0)
    base = Position(Term(3), Index(5), b"c" * 16)
    ledger.bases.add(base.chain)
    log.reset(base)
    log.flush()
    ledger.gone.update(old)
    ledger.base_min = 5
    log.stage(make_entries(log.last, 2, term=4))
    ledger.flushed(log)


def drop_before(files: Files, ledger: Ledger) -> None:
    log = open_log(files, segment_bytes=600)
    log.stage(make_entries(log.last, 12, size=100))
    ledger.flushed(log)
    ledger.bases |= {entry.chain for entry in all_entries(log)}
    ledger.forget_before(7)
    log.drop_before(Index(7))
    log.stage(make_entries(log.last, 2))
    ledger.flushed(log)
    assert 0 < log.base.index <= 7


def loose_locals(files: Files, ledger: Ledger) -> None:
    log = open_log(files)
    log.stage(make_entries(log.last, 2))
    log.stage([], [encode_local(EntryKind.MARK, Term(1), Index(2), b"\x01m", time_us=1)])
    ledger.flushed(log)
    log.stage(make_entries(log.last, 2))
    log.truncate(Index(2))
    ledger.flushed(log)


LOG_STORIES = [append, roll, truncate, truncate_and_stage_in_one_flush, reset, drop_before, loose_locals]


def crash_points(story: Story, sector_bytes: int) -> list[tuple[SimDisk, Ledger, int]]:
    """The disk (powered off, not yet settled) and the ledger at every crash point."""
    points = []
    for n in range(1, 1000):
        disk, ledger = new_disk(), Ledger()
        disk.options = DiskOptions(sector_bytes=sector_bytes)
        disk.crash_at_op(n)
        try:
            story(disk.mount(), ledger)
        except PowerCut:
            points.append((disk, ledger, n))
        else:
            assert n > 3, "the story changes nothing"
            return points
    raise AssertionError("the story does not end")


def outcomes(
    story: Story, *, sector_bytes: int = 512, seeds: int = SEEDS
) -> list[tuple[SimDisk, Ledger, str]]:
    found = []
    for disk, ledger, n in crash_points(story, sector_bytes):
        for mode in CRASH_MODES:
            for seed in range(1 if mode in ("none", "all") else seeds):
                after = disk.snapshot(random.Random(f"{n}/{mode}/{seed}"))
                after.crash(mode)
                found.append((after, ledger, f"op {n}, {mode}, seed {seed}"))
        killed = disk.snapshot(random.Random(n))
        killed.kill()
        found.append((killed, ledger, f"op {n}, kill"))
    return found


def check_log(files: Files, ledger: Ledger) -> Log:
    log = open_log(files)
    check_whole(log)
    chains = {entry.index: entry.chain for entry in all_entries(log)}
    for index, chain in ledger.durable.items():
        assert chains.get(index) == chain, f"entry {index} was durable"
    assert not ledger.gone & set(chains.values()), "a removed entry came back"
    assert log.base.index >= ledger.base_min
    assert log.base.chain in ledger.bases
    return log


@pytest.mark.parametrize("story", LOG_STORIES, ids=lambda story: story.__name__)
def test_log_keeps_its_promises_at_every_crash_point(story: Story) -> None:
    for disk, ledger, where in outcomes(story):
        try:
            log = check_log(disk.mount(), ledger)
            # The survivor goes on, and loses power again: what recovery left must itself be durable.
            before = [entry.chain for entry in all_entries(log)]
            disk.crash("none")
            log = open_log(disk.mount())
            assert [entry.chain for entry in all_entries(log)] == before
            log.stage(make_entries(log.last, 2, term=9))
            log.flush()
            disk.crash("none")
            check_whole(open_log(disk.mount()))
        except BaseException as error:
            error.add_note(where)
            raise


def vote_saves(files: Files, ledger: Ledger) -> None:
    first = HardState(Term(0), None)
    ledger.vote_next = first
    vote = VoteFile.create(files, "/data/vote", first)
    ledger.votes.append(first)
    for state in (
        HardState(Term(1), None),
        HardState(Term(1), NodeId("n1"), Index(7)),
        HardState(Term(5), NodeId("n" * 40), Index(9)),
    ):
        ledger.vote_next = state
        vote.save(state)
        ledger.votes.append(state)


@pytest.mark.parametrize("sector_bytes", [512, 16], ids=["whole sectors", "sectors that tear"])
def test_vote_never_falls_at_any_crash_point(sector_bytes: int) -> None:
    for disk, ledger, where in outcomes(vote_saves, sector_bytes=sector_bytes, seeds=40):
        if not ledger.votes and not disk.exists("/data/vote"):
            continue  # the node was never created
        state = VoteFile.open(disk.mount(), "/data/vote").state
        assert state in [*ledger.votes[-1:], ledger.vote_next], where
        disk.crash("none")
        assert VoteFile.open(disk.mount(), "/data/vote").state == state, where


def custody_then_truncate(files: Files, ledger: Ledger) -> None:
    log = open_log(files)
    log.stage(make_entries(log.last, 6, size=200))
    log.flush()
    lost = log.entries(Index(2), bytes_max=1 << 20)
    custody = Custody(files, "/data/custody")
    id = custody.keep("test", lost, {Index(4): b"\x00sql"}, acknowledged={}, time_us=1, term_now=Term(2))
    ledger.kept.append((id, lost))
    assert (
        custody.keep("test", lost, {Index(4): b"\x00sql"}, acknowledged={}, time_us=1, term_now=Term(2)) == id
    )
    log.truncate(Index(2))
    log.flush()


def test_every_entry_is_in_the_log_or_in_custody_at_every_crash_point() -> None:
    for disk, ledger, where in outcomes(custody_then_truncate):
        files = disk.mount()
        log, custody = open_log(files), Custody(files, "/data/custody")
        for id, lost in ledger.kept:
            content = custody.load(id)
            assert content.entries == lost, where
            assert content.locals == {4: b"\x00sql"}
        assert all(not item.problem for item in custody.list()), where
        assert log.last.index in (0, 6) or ledger.kept or log.last.index < 6


def test_vote_is_durable_before_entries_that_were_staged_after_it() -> None:
    def story(files: Files, ledger: Ledger) -> None:
        vote = VoteFile.create(files, "/data/vote", HardState(Term(1), None))
        log, _ = Log.open(files, DIRECTORY, cluster=CLUSTER, vote=vote)
        log.stage_hard_state(HardState(Term(2), NodeId("n2")))
        log.stage(make_entries(log.last, 1, term=2))
        log.flush()

    seen = 0
    for disk, _, where in outcomes(story):
        files = disk.mount()
        if files.exists(DIRECTORY) and open_log(files).last.term == 2:
            seen += 1
            assert VoteFile.open(files, "/data/vote").state == HardState(Term(2), NodeId("n2")), where
    assert seen
