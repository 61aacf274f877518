"""What an acknowledgement waits for, as a pure function of follower progress.

    async         executed on the leader, before any sync
    local         durable in the leader's log
    any K         ... and in the logs of any K followers
    first K (a,b) ... and in the logs of the first K reachable of the named nodes, in that order
    quorum        committed: durable on a majority of voters
    all           durable on every voter

Every level but ``async`` includes the leader's own sync.  The level is text on
the wire and in configuration; :func:`parse_durability` is the only reader.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from paceline.errors import UsageError
from paceline.ids import Index

__all__ = ["Durability", "Facts", "Level", "parse_durability", "reached", "unsatisfiable"]

_SYNTAX = "async, local, any K, first K (name, ...), quorum, all"
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

    def __str__(self) -> str:
        match self.level:
            case Level.ANY:
                return f"any {self.count}"
            case Level.FIRST:
                return f"first {self.count} ({', '.join(self.names)})"
            case _:
                return str(self.level.value)


@lru_cache(maxsize=256)
def parse_durability(text: str) -> Durability:
    """Read a level; raises :class:`UsageError` that names the syntax."""
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

    ``durable``: each follower's durable index (voters and learners), 0 when unknown.
    ``reachable``: followers heard of lately.  ``voters``: all voters but the leader.
    """

    last: Index
    own: Index
    commit: Index
    durable: Mapping[str, Index]
    reachable: frozenset[str]
    voters: frozenset[str]


def reached(durability: Durability, facts: Facts) -> Index:
    """The highest index that has this durability; it never exceeds the leader's own log."""
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


def unsatisfiable(durability: Durability, followers: frozenset[str]) -> str | None:
    """Why no state of this membership can ever reach the level, or None."""
    if durability.level is Level.ANY and durability.count > len(followers):
        return f"'{durability}' needs {durability.count} followers, the cluster has {len(followers)}"
    if durability.level is Level.FIRST:
        unknown = [name for name in durability.names if name not in followers]
        if len(durability.names) - len(unknown) < durability.count:
            return f"'{durability}' names nodes that do not follow this leader: {', '.join(unknown)}"
    return None
