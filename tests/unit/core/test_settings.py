"""Changing what all members share: what makes no sense in this cluster is refused with the reason."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from coretools import membership

from paceline.core.membership import Membership
from paceline.core.settings import changed_settings, levels_of, out_of_reach
from paceline.errors import UsageError
from paceline.ids import NodeId


def cluster(*names: str, **settings: Any) -> Membership:
    made = membership(*names)
    defaults: dict[str, Any] = {"authority": "auto", "leader": None, **settings}
    return msgspec.structs.replace(made, settings=msgspec.structs.replace(made.settings, **defaults))


THREE = cluster("n1", "n2", "n3")


def test_all_changes_are_in_the_result_and_nothing_else_changes() -> None:
    wanted = {"durability": " ANY 2 +applied", "unreached": "degrade", "degrade_after_ms": 500}
    found = changed_settings(THREE, wanted)
    assert (found.durability, found.unreached, found.degrade_after_ms) == ("any 2+applied", "degrade", 500)
    assert (found.authority, found.writes) == (THREE.settings.authority, THREE.settings.writes)


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"durability": "any 5"}, "needs 5 followers, the cluster has 2"),
        ({"durability": "most"}, "unknown durability"),
        ({"durability": "local+applied"}, "cannot be combined"),
        ({"durability": "first 1 (n2)"}, "when n2 leads"),
        ({"durability": "first 1 (n2, n9)"}, "names n9, no member"),
        ({"durability": 3}, "is a text"),
        ({"unreached": "hope"}, "wait, fail, degrade"),
        ({"degrade_after_ms": 9}, "from 10 to 3600000"),
        ({"degrade_after_ms": 3_600_001}, "from 10 to 3600000"),
        ({"degrade_after_ms": "500"}, "an integer"),
        ({"degrade_after_ms": True}, "an integer"),
        ({"id_gap": -1}, "from 0 to"),
        ({"id_gap": 10**12 + 1}, "from 0 to"),
        ({"id_gap": True}, "an integer"),
        ({"writes": "stopped"}, "no setting 'writes'"),
        ({"durability": "all", "colour": "red"}, "no setting 'colour'"),
    ],
)
def test_impossible_settings_are_refused_with_the_reason_and_the_way_out(
    wanted: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError) as caught:
        changed_settings(THREE, wanted)
    assert says in caught.value.message and caught.value.hint


def test_a_designated_leader_does_not_follow_itself() -> None:
    designated = cluster("n1", "n2", "n3", authority="designated", leader=NodeId("n1"))
    assert changed_settings(designated, {"durability": "first 1 (n2)"}).durability == "first 1 (n2)"
    with pytest.raises(UsageError, match="when n1 leads"):
        changed_settings(designated, {"durability": "first 1 (n1)"})


def test_members_that_the_default_needs_cannot_be_removed() -> None:
    assert out_of_reach(cluster("n1", "n2", "n3", durability="any 2")) is None
    assert "needs 2 followers" in str(out_of_reach(cluster("n1", "n2", durability="any 2")))
    assert out_of_reach(cluster("n1", durability="all")) is None


def test_every_kind_of_level_of_the_cluster_is_listed() -> None:
    levels = [str(level) for level in levels_of(THREE, NodeId("n1"))]
    assert levels == [
        "async",
        "local",
        "any 1",
        "any 2",
        "first 1 (n2, n3)",
        "first 2 (n2, n3)",
        "quorum",
        "all",
    ]
    assert [str(level) for level in levels_of(cluster("n1"), NodeId("n1"))] == [
        "async",
        "local",
        "quorum",
        "all",
    ]


def test_gap_of_ids_is_for_clusters_in_which_another_node_can_lead() -> None:
    auto = cluster("n1", "n2", "n3")
    assert auto.settings.ids_left_out == 100_000
    assert b"id_gap" not in auto.encode(), "clusters that never set it keep their entries as they were"
    assert changed_settings(auto, {"id_gap": 0}).ids_left_out == 0
    assert changed_settings(auto, {"id_gap": 7}).ids_left_out == 7
    settings = msgspec.structs.replace(auto.settings, authority="designated", leader="n1", id_gap=7)
    assert settings.ids_left_out == 0
