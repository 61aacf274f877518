"""Changing what all members share: which settings exist, which values make sense in this cluster, and why not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from paceline.core.durability import Durability, Level, parse_durability, unsatisfiable
from paceline.core.membership import Membership, Settings
from paceline.errors import UsageError
from paceline.ids import NodeId
from paceline.limits import DEGRADE_AFTER_MS_MAX, DEGRADE_AFTER_MS_MIN, ID_GAP_MAX

__all__ = ["CHANGEABLE", "POLICIES", "changed_settings", "levels_of", "out_of_reach"]

POLICIES: Final = ("wait", "fail", "degrade")
CHANGEABLE: Final = ("durability", "unreached", "degrade_after_ms", "id_gap")
_ELSEWHERE: Final = {
    "writes": "use: paceline writes stop, paceline writes start",
    "leader": "move the leadership with: paceline failover switch NODE",
    "authority": "it is decided when the cluster is founded",
}


def changed_settings(membership: Membership, wanted: Mapping[str, object]) -> Settings:
    """The settings with ``wanted`` in them; raises ``UsageError`` when there is no such setting or value."""
    changes: dict[str, object] = {}
    for key, value in wanted.items():
        match key:
            case "durability":
                changes[key] = _durability(membership, value)
            case "unreached":
                if value not in POLICIES:
                    raise UsageError(
                        f"unreached={value!s:.60}: expected one of {', '.join(POLICIES)}",
                        hint="wait until its time limit; fail before anything happens; degrade to the leader's own disk",
                    )
                changes[key] = value
            case "degrade_after_ms":
                if type(value) is not int or not DEGRADE_AFTER_MS_MIN <= value <= DEGRADE_AFTER_MS_MAX:
                    raise UsageError(
                        f"degrade_after_ms={value!s:.60}: expected an integer from {DEGRADE_AFTER_MS_MIN} to "
                        f"{DEGRADE_AFTER_MS_MAX}",
                        hint="milliseconds that a write waits before its level falls back, for example 1000",
                    )
                changes[key] = value
            case "id_gap":
                if type(value) is not int or not 0 <= value <= ID_GAP_MAX:
                    raise UsageError(
                        f"id_gap={value!s:.60}: expected an integer from 0 to {ID_GAP_MAX}",
                        hint="ids that a new leader leaves out in AUTOINCREMENT tables; 0 for none",
                    )
                changes[key] = value
            case _:
                hint = _ELSEWHERE.get(key, f"settings that can be changed: {', '.join(CHANGEABLE)}")
                raise UsageError(f"no setting {key[:60]!r} to change", hint=hint)
    return msgspec.structs.replace(membership.settings, **changes)


def _durability(membership: Membership, value: object) -> str:
    if not isinstance(value, str):
        raise UsageError("durability is a text", hint="for example quorum")
    level = parse_durability(value)
    strangers = [name for name in level.names if membership.member(name) is None]
    why = (
        f"'{level}' names {', '.join(strangers)}, no member" if strangers else _impossible(membership, level)
    )
    if why is not None:
        levels = ", ".join(str(known) for known in levels_of(membership, None))
        raise UsageError(why, hint=f"levels of this cluster: {levels}; or add nodes: paceline node add")
    return str(level)


def out_of_reach(membership: Membership) -> str | None:
    """Why the cluster's own durability could never be reached with exactly these members, or None."""
    return _impossible(membership, parse_durability(membership.settings.durability))


def _impossible(membership: Membership, level: Durability) -> str | None:
    """Why the members can never reach the level, whichever of those that may lead does; None when they can."""
    names = frozenset(str(member.name) for member in membership.members)
    designated = membership.settings.leader
    leaders = [designated] if designated is not None else sorted(membership.voters)
    for leader in leaders:
        if (why := unsatisfiable(level, names - {str(leader)})) is not None:
            return why if level.level is Level.ANY else f"{why}, when {leader} leads"
    return None


def levels_of(membership: Membership, leader: NodeId | None) -> Iterator[Durability]:
    """Every kind of level that this cluster can reach; ``first`` with all followers of ``leader`` in order of name."""
    followers = sorted(str(member.name) for member in membership.members if member.name != leader)
    count = len(membership.members) - 1
    yield Durability(Level.ASYNC)
    yield Durability(Level.LOCAL)
    yield from (Durability(Level.ANY, k) for k in range(1, count + 1))
    yield from (Durability(Level.FIRST, k, tuple(followers)) for k in range(1, count + 1))
    yield Durability(Level.QUORUM)
    yield Durability(Level.ALL)
