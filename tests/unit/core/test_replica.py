"""Stories of a replica: campaigns, replication, conflicts."""

from __future__ import annotations

import msgspec
import pytest
from coretools import Cluster, MemoryLog, chain_of, member, membership, replica

from paceline.core.effects import Role
from paceline.core.entry import EntryKind
from paceline.core.hardstate import HardState
from paceline.core.messages import Append, AppendResponse, Heartbeat, SnapshotNeeded, VoteRequest
from paceline.errors import NotLeader, Unavailable, UsageError
from paceline.ids import GENESIS, Index, NodeId, Position, Term

N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")


def test_designated_node_wins_and_commits_its_noop() -> None:
    cluster = Cluster("n1", "n2", "n3")
    leader = cluster.lead()
    assert leader.role is Role.LEADER
    assert (leader.term, leader.commit) == (1, 1)
    assert all(node.leader == N1 for node in cluster.nodes.values())


def test_single_voter_leads_only_when_its_vote_is_durable() -> None:
    cluster = Cluster("n1")
    cluster.nodes[N1].campaign(0)
    cluster.drain("n1")
    assert cluster.nodes[N1].role is Role.CANDIDATE
    cluster.sync("n1")
    assert cluster.nodes[N1].role is Role.LEADER


def test_vote_requests_wait_for_the_hard_state() -> None:
    cluster = Cluster("n1", "n2", "n3")
    cluster.nodes[N1].campaign(0)
    batch = cluster.drain("n1")
    assert batch.hard_state == HardState(Term(1), N1)
    assert not batch.messages
    assert [to for to, _ in batch.after_hard_state] == [N2, N3]


def test_granted_vote_waits_for_the_hard_state() -> None:
    voter = replica("n2", membership("n1", "n2", "n3"))
    voter.receive(N1, VoteRequest(Term(1), Term(0), Index(0), False, False), 0)
    batch = voter.take()
    assert batch.hard_state == HardState(Term(1), N1)
    assert not batch.messages
    assert batch.after_hard_state[0][1].granted  # type: ignore[union-attr]


def test_follower_never_campaigns_under_a_designated_leader() -> None:
    follower = replica("n2", membership("n1", "n2", "n3"))
    follower.tick(1_000_000, 0)
    assert follower.role is Role.FOLLOWER
    assert follower.term == 0


def test_slow_votes_are_asked_for_again_in_the_same_term() -> None:
    cluster = Cluster("n1", "n2", "n3")
    candidate = cluster.nodes[N1]
    candidate.campaign(0)
    cluster.sync("n1")
    cluster.wire.clear()
    candidate.tick(1_000_000, 0)
    batch = cluster.drain("n1")
    assert candidate.term == 1
    assert [to for to, _ in batch.after_hard_state] == [N2, N3]


def test_commit_needs_a_majority_and_the_leaders_own_disk() -> None:
    cluster = Cluster("n1", "n2", "n3")
    leader = cluster.lead()
    entry = cluster.write()
    for name in ("n2", "n3"):
        cluster.deliver(to=name)
        cluster.sync(name)
    cluster.deliver(to="n1")
    assert leader.commit == entry.index - 1, "both followers have it, the designated leader's disk has not"
    cluster.sync("n1")
    assert leader.commit == entry.index


def test_received_is_not_durable() -> None:
    cluster = Cluster("n1", "n2", "n3")
    leader = cluster.lead()
    entry = cluster.write()
    cluster.sync("n1")
    cluster.deliver(to="n2")
    cluster.deliver(to="n1")
    assert leader.followers[N2].durable == entry.index - 1
    assert leader.commit == entry.index - 1
    cluster.sync("n2")
    cluster.deliver(to="n1")
    assert leader.followers[N2].durable == entry.index
    assert leader.commit == entry.index


def test_follower_refuses_entry_after_gap() -> None:
    follower = replica("n2", membership("n1", "n2"))
    missing = Position(Term(1), Index(5), b"x" * 16)
    follower.receive(N1, Append(Term(1), missing.term, missing.index, missing.chain, Index(0)), 0)
    (_, answer) = follower.take().messages[-1]
    assert isinstance(answer, AppendResponse)
    assert (answer.ok, answer.hint_index) == (False, 0)


def test_follower_refuses_the_right_index_of_another_history() -> None:
    log = MemoryLog()
    log.stage(chain_of(log, 1, 1))
    follower = replica("n2", membership("n1", "n2"), log=log)
    follower.receive(N1, Append(Term(2), Term(1), Index(2), b"y" * 16, Index(2)), 0)
    (_, answer) = follower.take().messages[-1]
    assert isinstance(answer, AppendResponse)
    assert not answer.ok
    assert follower.commit == 0


def test_conflict_truncates_only_what_differs() -> None:
    ours, theirs = MemoryLog(), MemoryLog()
    ours.stage(chain_of(ours, 1, 1, 1))
    theirs.stage(ours.entries(Index(0), bytes_max=1)[:2])
    theirs.stage(chain_of(theirs, 2))
    follower = replica("n2", membership("n1", "n2"), log=ours)
    entries = tuple(theirs.entries(Index(0), bytes_max=1))
    follower.receive(N1, Append(Term(2), GENESIS.term, GENESIS.index, GENESIS.chain, Index(0), entries), 0)
    batch = follower.take()
    assert batch.truncate_after == 2
    assert [entry.term for entry in batch.entries] == [2]
    assert follower.last == theirs.last


def test_repeated_append_changes_nothing() -> None:
    log = MemoryLog()
    entries = chain_of(log, 1, 1)
    follower = replica("n2", membership("n1", "n2"), log=log)
    append = Append(Term(1), GENESIS.term, GENESIS.index, GENESIS.chain, Index(0), tuple(entries))
    follower.receive(N1, append, 0)
    log.stage(follower.take().entries)
    follower.receive(N1, append, 0)
    batch = follower.take()
    assert batch.truncate_after is None
    assert not batch.entries


def test_commit_counts_only_as_far_as_the_log_is_verified() -> None:
    log = MemoryLog()
    log.stage(chain_of(log, 1, 1, 1))
    follower = replica("n2", membership("n1", "n2"), log=log)
    follower.receive(N1, Heartbeat(Term(2), Index(3), 1), 0)
    assert follower.commit == 0
    first = log.position_at(Index(1))
    assert first is not None
    follower.receive(N1, Append(Term(2), first.term, first.index, first.chain, Index(3)), 0)
    assert follower.commit == 1


def test_report_does_not_claim_an_unverified_tail() -> None:
    log = MemoryLog()
    log.stage(chain_of(log, 1, 1, 1))
    follower = replica("n2", membership("n1", "n2"), log=log)
    follower.receive(N1, Heartbeat(Term(2), Index(0), 1), 0)
    (_, answer) = follower.take().messages[-1]
    assert isinstance(answer, AppendResponse)
    assert (answer.received, answer.durable) == (0, 0)


def test_higher_term_deposes_and_old_term_is_told() -> None:
    cluster = Cluster("n1", "n2", "n3")
    leader = cluster.lead()
    leader.receive(N2, AppendResponse(Term(7), False, Index(0), Index(0), Index(0), Term(0), Index(0), 0), 0)
    assert (leader.role, leader.term) == (Role.FOLLOWER, 7)
    leader.take()
    leader.receive(N3, Heartbeat(Term(1), Index(9), 1), 0)
    ((to, answer),) = leader.take().messages
    assert (to, answer.term) == (N3, 7)
    assert leader.commit == 1


def test_leader_of_the_same_term_that_is_another_node_is_ignored() -> None:
    follower = replica("n2", membership("n1", "n2", "n3"))
    follower.receive(N1, Heartbeat(Term(1), Index(0), 1), 0)
    follower.take()
    follower.receive(N3, Heartbeat(Term(1), Index(0), 1), 0)
    assert not follower.take().messages
    assert follower.leader == N1


def test_two_leaders_in_one_term_stop_the_node() -> None:
    cluster = Cluster("n1", "n2", "n3")
    leader = cluster.lead()
    with pytest.raises(AssertionError, match="two leaders in term 1"):
        leader.receive(N2, Heartbeat(Term(1), Index(0), 1), 0)


def test_nothing_is_appended_while_a_group_runs() -> None:
    cluster = Cluster("n1", "n2")
    leader = cluster.lead()
    slot = leader.reserve()
    leader.propose(EntryKind.BARRIER, b"b", 0)
    assert leader.last.index == 1
    assert leader.reserve() is None, "the place is taken"
    leader.release(0)
    assert slot is not None
    assert leader.last.index == slot.index


def test_append_of_an_old_reign_is_refused() -> None:
    cluster = Cluster("n1", "n2", "n3")
    leader = cluster.lead()
    slot = leader.reserve()
    assert slot is not None
    leader.receive(N2, Heartbeat(Term(5), Index(0), 1), 0)
    assert not leader.append(chain_of(cluster.logs[N1], 1), 0)


def test_membership_changes_go_one_at_a_time() -> None:
    cluster = Cluster("n1", "n2", "n3")
    leader = cluster.lead()
    assert leader.membership is not None
    leader.change(leader.membership.with_member(member("n4", voter=False)), 0)
    cluster.drain("n1")
    with pytest.raises(Unavailable, match="under way"):
        leader.change(leader.membership.with_member(member("n5", voter=False)), 0)
    cluster.settle()
    leader.change(leader.membership.with_member(member("n5", voter=False)), 0)


def test_two_voters_cannot_change_in_one_step() -> None:
    cluster = Cluster("n1", "n2", "n3")
    leader = cluster.lead()
    with pytest.raises(UsageError, match="only one voter"):
        leader.change(membership("n1"), 0)


def test_only_a_leader_changes_the_membership() -> None:
    follower = replica("n2", membership("n1", "n2"))
    with pytest.raises(NotLeader):
        follower.change(membership("n1", "n2", "n3"), 0)


def test_truncated_membership_comes_back() -> None:
    log = MemoryLog()
    follower = replica("n2", membership("n1", "n2"), log=log)
    cluster = Cluster("n1", "n2")
    leader = cluster.lead()
    cluster.write()
    assert leader.membership is not None
    leader.change(leader.membership.with_member(member("n9", voter=False)), 0)
    cluster.drain("n1")
    entries = tuple(cluster.logs[N1].entries(Index(0), bytes_max=1))
    follower.receive(N1, Append(Term(1), GENESIS.term, GENESIS.index, GENESIS.chain, Index(0), entries), 0)
    log.stage(follower.take().entries)
    assert follower.membership is not None
    assert follower.membership.member("n9") is not None
    other = MemoryLog()
    other.stage(list(entries[:1]))
    fork = chain_of(other, 2)
    append = Append(Term(2), entries[0].term, entries[0].index, entries[0].chain, Index(0), tuple(fork))
    follower.receive(N1, append, 0)
    assert follower.membership.member("n9") is None


def test_follower_beyond_the_leaders_log_is_told_to_fetch_a_snapshot() -> None:
    cluster = Cluster("n1", "n2")
    leader = cluster.lead()
    cluster.write()
    cluster.settle()
    cluster.logs[N1].base = cluster.logs[N1].position_at(Index(2)) or GENESIS
    del cluster.logs[N1]._entries[:2]
    refusal = AppendResponse(Term(1), False, Index(0), Index(0), Index(0), Term(0), Index(0), 0)
    leader.receive(N2, refusal, 0)
    assert any(isinstance(message, SnapshotNeeded) for _, message in leader.take().messages)


def test_follower_with_another_entry_at_the_leaders_base_is_told_to_fetch_a_snapshot() -> None:
    """Asking for the place behind the base again and again would never end."""
    cluster = Cluster("n1", "n2")
    leader = cluster.lead()
    cluster.write()
    cluster.settle()
    base = cluster.logs[N1].base = cluster.logs[N1].position_at(Index(2)) or GENESIS
    del cluster.logs[N1]._entries[:2]
    older, progress = Term(base.term - 1), leader.followers[N2]
    progress.received = progress.durable = Index(0)  # as at the beginning of a reign
    refusal = AppendResponse(leader.term, False, Index(0), Index(0), Index(0), older, base.index, 0)
    leader.receive(N2, refusal, 0)
    assert any(isinstance(message, SnapshotNeeded) for _, message in leader.take().messages)


def test_leader_without_a_majority_steps_down_in_auto() -> None:
    cluster = Cluster("n1", "n2", "n3", authority="auto")
    leader = cluster.lead()
    leader.tick(900, 0)
    assert leader.role is Role.LEADER
    leader.tick(2_500, 0)
    assert leader.role is not Role.LEADER


def test_pre_vote_changes_nobodys_term() -> None:
    voter = replica("n2", membership("n1", "n2", "n3", leader=None, authority="auto"))
    voter.receive(N3, VoteRequest(Term(9), Term(0), Index(0), True, False), 5_000)
    assert voter.term == 0
    assert voter.take().hard_state is None


def test_incarnation_that_is_not_the_members_cannot_vote() -> None:
    cluster = Cluster("n1", "n2", "n3")
    candidate = cluster.nodes[N1]
    candidate.campaign(0)
    cluster.sync("n1")
    cluster.deliver(to="n2")
    cluster.sync("n2")
    (sender, to, vote) = cluster.wire[-1]
    cluster.wire[-1] = (sender, to, msgspec.structs.replace(vote, incarnation="somebody else"))
    cluster.deliver(to="n1")
    assert candidate.role is Role.CANDIDATE
