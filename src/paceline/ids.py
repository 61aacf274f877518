"""The vocabulary of positions and names.

What lives here: the small value types that every other module speaks in.  A
bare ``int`` never crosses a module border as a position.  Nothing here knows
about files, sockets, SQLite or time.

A *position* is (term, index, chain hash).  Because the chain hash covers every
entry before it, equal positions mean equal histories; comparing two positions
is the whole divergence test.  The text form has a fixed width so that
positions sort as text and line up in a terminal.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NewType

__all__ = [
    "CHAIN_BYTES",
    "COUNTED_SESSION_BYTES",
    "GENESIS",
    "ZERO_CHAIN",
    "DatabasePosition",
    "Index",
    "NodeId",
    "Position",
    "Slot",
    "Term",
    "check_node_name",
    "counted_id",
    "split_counted",
]

NodeId = NewType("NodeId", str)
"""A node's name: 1-40 characters of ``a-z A-Z 0-9 _ -``, unique in a cluster."""
Term = NewType("Term", int)
"""Number of a reign; rises at every change of leader; 0 is before any reign."""
Index = NewType("Index", int)
"""Place of an entry in the log; the first entry has index 1."""

CHAIN_BYTES = 16
ZERO_CHAIN = bytes(CHAIN_BYTES)

COUNTED_SESSION_BYTES = 8
_COUNTED_MARK = b"\xff"
_COUNTED_BYTES = 1 + COUNTED_SESSION_BYTES + 8

_POSITION = re.compile(r"^(\d{8,})-(\d{14,})-([0-9a-f]{32})$")
_NAME = re.compile(r"^[A-Za-z0-9_-]{1,40}$")


@dataclass(frozen=True, slots=True)
class Position:
    """The end of a history: the last entry's term, index and chain hash."""

    term: Term
    index: Index
    chain: bytes

    def __str__(self) -> str:
        return f"{self.term:08d}-{self.index:014d}-{self.chain.hex()}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read the text form; raises ``ValueError`` on anything else."""
        match = _POSITION.match(text)
        if match is None:
            raise ValueError(f"not a position: {text!r} (expected TERM-INDEX-CHAIN as printed by Paceline)")
        return cls(Term(int(match[1])), Index(int(match[2])), bytes.fromhex(match[3]))

    @property
    def short(self) -> str:
        """For people: ``term/index``."""
        return f"{self.term}/{self.index}"


GENESIS = Position(Term(0), Index(0), ZERO_CHAIN)
"""The position before the first entry of a cluster."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The place reserved for the next entry: its term, its index, and the chain hash before it."""

    term: Term
    index: Index
    prev_chain: bytes


@dataclass(frozen=True, slots=True)
class DatabasePosition:
    """What a database says about itself, written inside each transaction.

    ``first_index`` is the index of the first entry of the last transaction
    applied, ``prev_chain`` the chain hash of the entry before that one (the
    transaction cannot contain the hash of its own body).  The log maps this to
    the end position.  A database never written by a cluster has none.
    """

    term: Term
    first_index: Index
    prev_chain: bytes


def check_node_name(name: str) -> NodeId:
    """Return ``name`` as a :data:`NodeId`; raises ``ValueError`` with the rule when it is not one."""
    if not _NAME.match(name):
        raise ValueError(f"bad node name {name!r}: use 1-40 letters, digits, '_' or '-'")
    return NodeId(name)


def counted_id(session: bytes, count: int) -> bytes:
    """A request id that says which one of its session it is: 0xFF (no text begins so), 8 random bytes, a counter."""
    assert len(session) == COUNTED_SESSION_BYTES
    return _COUNTED_MARK + session + count.to_bytes(8, "big")


def split_counted(request_id: bytes) -> tuple[bytes, int] | None:
    """Session and counter of a counted id; None for any other."""
    if len(request_id) != _COUNTED_BYTES or not request_id.startswith(_COUNTED_MARK):
        return None
    count = int.from_bytes(request_id[-8:], "big")
    return (request_id[1:-8], count) if count < 2**63 else None
