"""The vote file keeps its promise, or says that it cannot."""

from __future__ import annotations

import errno

import pytest
from logtools import new_disk

from paceline.core.hardstate import HardState
from paceline.errors import LogFailed, VoteLost
from paceline.ids import Index, NodeId, Term
from paceline.log.vote import VoteFile
from paceline.sim.disk import SimDisk

PATH = "/data/vote"
FRESH = HardState(Term(0), None)
VOTED = HardState(Term(4), NodeId("n2"), Index(17))


def saved(*states: HardState) -> SimDisk:
    disk = new_disk()
    vote = VoteFile.create(disk, PATH, FRESH)
    for state in states:
        vote.save(state)
        assert vote.state == state
    return disk


def test_saved_state_is_read_back() -> None:
    assert VoteFile.open(saved(), PATH).state == FRESH
    assert VoteFile.open(saved(HardState(Term(3), None), VOTED), PATH).state == VOTED


def test_missing_file_is_never_term_zero() -> None:
    with pytest.raises(VoteLost) as caught:
        VoteFile.open(new_disk(), PATH)
    assert "must not vote" in str(caught.value.hint)


def test_file_is_created_only_once() -> None:
    with pytest.raises(VoteLost):
        VoteFile.create(saved(VOTED), PATH, FRESH)


def test_rot_in_either_slot_never_brings_back_an_older_vote() -> None:
    for start in (0, 4096):
        for at in range(84):
            disk = saved(HardState(Term(3), NodeId("n1")), VOTED)
            disk.crash("none")
            disk.flip_bit(PATH, start + at, at % 8)
            assert VoteFile.open(disk.mount(), PATH).state == VOTED
            # Opening has repaired the slot.
            disk.flip_bit(PATH, 4096 - start + at, at % 8)
            assert VoteFile.open(disk.mount(), PATH).state == VOTED


def test_damage_of_both_slots_means_do_not_vote() -> None:
    for at in range(84):
        disk = saved(VOTED)
        disk.flip_bit(PATH, at, 0)
        disk.flip_bit(PATH, 4096 + at, 7)
        with pytest.raises(VoteLost, match="both slots"):
            VoteFile.open(disk, PATH)
    disk.write_file(PATH, b"")
    with pytest.raises(VoteLost):
        VoteFile.open(disk, PATH)


@pytest.mark.parametrize(
    "worse",
    [HardState(Term(3), NodeId("n2")), HardState(Term(4), NodeId("n3")), HardState(Term(4), None)],
    ids=["term falls", "second vote", "vote forgotten"],
)
def test_broken_promise_is_a_programmer_error(worse: HardState) -> None:
    disk = saved(VOTED)
    with pytest.raises(AssertionError):
        VoteFile.open(disk, PATH).save(worse)
    assert VoteFile.open(disk, PATH).state == VOTED


def test_same_state_is_not_written_again() -> None:
    disk = saved(VOTED)
    vote = VoteFile.open(disk, PATH)
    before = disk.ops
    vote.save(VOTED)
    assert disk.ops == before


def test_failed_save_is_final() -> None:
    disk = saved(VOTED)
    vote = VoteFile.open(disk, PATH)
    disk.fail("sync", errno.EIO)
    with pytest.raises(LogFailed):
        vote.save(HardState(Term(5), None))
    with pytest.raises(LogFailed):
        vote.save(HardState(Term(6), None))
    assert vote.state == VOTED
