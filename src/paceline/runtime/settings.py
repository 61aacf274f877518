"""What ``paceline cluster show`` tells: the settings in force, and what each durability means in this cluster now."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from paceline.core.durability import Durability, Level, parse_durability, survives
from paceline.core.membership import Membership
from paceline.core.settings import levels_of
from paceline.errors import NotLeader
from paceline.node.node import Node

__all__ = ["settings_report"]

_WITHOUT_APPLIED = (Level.ASYNC, Level.LOCAL)


def settings_report(node: Node) -> dict[str, Any]:
    """The leader's answer; JSON-able."""
    replica, membership = node.replica, node.replica.membership
    if not node.leads or membership is None:
        leader = str(replica.leader) if replica.leader else None
        raise NotLeader(f"{replica.name} does not lead", leader=leader, hint="repeat in a moment")
    settings = membership.settings
    default = parse_durability(settings.durability)
    levels = list(levels_of(membership, replica.name))
    if replace(default, applied=False) not in levels:
        levels.append(replace(default, applied=False))
    return {
        "cluster": membership.cluster_name,
        "leader": str(replica.name),
        "term": replica.term,
        "members": [str(member.name) for member in membership.members],
        "voters": len(membership.voters),
        "settings": {
            "authority": settings.authority,
            "durability": settings.durability,
            "unreached": settings.unreached,
            "degrade_after_ms": settings.degrade_after_ms,
            "id_gap": settings.ids_left_out,
            "writes": settings.writes,
        },
        "degraded": node.acks.degraded,
        "levels": [_level(node, level, default) for level in levels],
        "notes": _notes(membership),
    }


def _level(node: Node, level: Durability, default: Durability) -> dict[str, Any]:
    why = node.replica.missing(level, node.ports.now_ms())
    return {
        "durability": str(level),
        "default": level == replace(default, applied=False),
        "applied": level.level not in _WITHOUT_APPLIED,
        "survives": survives(level, len(node.replica.voters)),
        "reachable": why is None,
        "why": why,
    }


def _notes(membership: Membership) -> list[str]:
    """What must be known when reading what the levels survive."""
    notes = []
    if membership.settings.authority == "designated":
        notes.append(
            f"nobody is elected: without {membership.settings.leader} nothing is written, and what survives "
            "is the disks that have it"
        )
    learners = [str(member.name) for member in membership.members if not member.voter]
    if learners:
        notes.append(
            f"{', '.join(learners)} does not vote yet: an acknowledgement of 'any' or 'first' that counts it "
            "survives one failure less with a failover"
        )
    return notes
