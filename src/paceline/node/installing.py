"""The steps of a snapshot's install plan, done through a node's log, custody, engine and anchor.

Used on a running node (state lane) and at start-up, when a crash left a plan behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from paceline.core.membership import Membership
from paceline.engines.base import Engine
from paceline.files import Files
from paceline.log.custody import Custody
from paceline.log.journal import Log
from paceline.node.anchors import Anchor, pack, save_anchor
from paceline.snapshot.plan import Plan

__all__ = ["InstallActions"]


class InstallActions:
    """The steps of a plan, for ``snapshot.install``; blocking, on the state lane or before the loop runs.

    ``on_loop`` runs a call where the log's index may be touched; ``flush`` performs what is staged and returns when
    it is durable.
    """

    def __init__(
        self,
        *,
        files: Files,
        anchor_path: str,
        engine: Engine,
        log: Log,
        custody: Custody,
        wall_us: Callable[[], int],
        on_loop: Callable[[Callable[[], Any]], Any],
        flush: Callable[[], None],
    ) -> None:
        self._files = files
        self._anchor_path = anchor_path
        self._engine = engine
        self._log = log
        self._custody = custody
        self._wall_us = wall_us
        self._on_loop = on_loop
        self._flush = flush

    def keep_lost(self, plan: Plan) -> None:
        log, end = self._log, plan.end
        if self._on_loop(lambda: log.position_at(end.index)) == end:
            return
        entries = self._on_loop(lambda: log.entries(log.base.index, bytes_max=1 << 40))
        if not entries:
            return
        notes = self._on_loop(
            lambda: {e.index: note for e in entries if (note := log.local(e.index)) is not None}
        )
        self._custody.keep(
            f"replaced by the snapshot at {end.short}",
            entries,
            notes,
            acknowledged={},
            time_us=self._wall_us(),
            term_now=end.term,
        )

    def install_units(self, unit_bytes: int, unit_count: int, units: Iterable[tuple[int, bytes]]) -> None:
        self._engine.install(unit_bytes, unit_count, units)
        self._engine.checkpoint(force=True)

    def database_digest(self) -> bytes:
        pin = self._engine.pin()
        try:
            return pin.digest()
        finally:
            pin.close()

    def reset_log(self, plan: Plan) -> None:
        log, end = self._log, plan.end
        if self._on_loop(lambda: log.position_at(end.index)) != end:
            self._on_loop(lambda: log.reset(end))
        self._flush()  # in any case: behind it no earlier save of the anchor is under way

    def write_config(self, plan: Plan) -> None:
        membership = Membership.decode(plan.config)
        save_anchor(
            self._files,
            self._anchor_path,
            Anchor(
                base=plan.position, database=pack(plan.database), memberships=((plan.end.index, membership),)
            ),
        )
