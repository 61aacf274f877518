"""Where the checkers are hooked in: every event, and the transitions that matter.

It only looks.  Wrappers around a log's ``stage``, ``truncate``, ``reset`` and ``drop_before`` look at what is
about to happen and call the original.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from paceline.core.entry import Entry
from paceline.core.messages import AppendResponse, Message, VoteResponse
from paceline.ids import Index, NodeId, Position
from paceline.sim.checkers import Facts
from paceline.sim.world import Life

if TYPE_CHECKING:
    from paceline.sim.cluster import Cluster
    from paceline.sim.process import Process

__all__ = ["Watch"]


class Watch:
    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.closed = False
        """The run is over; what ends now only cleans up."""
        self.facts = Facts(cluster.oracle)
        self.events: dict[str, int] = {}
        """How often each kind of news was heard: for the report, and for vacuity."""
        self.listener: Callable[[Process, str], None] = lambda process, kind: None
        """Hears of transitions after which a fault would hurt most (``faults.py``)."""
        cluster.network.sent = self.sent
        cluster.world.after_step = self.after_step

    def after_step(self, life: Life | None) -> None:
        if life is None:
            return
        process = self.cluster.processes.get(NodeId(life.name.partition("/")[0]))
        if process is not None and process.up:
            self.facts.check_step(process)

    def opened(self, process: Process) -> None:
        log = process.node.log
        truncate, reset, drop_before, stage = log.truncate, log.reset, log.drop_before, log.stage

        def watched_truncate(after: Index) -> None:
            self.facts.check_removal(process, after)
            self.noted(process, "truncated")
            truncate(after)

        def watched_reset(base: Position) -> None:
            self.facts.check_reset(process, base)
            reset(base)

        def watched_drop(index: Index) -> None:
            self.facts.check_step(process)  # what goes may just have been committed
            drop_before(index)

        def watched_stage(entries: Sequence[Entry], locals: Sequence[bytes] = ()) -> None:
            self.facts.check_staged(process, entries)
            stage(entries, locals)

        log.stage = watched_stage  # type: ignore[method-assign]
        log.drop_before = watched_drop  # type: ignore[method-assign]
        log.truncate = watched_truncate  # type: ignore[method-assign]
        log.reset = watched_reset  # type: ignore[method-assign]
        self.facts.opened(process)

    def died(self, process: Process) -> None:
        if not self.closed:
            self.facts.died(process)

    def power_cut(self, process: Process) -> None:
        self.count("power-cut")

    def ended(self, process: Process, error: BaseException) -> None:
        self.count("ended")
        self.facts.check_end(process, error)

    def event(self, process: Process, kind: str, details: dict[str, Any]) -> None:
        self.facts.check_event(process, kind, details)
        self.noted(process, kind)
        if kind == "role" and details["role"] == "leader":
            self.noted(process, "elected")
        elif kind == "role" and details["leader"] is not None:
            self.noted(process, "followed")

    def sent(self, sender: NodeId, to: NodeId, message: Message) -> None:
        self.count(type(message).__name__)
        if isinstance(message, AppendResponse):
            self.facts.check_report(self.cluster.processes[sender], message)
        elif isinstance(message, VoteResponse):
            self.facts.check_vote(self.cluster.processes[sender], to, message)

    def noted(self, process: Process, kind: str) -> None:
        self.count(kind)
        self.listener(process, kind)

    def count(self, kind: str) -> None:
        self.events[kind] = self.events.get(kind, 0) + 1
