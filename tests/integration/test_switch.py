"""A planned change of leader: nothing is lost, and the pause is said."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from cluster import Cluster, Node, eventually
from conftest import MakeCluster
from load import Load, Readers, make_tables

from paceline.errors import PacelineError, UsageError

PAUSE_MS_MAX = 1_500
"""Generous: the machine may be busy.  ``bench.failover`` measures it."""


def elected(make_cluster: MakeCluster) -> tuple[Cluster, Node, list[Node]]:
    cluster = make_cluster(authority="auto")
    cluster.start()
    make_tables(cluster)
    cluster.wait_level()
    leader = cluster.leader
    return cluster, leader, [node for node in cluster.nodes.values() if node is not leader]


def switch(cluster: Cluster, to: Node) -> dict[str, Any]:
    """As an operator does it, asking any node."""
    via = next(iter(cluster.nodes.values()))
    command = [sys.executable, "-m", "paceline", "failover", "switch", to.name, "--json"]
    done = subprocess.run(
        [*command, "--connect", via.listen], capture_output=True, text=True, timeout=40, check=True
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_switch_under_load_loses_nothing_and_reports_its_pause(make_cluster: MakeCluster) -> None:
    cluster, old, rest = elected(make_cluster)
    with Readers(*cluster.nodes.values(), may_fall=True), Load(cluster, writers=8) as load:
        load.more(100)
        for to in (rest[0], rest[1], old, rest[0]):
            before = cluster.leader
            answer = switch(cluster, to)
            assert answer["from"] == before.name and answer["to"] == to.name
            assert 0 <= answer["pause_ms"] < PAUSE_MS_MAX
            assert cluster.leader is to
            load.more(50)
    cluster.wait_ready()
    load.assert_kept()
    assert not load.unknown and not load.refused
    assert not any("rewound" in node.output or "lost {" in node.output for node in cluster.nodes.values())


@pytest.mark.slow
def test_switch_to_a_node_that_cannot_lead_is_refused_and_the_leader_stays(make_cluster: MakeCluster) -> None:
    cluster, leader, rest = elected(make_cluster)
    with Load(cluster, through=(leader.name, rest[1].name)) as load, leader.client() as client:
        load.more()
        with pytest.raises(UsageError, match="n9"):
            client.admin("switch", node="n9")
        with rest[0].paused():
            with pytest.raises(PacelineError, match=rest[0].name):
                client.admin("switch", node=rest[0].name, timeout_ms=1_000)
            load.more()
            assert cluster.wait_for_leader(among=[leader, rest[1]]) is leader
        rest[0].kill()
        eventually(
            "the leader misses it",
            lambda: not next(m for m in leader.status()["members"] if m["name"] == rest[0].name)["reachable"],
        )
        with pytest.raises(PacelineError, match="cannot be reached"):
            client.admin("switch", node=rest[0].name)
        load.more()
        rest[0].start()
    cluster.wait_ready()
    assert cluster.leader is leader
    load.assert_kept()
    assert not load.unknown and not load.refused


def test_leader_that_is_stopped_hands_over_first(make_cluster: MakeCluster) -> None:
    cluster, old, _ = elected(make_cluster)
    with Load(cluster) as load:
        load.more()
        old.stop()
        load.more()
        old.start()
        cluster.wait_ready()
        load.more()
    assert cluster.leader is not old
    load.assert_kept()
    assert not load.unknown and not load.refused


@pytest.mark.slow
def test_leader_killed_in_the_middle_of_a_switch_loses_nothing(make_cluster: MakeCluster) -> None:
    cluster, _, _ = elected(make_cluster)
    with Load(cluster) as load:
        for who in ("old", "new", "old", "new"):
            load.more()
            old = cluster.leader
            new = next(node for node in cluster.nodes.values() if node is not old)
            command = [sys.executable, "-m", "paceline", "failover", "switch", new.name]
            seen = len(old.output)
            process = subprocess.Popen(
                [*command, "--connect", old.listen], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            eventually("it begins", lambda: "switching" in old.output[seen:])  # noqa: B023
            victim = old if who == "old" else new
            victim.kill()
            process.wait(40)
            load.more()
            victim.start()
            cluster.wait_ready()
    load.assert_kept()
    assert not load.unknown and not load.refused
