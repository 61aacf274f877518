"""What the core asks for: one batch of effects after each input, with an ordering contract.

The core decides and never acts.  After *every* input the driver takes the batch
(``Replica.take``) and carries it out before it gives the next input:

0. ``rewind_to``: the database stands beyond this index, in entries that the leader's history does not have. Nothing
   is taken from the leader before the driver says ``rewound``;
1. ``truncate_after``: the log's suffix after this index goes (custody first), staged before
2. ``hard_state`` and ``entries``, staged in this order on the log lane;
3. ``messages`` may leave at once (they depend on nothing unsynced);
4. ``after_hard_state`` leave only when ``hard_state`` is durable;
5. ``commit``/``role``/``events`` are news: what may be applied, what this node now is.

"Durable up to here" comes back as an input (``Replica.durable``), so an
acknowledgement before its sync would be a bug of the core that a simulator sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import msgspec

from paceline.core.entry import Entry
from paceline.core.hardstate import HardState
from paceline.core.messages import Message
from paceline.ids import Index, NodeId, Position

__all__ = ["Batch", "LogView", "Random", "Role", "Timing"]


class Role(Enum):
    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEADER = "leader"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """All in milliseconds.  Election timeouts are drawn from [election, 2 x election)."""

    heartbeat_ms: int
    election_timeout_ms: int


class Random(Protocol):
    """The injected source of randomness (``random.Random`` fits)."""

    def randrange(self, start: int, /) -> int: ...


class LogView(Protocol):
    """The core's read-only view of the log: what is staged, durable or not."""

    @property
    def base(self) -> Position: ...

    @property
    def last(self) -> Position: ...

    def position_at(self, index: Index) -> Position | None:
        """The position at an index from ``base.index`` to ``last.index``, else None."""
        ...

    def entries(self, after: Index, *, bytes_max: int) -> list[Entry]: ...


class Batch(msgspec.Struct, gc=False):
    """See the module docstring for the order.  Empty batches are falsy."""

    rewind_to: Index | None = None
    truncate_after: Index | None = None
    hard_state: HardState | None = None
    entries: list[Entry] = []
    messages: list[tuple[NodeId, Message]] = []
    after_hard_state: list[tuple[NodeId, Message]] = []
    commit: Index | None = None
    role: Role | None = None
    leader_changed: bool = False
    membership_changed: bool = False
    progress_changed: bool = False
    """Some durability level may have been reached."""
    snapshot_from: NodeId | None = None
    """This follower must fetch a snapshot from that leader."""
    read_indexes: list[tuple[int, Index]] = []
    """Reads (by number) that are linearizable once this node has applied the index."""

    def __bool__(self) -> bool:
        return bool(
            self.entries
            or self.messages
            or self.after_hard_state
            or self.hard_state is not None
            or self.rewind_to is not None
            or self.truncate_after is not None
            or self.commit is not None
            or self.role is not None
            or self.leader_changed
            or self.membership_changed
            or self.progress_changed
            or self.snapshot_from is not None
            or self.read_indexes
        )
