"""The search for a member or the leader, without a socket."""

from __future__ import annotations

import random

import pytest

from paceline.client.protocol import Failure, Pong, Welcome
from paceline.client.routing import Backoff, Routes, is_newer, parse_address
from paceline.errors import NotLeader, Unavailable, UsageError
from paceline.limits import (
    CLIENT_BACKOFF_SECONDS_MAX,
    CLIENT_BACKOFF_SECONDS_MIN,
    CLIENT_CONNECT_SECONDS,
    CLIENT_CONNECT_SECONDS_MIN,
    CLIENT_ELECTION_BACKOFF_SECONDS_MAX,
)


def welcome(node: str, leader: str | None, address: str | None = None, cluster: str = "c") -> Welcome:
    return Welcome(1, node, cluster, leader, 1, address)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [("127.0.0.1:1", ("127.0.0.1", 1)), ("n1.lan:65535", ("n1.lan", 65535)), ("[::1]:7", ("::1", 7))],
)
def test_addresses_are_host_and_port(text: str, parsed: tuple[str, int]) -> None:
    assert parse_address(text) == parsed


@pytest.mark.parametrize("text", ["", "host", "host:", ":1", "h:0", "h:65536", "http://h:1", "::1:5", "h:1x"])
def test_what_is_not_an_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not an address"):
        parse_address(text)


@pytest.mark.parametrize("addresses", [[], "127.0.0.1:1", ["nonsense"]])
def test_routes_need_addresses(addresses: list[str]) -> None:
    with pytest.raises(UsageError):
        Routes(addresses)


def test_a_reader_takes_the_first_member_that_answers() -> None:
    search = Routes(["a:1", "b:1"]).search(leader=False)
    assert search.next() == "a:1"
    search.failed("a:1", OSError("refused"))
    assert search.next() == "b:1"
    assert search.opened("b:1", welcome("b", None))


def test_a_writer_follows_the_hint_at_once() -> None:
    routes = Routes(["a:1", "b:1"])
    search = routes.search(leader=True)
    assert not search.opened(search.next() or "", welcome("a", "z", "z:1"))
    assert search.next() == "z:1"
    assert search.opened("z:1", welcome("z", "z"))
    assert routes.leader == "z:1"
    assert routes.search(leader=True).next() == "z:1", "the next search starts at the known leader"


def test_two_members_that_name_each_other_do_not_trap_the_search() -> None:
    search = Routes(["a:1"]).search(leader=True)
    search.next()
    search.opened("a:1", welcome("a", "b", "b:1"))
    assert search.next() == "b:1"
    search.opened("b:1", welcome("b", "a", "a:1"))
    assert search.next() is None


def test_a_member_of_another_cluster_is_not_taken() -> None:
    routes = Routes(["a:1", "b:1"])
    assert routes.search(leader=False).opened("a:1", welcome("a", None))
    search = routes.search(leader=False)
    strange = welcome("b", "b", cluster="other")
    assert not search.opened("b:1", strange)
    assert not search.forwards(strange)
    assert "another cluster" in str(search.error())


def test_a_follower_that_knows_the_leader_forwards() -> None:
    search = Routes(["a:1"]).search(leader=True)
    follower = welcome("a", "z")
    search.opened("a:1", follower)
    assert search.forwards(follower)
    assert not search.forwards(welcome("a", None))


def test_the_error_tells_no_node_from_no_leader() -> None:
    search = Routes(["a:1"]).search(leader=True)
    search.failed("a:1", OSError("refused"))
    assert type(search.error()) is Unavailable
    assert "a:1: refused" in str(search.error())
    search.opened("b:1", welcome("b", None))
    assert type(search.error()) is NotLeader


def test_pauses_grow_to_a_bound_and_start_again() -> None:
    backoff = Backoff(random.Random(1))
    pauses = [backoff.next() for _ in range(20)]
    assert pauses[0] <= CLIENT_BACKOFF_SECONDS_MIN
    assert pauses[3] > pauses[0]
    assert CLIENT_BACKOFF_SECONDS_MAX / 2 <= pauses[-1] <= CLIENT_BACKOFF_SECONDS_MAX
    backoff.reset()
    assert backoff.next() <= CLIENT_BACKOFF_SECONDS_MIN


def test_pauses_stay_short_while_only_the_leader_is_missing() -> None:
    backoff = Backoff(random.Random(1))
    pauses = [backoff.next(electing=True) for _ in range(20)]
    assert max(pauses) <= CLIENT_ELECTION_BACKOFF_SECONDS_MAX


def test_a_direct_search_takes_nobody_who_forwards() -> None:
    search = Routes(["a:1"]).search(leader=True, direct=True)
    follower = welcome("a", "z")
    search.opened("a:1", follower)
    assert not search.forwards(follower)


def test_a_refusal_that_names_another_leader_shows_the_way() -> None:
    routes = Routes(["a:1", "b:1"])
    assert routes.hint(Failure(1, {}, "b", 2, "b:1"), "a") and routes.leader == "b:1"
    assert routes.search(leader=True).next() == "b:1"
    routes.moved()
    for reply in (Failure(1, {}, None, 2, None), Failure(1, {}, "a", 2, "a:1"), Pong(1)):
        assert not routes.hint(reply, "a") and routes.leader is None


def test_silent_addresses_come_last_and_get_more_patience_only_while_nobody_answers() -> None:
    routes = Routes(["a:1", "b:1"])
    routes.leader = "a:1"
    assert routes.patience_seconds == CLIENT_CONNECT_SECONDS_MIN
    search = routes.search(leader=True)
    assert search.next() == "a:1"
    search.failed("a:1", TimeoutError())
    assert routes.leader is None and routes.addresses == ["b:1", "a:1"]
    assert routes.patience_seconds > CLIENT_CONNECT_SECONDS_MIN
    for _ in range(5):
        routes.silent("b:1")
    assert routes.patience_seconds == CLIENT_CONNECT_SECONDS
    for _ in range(5):
        routes.search(leader=False).opened("b:1", welcome("b", None))
    assert routes.patience_seconds == CLIENT_CONNECT_SECONDS_MIN


def test_only_another_leader_of_a_later_term_is_newer() -> None:
    old = Welcome(1, "a", "c", "a", 3)
    assert is_newer(old, Welcome(1, "b", "c", "b", 4))
    assert not is_newer(old, Welcome(1, "b", "c", "a", 4)), "it was elected again"
    assert not is_newer(old, Welcome(1, "b", "c", None, 4)), "an election is under way"
    assert not is_newer(old, Welcome(1, "b", "c", "b", 3))
