"""What to do with each segment file at start: a decision table, pure.

Facts about one file (its header, its place in the row, how it links to the
file before it, how its records end) go in; a verdict comes out.  The rules
are read from top to bottom and the first that fits decides; a test enumerates
every combination of facts and proves that one always does, and that each rule
is needed.

The principle behind the table: only bytes that were never acknowledged may be
cut.  A later segment is created only after the one before it was synced to its
end, so only the *last* file may end torn.  Everything else that fails a check
was durable once; it is named and refused, never 'repaired' by cutting.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from paceline.log.scan import Ending

__all__ = ["RULES", "Action", "Facts", "Header", "Link", "Place", "Rule", "decide"]


class Header(Enum):
    GOOD = "good"
    UNFINISHED = "no more bytes than a header, and not a whole one"
    DAMAGED = "damaged"
    NEWER = "written by a newer Paceline"
    FOREIGN = "of another cluster"
    MISNAMED = "does not belong to this file name"


class Place(Enum):
    """Among the files of the newest generation."""

    ONLY = "the only segment"
    EARLIER = "later segments follow"
    LAST = "the last segment"
    STALE = "of an older generation"

    @property
    def is_end(self) -> bool:
        return self in (Place.ONLY, Place.LAST)


class Link(Enum):
    FIRST = "nothing before it"
    CONTINUES = "continues the segment before"
    GAP = "entries are missing before it"
    OVERLAP = "it starts inside the segment before"
    FORKED = "its position before is not the end of the segment before"
    UNKNOWN = "cannot be told"


class Action(Enum):
    KEEP = "keep"
    CUT = "cut"
    REMOVE = "remove"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    header: Header
    place: Place
    link: Link
    ending: Ending


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Fits when every field that is not empty contains the fact."""

    header: frozenset[Header] = frozenset()
    place: frozenset[Place] = frozenset()
    link: frozenset[Link] = frozenset()
    ending: frozenset[Ending] = frozenset()
    action: Action
    why: str
    todo: str = ""

    def fits(self, facts: Facts) -> bool:
        return (
            (not self.header or facts.header in self.header)
            and (not self.place or facts.place in self.place)
            and (not self.link or facts.link in self.link)
            and (not self.ending or facts.ending in self.ending)
        )


_REPLACE: Final = (
    "do not cut or delete it; restore the file from a copy, or move this data directory away "
    "and let the node join again from its peers"
)
_UPGRADE: Final = "start this node with the Paceline version that wrote it, or a newer one"

RULES: Final = (
    Rule(
        place=frozenset({Place.STALE}),
        action=Action.REMOVE,
        why="left over from before the log was reset by a snapshot",
    ),
    Rule(
        header=frozenset({Header.FOREIGN}),
        action=Action.REFUSE,
        why="belongs to another cluster",
        todo="check which data directory this node was given; nothing was changed",
    ),
    Rule(header=frozenset({Header.NEWER}), action=Action.REFUSE, why="has an unknown format", todo=_UPGRADE),
    Rule(
        header=frozenset({Header.MISNAMED}),
        action=Action.REFUSE,
        why="has a name that is not its first index",
        todo="give it back its name; segment files are never renamed",
    ),
    Rule(
        header=frozenset({Header.UNFINISHED}),
        place=frozenset({Place.LAST}),
        action=Action.REMOVE,
        why="its creation did not finish and it holds nothing",
    ),
    Rule(
        header=frozenset({Header.UNFINISHED, Header.DAMAGED}),
        action=Action.REFUSE,
        why="has a damaged header",
        todo=_REPLACE,
    ),
    Rule(
        link=frozenset({Link.GAP}),
        action=Action.REFUSE,
        why="does not continue the segment before: entries are missing between them",
        todo=_REPLACE,
    ),
    Rule(
        link=frozenset({Link.OVERLAP}),
        action=Action.REFUSE,
        why="starts inside the segment before it",
        todo="one of the two files was put here by hand; take it out again",
    ),
    Rule(
        link=frozenset({Link.FORKED}),
        action=Action.REFUSE,
        why="continues another history than the segment before it",
        todo=_REPLACE,
    ),
    Rule(ending=frozenset({Ending.WHOLE}), action=Action.KEEP, why="is whole"),
    Rule(
        ending=frozenset({Ending.TORN, Ending.TORN_WRITE}),
        place=frozenset({Place.ONLY, Place.LAST}),
        action=Action.CUT,
        why="ends in a write that never became durable",
    ),
    Rule(
        ending=frozenset({Ending.TORN, Ending.TORN_WRITE}),
        action=Action.REFUSE,
        why="is not whole, though later segments follow",
        todo=_REPLACE,
    ),
    Rule(
        ending=frozenset({Ending.NEWER}), action=Action.REFUSE, why="holds an unknown record", todo=_UPGRADE
    ),
    Rule(
        ending=frozenset({Ending.BROKEN_CHAIN}), action=Action.REFUSE, why="breaks the chain", todo=_REPLACE
    ),
    Rule(
        ending=frozenset({Ending.DAMAGED, Ending.UNREAD}),
        action=Action.REFUSE,
        why="is damaged where it was durable",
        todo=_REPLACE,
    ),
)


def decide(facts: Facts) -> Rule:
    """The first rule that fits."""
    return next(rule for rule in RULES if rule.fits(facts))
