"""Pure rules, as tables: votes, durability, memberships, progress."""

from __future__ import annotations

import dataclasses

import pytest
from coretools import MemoryLog, chain_of, member, membership

from paceline.core.durability import (
    Durability,
    Facts,
    Level,
    missing,
    parse_durability,
    reached,
    survives,
    unsatisfiable,
)
from paceline.core.election import may_campaign, refusal
from paceline.core.hardstate import HardState
from paceline.core.membership import History, differing_voters, majority
from paceline.core.messages import VoteRequest
from paceline.core.progress import Progress, Sending
from paceline.errors import UsageError
from paceline.ids import GENESIS, Index, NodeId, Position, Term

N1, N2 = NodeId("n1"), NodeId("n2")
FACTS = Facts(
    last=Index(10),
    own=Index(8),
    commit=Index(6),
    durable={"n2": Index(9), "n3": Index(6), "n4": Index(3)},
    reachable=frozenset({"n2", "n4"}),
    voters=frozenset({"n2", "n3"}),
)


@pytest.mark.parametrize(
    ("level", "index"),
    [
        ("async", 10),
        ("local", 8),
        ("any 1", 8),  # n2 has 9, the leader's own disk only 8
        ("any 2", 6),
        ("any 3", 3),
        ("any 4", 0),
        ("first 1 (n2)", 8),
        ("first 1 (n3, n4)", 3),  # n3 is not reachable
        ("first 2 (n2, n4)", 3),
        ("first 2 (n2, n3)", 0),  # only one of them is reachable
        ("quorum", 6),
        ("all", 6),
    ],
)
def test_durability_reached(level: str, index: int) -> None:
    assert reached(parse_durability(level), FACTS) == index


@pytest.mark.parametrize(
    ("level", "index"),
    [
        ("any 1+applied", 5),  # n2 has applied 5
        ("any 2 + applied", 4),
        ("first 1 (n2)+applied", 5),
        ("quorum+applied", 5),  # the leader itself and n2
        ("all+applied", 2),
    ],
)
def test_durability_with_applied_waits_for_databases_too(level: str, index: int) -> None:
    applied = {"n2": Index(5), "n3": Index(4), "n4": Index(2)}
    facts = dataclasses.replace(FACTS, applied=applied, voters=frozenset(applied))
    facts = dataclasses.replace(facts, voters=frozenset({"n2", "n4"}) if "quorum" in level else facts.voters)
    assert reached(parse_durability(level), facts) == index


def test_applied_never_exceeds_the_commit() -> None:
    facts = dataclasses.replace(FACTS, commit=Index(3), applied={n: Index(9) for n in FACTS.durable})
    assert reached(parse_durability("any 1+applied"), facts) == 3


@pytest.mark.parametrize("text", ["async+applied", "local +applied", "quorum+applied+applied", "+applied"])
def test_applied_belongs_to_levels_of_followers(text: str) -> None:
    with pytest.raises(UsageError):
        parse_durability(text)


def test_what_cannot_be_reached_now_names_who_is_silent() -> None:
    facts = dataclasses.replace(FACTS, reachable=frozenset({"n2"}), voters=frozenset({"n2", "n3"}))
    assert missing(parse_durability("any 1"), facts) is None
    assert missing(parse_durability("quorum"), facts) is None
    assert missing(parse_durability("local"), facts) is None
    for level in ("all", "any 2", "first 1 (n3)"):
        why = missing(parse_durability(level), facts)
        assert why is not None and "n3" in why


def test_every_level_says_what_it_survives() -> None:
    assert "any 1 of 3 nodes" in survives(parse_durability("quorum"), 3)
    assert "any 2 of 5 nodes" in survives(parse_durability("quorum"), 5)
    assert "failover included" in survives(parse_durability("any 1"), 3)
    assert "not every failover" in survives(parse_durability("any 1"), 5)
    assert "any 4 disks" in survives(parse_durability("all"), 5)
    assert "nothing" in survives(parse_durability("async"), 3)


@pytest.mark.parametrize(
    "text", ["", "any", "any 0", "any -1", "first 2 (a)", "first 1 (a, a)", "sync", "all 3"]
)
def test_unknown_durability_is_refused_with_the_syntax(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_durability(text)
    assert "quorum" in str(caught.value.hint)


@pytest.mark.parametrize(
    "text",
    ["async", "local", "any 2", "first 1 (a, b)", "quorum", "all", "all+applied", "first 1 (a)+applied"],
)
def test_durability_prints_as_it_reads(text: str) -> None:
    assert str(parse_durability(text)) == text


def test_level_that_the_members_can_never_reach_says_why() -> None:
    followers = frozenset({"n2"})
    assert unsatisfiable(Durability(Level.ANY, 2), followers) is not None
    assert unsatisfiable(parse_durability("first 1 (n9)"), followers) is not None
    assert unsatisfiable(parse_durability("first 1 (n9, n2)"), followers) is None


def position(term: int, index: int) -> Position:
    return Position(Term(term), Index(index), bytes(16))


@pytest.mark.parametrize(
    ("authority", "log", "voted", "followed", "granted"),
    [
        ("auto", (1, 5), None, None, True),
        ("auto", (1, 6), None, None, False),  # the voter's log is longer
        ("auto", (2, 1), None, None, False),  # the voter's log is of a later term
        ("auto", (0, 0), "n3", None, False),  # voted already
        ("auto", (0, 0), "n1", None, True),  # ... for this very node: the same answer again
        ("auto", (1, 6), None, "n1", False),  # whom it followed does not matter here
        ("designated", (1, 6), None, None, False),
        ("designated", (1, 6), None, "n1", True),  # its tail came from n1 and was never committed
        ("designated", (1, 6), None, "n3", False),
    ],
)
def test_vote(
    authority: str, log: tuple[int, int], voted: str | None, followed: str | None, granted: bool
) -> None:
    settings = membership("n1", "n2", leader="n1", authority=authority).settings
    state = HardState(
        Term(3), NodeId(voted) if voted else None, leader=NodeId(followed) if followed else None
    )
    request = VoteRequest(Term(3), Term(1), Index(5), False, False)
    reason = refusal(N1, request, state=state, last=position(*log), settings=settings)
    assert (reason is None) == granted, reason


def test_only_the_designated_leader_gets_votes_and_may_campaign() -> None:
    settings = membership("n1", "n2", leader="n1").settings
    request = VoteRequest(Term(3), Term(9), Index(9), False, False)
    assert refusal(N2, request, state=HardState(Term(3), None), last=GENESIS, settings=settings)
    assert may_campaign(N1, settings, voter=True)
    assert not may_campaign(N1, settings, voter=False)
    assert not may_campaign(N2, settings, voter=True)


@pytest.mark.parametrize(("count", "decides"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3)])
def test_majority(count: int, decides: int) -> None:
    assert majority(count) == decides


def test_new_incarnation_of_a_voter_is_two_changes() -> None:
    before = membership("n1", "n2")
    assert differing_voters(before, before.with_member(member("n2", incarnation="new"))) == 2
    assert differing_voters(before, before.with_member(member("n3", voter=False))) == 0


def test_last_voter_cannot_be_removed() -> None:
    with pytest.raises(UsageError, match="last voter"):
        membership("n1").without("n1")


def test_history_gives_back_what_was_in_force() -> None:
    one, two, three = membership("n1"), membership("n1", "n2"), membership("n1", "n2", "n3")
    history = History([(Index(0), one)])
    history.append(Index(4), two)
    history.append(Index(9), three)
    assert history.at(Index(8)) == (4, two)
    history.truncate(Index(8))
    assert history.current == two
    history.forget_before(Index(6))
    assert history.at(Index(3)) is None
    assert history.current == two


def test_progress_sends_one_probe_at_a_time() -> None:
    progress = Progress(N2, Index(1), 0)
    assert progress.may_send()
    progress.sent([], 0)
    assert not progress.may_send()


def test_progress_never_falls_by_a_late_report() -> None:
    progress = Progress(N2, Index(1), 0)
    progress.accept(Index(5), Index(4), Index(3), 0)
    assert not progress.accept(Index(4), Index(2), Index(1), 0)
    assert (progress.received, progress.durable, progress.applied) == (5, 4, 3)


def test_progress_forgets_what_was_only_received_when_the_connection_is_new() -> None:
    progress = Progress(N2, Index(1), 0)
    progress.replicate()
    progress.sent(chain_of(MemoryLog(), 1, 1, 1), 0)
    progress.accept(Index(3), Index(1), Index(0), 0)
    progress.reconnected()
    progress.probe(progress.next)
    assert (progress.received, progress.next, progress.state) == (1, 2, Sending.PROBE)


def test_progress_waits_when_too_much_is_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paceline.core.progress.INFLIGHT_MESSAGES_MAX", 2)
    progress = Progress(N2, Index(1), 0)
    progress.replicate()
    entries = chain_of(MemoryLog(), 1, 1, 1)
    progress.sent(entries[:1], 0)
    assert progress.may_send()
    progress.sent(entries[1:2], 0)
    assert not progress.may_send()
    progress.accept(Index(1), Index(0), Index(0), 0)
    assert progress.may_send()


def test_follower_that_lost_synced_data_is_believed() -> None:
    progress = Progress(N2, Index(1), 0)
    progress.accept(Index(9), Index(9), Index(9), 0)
    progress.refused(Index(4))
    assert (progress.received, progress.durable, progress.applied) == (4, 4, 4)


def test_hard_state_keeps_its_promise() -> None:
    state = HardState(Term(3), N1)
    assert state.may_become(HardState(Term(4), N2))
    assert state.may_become(HardState(Term(3), N1, leader=N1))
    assert not state.may_become(HardState(Term(3), N2))
    assert not state.may_become(HardState(Term(2), N1))
