"""What a node needs from the world: the seam between production and simulation.

``runtime`` implements it with an event loop, threads and sockets; ``sim`` with one
heap of events.  :class:`~paceline.node.node.Node` is the same in both.

Three *lanes* do what may block.  Work on one lane runs one at a time and in
order; ``done`` and ``failed`` come back on the loop, where everything else of the node
runs.  ``LOG`` writes and syncs the log, ``STATE`` owns the engine, ``READ`` answers queries
(several at once).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol, TypeVar

from paceline.core.effects import Random
from paceline.core.messages import Message
from paceline.files import Steps
from paceline.ids import NodeId

__all__ = ["Lane", "Ports"]

T = TypeVar("T")


class Lane(Enum):
    LOG = "log"
    STATE = "state"
    READ = "read"


class Ports(Protocol):
    random: Random

    def now_ms(self) -> int:
        """Monotonic milliseconds."""
        ...

    def wall_us(self) -> int:
        """Microseconds since 1970."""
        ...

    def deadline(self, timeout_ms: int) -> float:
        """A moment from now in the engine's clock (seconds)."""
        ...

    def send(self, to: NodeId, message: Message) -> None:
        """Send if connected, else drop."""
        ...

    def run(
        self,
        lane: Lane,
        work: Callable[[], T],
        done: Callable[[T], None],
        failed: Callable[[BaseException], None],
        *,
        quick: bool = False,
    ) -> None:
        """``quick``: this piece of work ends within some milliseconds; it may run in place, without a thread."""
        ...

    def run_steps(
        self, steps: Steps[T], done: Callable[[T], None], failed: Callable[[BaseException], None]
    ) -> None:
        """Work of the log's lane that does little beside its syncs: they may go without a thread."""
        ...

    def later(self, delay_ms: int, call: Callable[[], None]) -> None:
        """Call on the loop after a delay."""
        ...

    def soon(self, call: Callable[[], None]) -> None:
        """Call on the loop after what has arrived by now."""
        ...

    def post(self, call: Callable[[], None]) -> None:
        """From a lane: call on the loop, in order."""
        ...

    def ask(self, call: Callable[[], T]) -> T:
        """From a lane: call on the loop and wait for the answer."""
        ...

    def wait_for_room(self, size: int) -> None:
        """From the state lane: block while the log has too much that is not synced."""
        ...

    def made_room(self) -> None:
        """The log has synced."""
        ...

    def fetch_snapshot(self, leader: NodeId) -> None:
        """Start fetching a snapshot from ``leader`` (nothing happens when one is under way)."""
        ...

    def event(self, kind: str, **details: Any) -> None:
        """Something a person or a client may want to know."""
        ...

    def fatal(self, error: BaseException) -> None:
        """This process must end: its disk or its state machine can no longer be trusted."""
        ...
