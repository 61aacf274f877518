"""What an acknowledgement waits for, as a pure function of follower progress.

    async         executed on the leader, before any sync
    local         durable in the leader's log
    any K         ... and in the logs of any K followers
    first K (a,b) ... and in the logs of the first K reachable of the named nodes, in that order
    quorum        committed: durable on a majority of voters
    all           durable on every voter

Every level but ``async`` includes the leader's own sync.  ``+applied`` behind ``any K``, ``first K (...)``, ``quorum``
or ``all`` waits until the same nodes have it in their databases as well: whoever reads there afterwards,
at any level, sees it.  Followers apply committed entries only, so it includes the commit.  The level is text on
the wire and in configuration; :func:`parse_durability` is the only reader.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import lru_cache

from paceline.core.membership import majority
from paceline.errors import UsageError
from paceline.ids import Index

__all__ = [
    "Durability",
    "Facts",
    "Level",
    "missing",
    "parse_durability",
    "reached",
    "survives",
    "unsatisfiable",
]

_SYNTAX = "async, local, any K, first K (name, ...), quorum, all; the last four also with +applied"
_APPLIED = "+applied"
_ANY = re.compile(r"^any\s+(\d{1,3})$")
_FIRST = re.compile(r"^first\s+(\d{1,3})\s*\(\s*([A-Za-z0-9_\-\s,]+?)\s*\)$")


class Level(Enum):
    ASYNC = "async"
    LOCAL = "local"
    ANY = "any"
    FIRST = "first"
    QUORUM = "quorum"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Durability:
    level: Level
    count: int = 0
    names: tuple[str, ...] = ()
    applied: bool = False

    def __str__(self) -> str:
        suffix = _APPLIED if self.applied else ""
        match self.level:
            case Level.ANY:
                return f"any {self.count}{suffix}"
            case Level.FIRST:
                return f"first {self.count} ({', '.join(self.names)}){suffix}"
            case _:
                return f"{self.level.value}{suffix}"


@lru_cache(maxsize=256)
def parse_durability(text: str) -> Durability:
    """Read a level; raises :class:`UsageError` that names the syntax."""
    bare = text.strip()
    if bare.lower().endswith("applied") and bare[: -len("applied")].rstrip().endswith("+"):
        durability = parse_durability(bare[: -len("applied")].rstrip()[:-1])
        if durability.level in (Level.ASYNC, Level.LOCAL) or durability.applied:
            raise UsageError(
                f"'{durability}' cannot be combined with +applied: only followers apply",
                hint=f"use one of: {_SYNTAX}",
            )
        return replace(durability, applied=True)
    plain = " ".join(text.strip().lower().split())
    for level in (Level.ASYNC, Level.LOCAL, Level.QUORUM, Level.ALL):
        if plain == level.value:
            return Durability(level)
    if (match := _ANY.match(plain)) and int(match[1]) >= 1:
        return Durability(Level.ANY, int(match[1]))
    if match := _FIRST.match(" ".join(text.strip().split())):
        names = tuple(name.strip() for name in match[2].split(",") if name.strip())
        count = int(match[1])
        if len(set(names)) == len(names) and 1 <= count <= len(names):
            return Durability(Level.FIRST, count, names)
    raise UsageError(f"unknown durability {text!r}", hint=f"use one of: {_SYNTAX}")


@dataclass(frozen=True, slots=True)
class Facts:
    """A leader's knowledge at one moment.

    ``durable``, ``applied``: each follower's durable and applied index (voters and learners), 0 when unknown.
    ``reachable``: followers heard of lately.  ``voters``: all voters but the leader.
    """

    last: Index
    own: Index
    commit: Index
    durable: Mapping[str, Index]
    reachable: frozenset[str]
    voters: frozenset[str]
    applied: Mapping[str, Index] = field(default_factory=dict)


def reached(durability: Durability, facts: Facts) -> Index:
    """The highest index that has this durability; it never exceeds the leader's own log."""
    index = _reached(durability, facts)
    if not durability.applied:
        return index
    applied = replace(facts, durable=facts.applied)
    if durability.level is Level.QUORUM:  # the leader has executed everything
        indexes = sorted((facts.applied.get(name, Index(0)) for name in facts.voters), reverse=True)
        others = majority(len(facts.voters) + 1) - 1
        return min(index, indexes[others - 1]) if others else index
    return min(index, facts.commit, _reached(durability, applied))


def _reached(durability: Durability, facts: Facts) -> Index:
    match durability.level:
        case Level.ASYNC:
            return facts.last
        case Level.LOCAL:
            return facts.own
        case Level.QUORUM:
            return facts.commit
        case Level.ALL:
            return _lowest(facts.own, (facts.durable.get(name, Index(0)) for name in facts.voters))
        case Level.ANY:
            indexes = sorted(facts.durable.values(), reverse=True)
            if len(indexes) < durability.count:
                return Index(0)
            return min(facts.own, indexes[durability.count - 1])
        case Level.FIRST:
            chosen = [name for name in durability.names if name in facts.reachable][: durability.count]
            if len(chosen) < durability.count:
                return Index(0)
            return _lowest(facts.own, (facts.durable.get(name, Index(0)) for name in chosen))


def _lowest(own: Index, others: Iterable[Index]) -> Index:
    return min(own, min(others, default=own))


def missing(durability: Durability, facts: Facts) -> str | None:
    """Why the level cannot be reached as things are now (who does not answer), None when it can."""
    reachable = facts.reachable
    match durability.level:
        case Level.ASYNC | Level.LOCAL:
            return None
        case Level.ANY:
            need, have = durability.count, len(reachable)
        case Level.FIRST:
            need, have = durability.count, sum(name in reachable for name in durability.names)
        case Level.QUORUM:
            need, have = majority(len(facts.voters) + 1) - 1, len(facts.voters & reachable)
        case Level.ALL:
            need, have = len(facts.voters), len(facts.voters & reachable)
    if have >= need:
        return None
    wanted = durability.names if durability.level is Level.FIRST else sorted(facts.durable)
    silent = ", ".join(name for name in wanted if name not in reachable)
    return f"'{durability}' needs {need} followers, {have} answer (silent: {silent or 'none'})"


def survives(durability: Durability, voters: int) -> str:
    """Which failures an acknowledgement of this level survives, in a cluster of that many voters that elects."""
    tolerated = voters - majority(voters)
    match durability.level:
        case Level.ASYNC:
            return "nothing: a crash of the leader's process may lose it"
        case Level.LOCAL:
            return "a crash or power cut of the leader, as long as no other node is elected meanwhile"
        case Level.ANY if durability.count >= majority(voters) - 1:
            count = durability.count
            return f"the loss of any {min(count, tolerated)} of {voters} nodes, failover included"
        case Level.FIRST if durability.count >= majority(voters) - 1:
            return f"the loss of any {min(durability.count, tolerated)} of {voters} nodes, failover included"
        case Level.ANY | Level.FIRST:
            return (
                f"the loss of {durability.count} disks, but not every failover: a majority without "
                "those followers may elect a leader that lacks it"
            )
        case Level.QUORUM:
            if not tolerated:
                return "a crash or power cut; not the loss of a disk"
            return f"the loss of any {tolerated} of {voters} nodes, failover included"
        case Level.ALL:
            return (
                f"the loss of any {tolerated} of {voters} nodes with failover, and of any {voters - 1} disks"
                if voters > 1
                else "a crash or power cut; not the loss of a disk"
            )


def unsatisfiable(durability: Durability, followers: frozenset[str]) -> str | None:
    """Why no state of this membership can ever reach the level, or None."""
    if durability.level is Level.ANY and durability.count > len(followers):
        return f"'{durability}' needs {durability.count} followers, the cluster has {len(followers)}"
    if durability.level is Level.FIRST:
        unknown = [name for name in durability.names if name not in followers]
        if len(durability.names) - len(unknown) < durability.count:
            return f"'{durability}' names nodes that do not follow this leader: {', '.join(unknown)}"
    return None
