"""Receiving into a node's data directory: choose the target, end with a plan.

Without a database the image grows in ``main.db.incoming``; with one, what differs
from it is collected in ``resync.units`` (others may have the database open, so
its file is never replaced).  Whatever an earlier, broken transfer left there
is the start of the next one.
"""

from __future__ import annotations

from paceline.engines.base import Pin
from paceline.errors import UsageError
from paceline.files import Files
from paceline.ids import DatabasePosition
from paceline.snapshot.imagefile import ImageFile
from paceline.snapshot.layout import Layout
from paceline.snapshot.messages import SNAPSHOT_VERSION, Purpose, SnapshotOffer, SnapshotRequest
from paceline.snapshot.plan import Plan, plan_for
from paceline.snapshot.target import Target
from paceline.snapshot.unitsfile import UnitsFile

__all__ = ["Staging"]


class Staging:
    """``local``: a pin of the database that is there, None when there is none.

    The node neither applies nor writes from before that pin until the plan has run.
    """

    def __init__(self, files: Files, layout: Layout, local: Pin | None) -> None:
        if local is None and files.exists(layout.database):
            raise UsageError(f"a database stands at {layout.database}: it can only be re-synced in place")
        files.mkdir(layout.directory)
        files.mkdir(layout.database_directory)
        self._local = local
        self.target: Target = (
            ImageFile(files, layout.incoming) if local is None else UnitsFile(files, layout.units, local)
        )

    def request(self) -> SnapshotRequest:
        purpose: Purpose = "join" if self._local is None else "resync"
        has: DatabasePosition | None = self._local.position if self._local else None
        unit_bytes = self._local.unit_bytes if self._local else 0
        unit_count = self._local.unit_count if self._local else 0
        return SnapshotRequest(SNAPSHOT_VERSION, purpose, has, unit_bytes, unit_count)

    def staged(self, offer: SnapshotOffer, digest: bytes) -> Plan:
        """The plan that brings the finished image in (not yet written down: see ``install``)."""
        return plan_for(offer, digest, in_place=self._local is not None)

    def close(self) -> None:
        """Close the staging file; what is in it stays for the next transfer."""
        self.target.close()
