"""Stories on a simulated machine that seeds told first."""

from __future__ import annotations

import random

from paceline.core.hardstate import HardState
from paceline.ids import GENESIS, NodeId, Term
from paceline.log.vote import VoteFile
from paceline.node.anchors import load_anchor
from paceline.node.start import Paths, create_state
from paceline.sim.disk import PowerCut, SimDisk

PATHS = Paths("/data")


def create(disk: SimDisk) -> None:
    files = disk.mount()
    files.mkdir("/data")
    create_state(
        files,
        PATHS,
        cluster="ab" * 16,
        base=GENESIS,
        database=None,
        membership=None,
        segment_bytes=4096,
    )


def test_first_state_can_be_made_again_after_a_power_cut_at_any_operation() -> None:
    for operation in range(1, 60):
        disk = SimDisk(random.Random(operation))
        disk.crash_at_op(operation)
        try:
            create(disk)
        except PowerCut:
            pass
        disk.crash("subset")
        create(disk)
        assert VoteFile.open(disk.mount(), PATHS.vote).state == HardState(Term(0), None)
        assert load_anchor(disk.mount(), PATHS.anchor) is not None


def test_a_vote_survives_a_power_cut_after_its_save() -> None:
    disk = SimDisk(random.Random(1))
    create(disk)
    vote = VoteFile.open(disk.mount(), PATHS.vote)
    vote.save(HardState(Term(4), NodeId("n2")))
    disk.crash("none")
    assert VoteFile.open(disk.mount(), PATHS.vote).state.voted_for == "n2"
