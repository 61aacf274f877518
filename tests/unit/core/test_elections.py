"""Elections by majority, the rewind of a deposed leader, read index and hand-over, as conversations."""

from __future__ import annotations

import pytest
from coretools import Cluster, MemoryLog, chain_of, membership, replica

from paceline.core.effects import Role
from paceline.core.hardstate import HardState
from paceline.core.messages import (
    Append,
    AppendResponse,
    Heartbeat,
    ReadIndexResponse,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from paceline.core.replica import Replica
from paceline.ids import Index, NodeId, Term

N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")


def follower_with(log: MemoryLog, *, term: int = 1, applied: int = 0) -> Replica:
    node = replica("n2", membership("n1", "n2", "n3", authority="auto", leader=None), log=log)
    node._state = HardState(Term(term), None)
    node.applied = node.database_end = Index(applied)
    return node


def append_of(leader_log: MemoryLog, *, term: int, after: int, commit: int = 0) -> Append:
    prev = leader_log.position_at(Index(after))
    assert prev is not None
    entries = tuple(leader_log.entries(Index(after), bytes_max=1 << 20))
    return Append(Term(term), prev.term, prev.index, prev.chain, Index(commit), entries)


def forked() -> tuple[MemoryLog, MemoryLog]:
    """Two logs that are equal up to index 2: ours has one more of term 1, the new leader's one of term 2."""
    ours, theirs = MemoryLog(), MemoryLog()
    for log in (ours, theirs):
        log.stage(chain_of(log, 1, 1))
    ours.stage(chain_of(ours, 1))
    theirs.stage(chain_of(theirs, 2))
    return ours, theirs


# -- rewind ------------------------------------------------------------------------------


def test_deposed_leaders_database_goes_back_before_its_log_does() -> None:
    ours, theirs = forked()
    node = follower_with(ours, term=2, applied=3)
    node.receive(N1, append_of(theirs, term=2, after=2, commit=3), 0)
    batch = node.take()
    assert batch.rewind_to == 2
    assert batch.truncate_after is None and not batch.entries, "nothing is taken before the database is back"
    assert node.commit == 2, "what both have may be committed meanwhile"


def test_after_the_rewind_the_leader_is_asked_again_and_the_log_follows() -> None:
    ours, theirs = forked()
    node = follower_with(ours, term=2, applied=3)
    node.receive(N1, append_of(theirs, term=2, after=2), 0)
    node.take()
    node.applied = node.database_end = Index(2)
    node.rewound()
    [(to, asked)] = node.take().messages
    assert to == N1 and isinstance(asked, AppendResponse) and not asked.ok and asked.hint_index == 3
    node.receive(N1, append_of(theirs, term=2, after=2), 0)
    batch = node.take()
    assert batch.truncate_after == 2 and [entry.term for entry in batch.entries] == [2]


def test_database_that_does_not_reach_the_fork_needs_no_rewind() -> None:
    ours, theirs = forked()
    node = follower_with(ours, term=2, applied=2)
    node.receive(N1, append_of(theirs, term=2, after=2), 0)
    batch = node.take()
    assert batch.rewind_to is None and batch.truncate_after == 2


def test_what_is_about_to_be_applied_counts_as_applied() -> None:
    ours, theirs = forked()
    node = follower_with(ours, term=2, applied=2)
    node.database_end = Index(3)
    node.receive(N1, append_of(theirs, term=2, after=2), 0)
    assert node.take().rewind_to == 2


# -- detection ------------------------------------------------------------------------------


def test_broken_connection_of_the_leader_ends_patience_soon() -> None:
    cluster = Cluster("n1", "n2", "n3", authority="auto")
    cluster.lead("n1")
    node = cluster.nodes[N2]
    node.disconnected(N1, cluster.now_ms)
    node.tick(cluster.now_ms + 90, 0)
    assert node.role is Role.FOLLOWER, "it may be calling again"
    node.tick(cluster.now_ms + 310, 0)
    assert node.role is Role.CANDIDATE


def test_who_still_hears_the_leader_refuses_the_pre_vote_of_who_does_not() -> None:
    cluster = Cluster("n1", "n2", "n3", authority="auto")
    cluster.lead("n1")
    cluster.nodes[N2].disconnected(N1, cluster.now_ms)
    cluster.nodes[N2].tick(cluster.now_ms + 310, 0)
    cluster.drain("n2")
    cluster.settle()
    assert cluster.nodes[N1].role is Role.LEADER
    assert {node.term for node in cluster.nodes.values()} == {1}


def test_who_lost_it_too_grants_the_pre_vote_at_once() -> None:
    cluster = Cluster("n1", "n2", "n3", authority="auto")
    cluster.lead("n1")
    for name in (N2, N3):
        cluster.nodes[name].disconnected(N1, cluster.now_ms)
    cluster.now_ms += 310
    cluster.nodes[N2].tick(cluster.now_ms, 0)
    cluster.drain("n2")
    for _ in range(20):
        for name in ("n2", "n3"):
            cluster.sync(name)
        cluster.wire = [item for item in cluster.wire if N1 not in item[:2]]
        if not cluster.deliver():
            break
    assert cluster.nodes[N2].role is Role.LEADER


def test_heartbeat_after_the_break_brings_patience_back() -> None:
    cluster = Cluster("n1", "n2", "n3", authority="auto")
    cluster.lead("n1")
    node = cluster.nodes[N2]
    node.disconnected(N1, cluster.now_ms)
    node.receive(N1, Heartbeat(node.term, Index(0), 7), cluster.now_ms + 50)
    node.tick(cluster.now_ms + 900, 0)
    assert node.role is Role.FOLLOWER


def test_connection_of_a_mere_follower_is_no_reason() -> None:
    cluster = Cluster("n1", "n2", "n3", authority="auto")
    cluster.lead("n1")
    cluster.nodes[N2].disconnected(N3, cluster.now_ms)
    cluster.nodes[N2].tick(cluster.now_ms + 900, 0)
    assert cluster.nodes[N2].role is Role.FOLLOWER


def test_node_whose_database_is_not_fit_does_not_campaign() -> None:
    node = replica("n2", membership("n1", "n2", "n3", authority="auto", leader=None))
    node.health = "quarantined: a page differs"
    node.tick(60_000, 0)
    assert not node.take().after_hard_state and node.role is Role.FOLLOWER


def test_node_that_is_not_fit_stands_as_a_last_resort_for_its_log() -> None:
    """Its log may be the only one that has everything; it will hand over."""
    node = replica("n2", membership("n1", "n2", "n3", authority="auto", leader=None))
    node.health = "quarantined: a page differs"
    now_ms, asked = 0, []
    for _ in range(3):
        now_ms += 5_000
        node.tick(now_ms, 0)
        asked.append(bool(node.take().after_hard_state))
    assert asked == [False, False, True]


def test_word_of_a_leader_makes_the_last_resort_unnecessary() -> None:
    node = replica("n2", membership("n1", "n2", "n3", authority="auto", leader=None))
    node.health = "quarantined: a page differs"
    for now_ms in (5_000, 10_000):
        node.tick(now_ms, 0)
    node.receive(N1, Heartbeat(Term(1), Index(0), 1), 10_001)
    node.take()
    node.tick(20_000, 0)
    assert node.role is Role.FOLLOWER and not node.take().after_hard_state


# -- linearizable reads ------------------------------------------------------------------------


def test_read_waits_for_a_round_that_a_majority_answers() -> None:
    cluster = Cluster("n1", "n2", "n3", authority="auto")
    leader = cluster.lead("n1")
    leader.read_index(1, cluster.now_ms)
    assert not cluster.drain("n1").read_indexes, "nobody has confirmed anything"
    cluster.deliver()  # heartbeats
    sender, _, answer = next(item for item in cluster.wire if item[1] == N1)
    leader.receive(sender, answer, cluster.now_ms)
    assert cluster.drain("n1").read_indexes == [(1, leader.commit)]


def test_answer_to_an_earlier_round_confirms_nothing() -> None:
    cluster = Cluster("n1", "n2", "n3", authority="auto")
    leader = cluster.lead("n1")
    before = leader._leading.round if leader._leading else 0
    leader.read_index(1, cluster.now_ms)
    cluster.drain("n1")
    late = AppendResponse(leader.term, True, Index(1), Index(1), Index(1), Term(0), Index(0), before)
    for name in (N2, N3):
        leader.receive(name, late, cluster.now_ms)
    assert not cluster.drain("n1").read_indexes


def test_new_leader_answers_no_read_before_its_noop_is_committed() -> None:
    cluster = Cluster("n1", "n2", "n3", authority="auto")
    leader = cluster.nodes[N1]
    leader.campaign(0, force=True)
    cluster.drain("n1")
    cluster.sync("n1")
    leader.receive(N2, VoteResponse(leader.term, True, False, "i-n2", ""), 0)
    cluster.drain("n1")
    assert leader.role is Role.LEADER and leader.commit == 0
    leader.read_index(1, 0)
    rounds = [m.round for _, _, m in cluster.wire if isinstance(m, Heartbeat)]
    for name in (N2, N3):
        answer = AppendResponse(
            leader.term, True, Index(0), Index(0), Index(0), Term(0), Index(0), max(rounds, default=1)
        )
        leader.receive(name, answer, 0)
    assert not cluster.drain("n1").read_indexes


def test_follower_asks_the_leader_and_hears_the_index() -> None:
    cluster = Cluster("n1", "n2", "n3", authority="auto")
    leader = cluster.lead("n1")
    follower = cluster.nodes[N2]
    follower.read_index(9, cluster.now_ms)
    cluster.drain("n2")
    told: list[tuple[int, Index]] = []
    for _ in range(6):
        ready, cluster.wire = cluster.wire, []
        for sender, to, message in ready:
            cluster.nodes[to].receive(sender, message, cluster.now_ms)
            told += cluster.drain(str(to)).read_indexes
    assert told == [(9, leader.commit)]


def test_sole_voter_needs_nobody() -> None:
    cluster = Cluster("n1", authority="auto")
    leader = cluster.lead("n1")
    cluster.settle()
    leader.read_index(3, 0)
    assert cluster.drain("n1").read_indexes == [(3, leader.commit)]


def test_answer_of_an_old_term_is_not_heard() -> None:
    node = follower_with(MemoryLog(), term=4)
    node.receive(N1, ReadIndexResponse(Term(3), 1, Index(0)), 0)
    assert not node.take().read_indexes


# -- hand-over and snapshots ---------------------------------------------------------------------


def test_target_of_a_hand_over_is_elected_though_the_leader_lives() -> None:
    cluster = Cluster("n1", "n2", "n3", authority="auto")
    leader = cluster.lead("n1")
    leader.hand_over(N2)
    cluster.drain("n1")
    cluster.settle()
    assert cluster.nodes[N2].role is Role.LEADER and leader.role is Role.FOLLOWER
    assert leader.leader == N2


def test_only_the_leader_hands_over() -> None:
    node = follower_with(MemoryLog())
    node.hand_over(N1)
    assert not any(isinstance(message, TimeoutNow) for _, message in node.take().messages)


def test_leader_that_resigns_follows_nobody_in_its_term() -> None:
    cluster = Cluster("n1", "n2", "n3", authority="auto")
    leader = cluster.lead("n1")
    term = leader.term
    leader.resign(cluster.now_ms)
    batch = cluster.drain("n1")
    assert batch.role is Role.FOLLOWER and leader.leader is None and leader.term == term


@pytest.mark.parametrize(("receiver", "final"), [(N3, True), (None, False)])
def test_snapshot_is_final_when_its_receivers_disk_would_commit_it(
    receiver: NodeId | None, final: bool
) -> None:
    cluster = Cluster("n1", "n2", "n3", authority="auto")
    leader = cluster.lead("n1")
    entry = cluster.write("n1")
    cluster.wire.clear()  # nobody hears of it
    cluster.synced[N1] = leader.hard_state, cluster.logs[N1].last
    leader.durable_to(entry.position, cluster.now_ms)
    cluster.drain("n1")
    assert leader.commit < entry.index
    assert leader.final_with(entry.index, receiver) is final


def test_snapshot_that_ends_before_the_reign_is_not_final_by_its_receiver() -> None:
    cluster = Cluster("n1", "n2", "n3", authority="auto")
    leader = cluster.lead("n1")
    assert leader._leading is not None
    leader._leading.first_own = Index(5)
    assert not leader.final_with(Index(1), N3)


def test_vote_request_by_force_is_heard_though_the_leader_lives() -> None:
    node = follower_with(MemoryLog(), term=1)
    node.receive(N1, Heartbeat(Term(1), Index(0), 1), 0)
    node.take()
    node.receive(N3, VoteRequest(Term(2), Term(0), Index(0), False, False), 10)
    assert node.term == 1
    node.receive(N3, VoteRequest(Term(2), Term(0), Index(0), False, True), 10)
    assert node.term == 2
