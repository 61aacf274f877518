"""Bugs planted into the SQLite engine (see ``planted.py``): they show with real SQLite on the simulated disk."""

from __future__ import annotations

from typing import Any, Final
from unittest.mock import patch

from paceline.engines.sqlite import surplus
from paceline.engines.sqlite.capture import Capture
from paceline.engines.sqlite.dedup import Dedup
from paceline.engines.sqlite.engine import SqliteEngine
from paceline.engines.sqlite.mark import Mark
from paceline.engines.sqlite.pagesource import PageSource
from paceline.engines.sqlite.walwriter import WalWriter
from paceline.sim.planting import CHECKPOINTS, Planted, patched

__all__ = ["SQLITE_BUGS"]


def _sqlite_surplus_stays() -> Any:
    """What a killed leader had executed but not logged stays in its database."""
    return patch.object(SqliteEngine, "surplus", lambda self, marks: [])


def _sqlite_half_entry_counts() -> Any:
    """An entry of several commits counts as there when the first one is."""

    def make(original: Any) -> Any:
        def whole(marks: Any, note: Any, index: Any) -> Any:
            header = index.header()
            first = next((Mark.decode(mark) for _, mark in marks), None)
            if first is not None and first.salts == header.salts and first.frame > header.frames:
                return Mark.at(header, header.page_count)
            return original(marks, note, index)

        return whole

    return patch.object(surplus, "_whole", make(surplus._whole))


def _sqlite_reign_forgets_requests() -> Any:
    """A new reign begins without the memory of request ids."""
    return patch.object(Dedup, "_load", lambda self: None)


def _sqlite_checkpoint_not_synced() -> Any:
    """A checkpoint that a reader keeps from emptying the log promises durability all the same."""
    return patch.object(WalWriter, "sync", lambda self: None)


def _sqlite_images_from_the_old_log() -> Any:
    """SQLite began the log anew, and capture reads the images before the change where they were."""

    def make(original: Any) -> Any:
        def changed(self: Capture) -> Any:
            with patch.object(PageSource, "restart", lambda self, count: None):
                yield from original(self)

        return changed

    return patched(Capture, "changed", make)


SQLITE_BUGS: Final[dict[str, Planted]] = {
    "surplus-stays-in-sqlite": Planted(plant=_sqlite_surplus_stays, cites="53 (LiteFS 157)", engine="sqlite"),
    "half-entry-counts": Planted(plant=_sqlite_half_entry_counts, cites="49 (etcd #13766)", engine="sqlite"),
    "reign-forgets-requests": Planted(
        plant=_sqlite_reign_forgets_requests, cites="84 (curvine #676)", engine="sqlite"
    ),
    "checkpoint-not-synced": Planted(
        plant=_sqlite_checkpoint_not_synced,
        cites="61 (Litestream 1337)",
        engine="sqlite",
        directed=CHECKPOINTS,
    ),
    "images-from-the-old-log": Planted(
        plant=_sqlite_images_from_the_old_log,
        cites="60 (SQLite 3.7.0 to 3.51.2)",
        engine="sqlite",
    ),
}
