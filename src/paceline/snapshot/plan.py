"""Destructive work, written down before it is done.

A plan is a small file: what image is staged, and the steps that bring the node
to it.  Writing it (atomically) is the one moment at which the old state is
given up; before it, a crash leaves the old state wholly; after it, every start
runs the plan from its first step until it succeeds, and nothing else of the
node runs before.  So every step may find its own work done, half done or not done.

    custody        keep what the log reset will remove (invariant 9)
    place-file     main.db.incoming becomes main.db; only where no database is
    install-units  the staged units go into the database that is there
    log-reset      the log continues after the position
    write-config   the membership in force at the position
    remove-staging everything that was staged, but not the plan
    (last)         the plan itself

The file is JSON with a CRC32C over the plan's own bytes.  See ``docs/formats/snapshot.md``.
"""

from __future__ import annotations

from typing import Final, Literal

import google_crc32c
import msgspec

from paceline.errors import Corruption, UsageError
from paceline.files import Files, write_atomic
from paceline.ids import DatabasePosition, Position
from paceline.snapshot.layout import Layout
from paceline.snapshot.messages import SnapshotOffer
from paceline.snapshot.shape import Shape

__all__ = ["Plan", "Step", "plan_for", "read_plan", "write_plan"]

PLAN_VERSION: Final = 1
_BYTES_MAX: Final = 64 * 1024 * 1024

Step = Literal["custody", "place-file", "install-units", "log-reset", "write-config", "remove-staging"]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    snapshot: str
    position: str
    database: DatabasePosition | None
    unit_bytes: int
    unit_count: int
    digest: bytes
    config: bytes
    steps: tuple[Step, ...]

    @property
    def end(self) -> Position:
        """Where the log continues."""
        return Position.parse(self.position)

    @property
    def shape(self) -> Shape:
        return Shape(self.unit_bytes, self.unit_count)


class _Envelope(msgspec.Struct, frozen=True):
    crc: int
    plan: msgspec.Raw


def plan_for(offer: SnapshotOffer, digest: bytes, *, in_place: bool) -> Plan:
    """The plan for a complete, verified, durable image.  ``in_place``: a database exists and stays."""
    return Plan(
        version=PLAN_VERSION,
        snapshot=offer.snapshot,
        position=offer.position,
        database=offer.database,
        unit_bytes=offer.unit_bytes,
        unit_count=offer.unit_count,
        digest=digest,
        config=offer.config,
        steps=(
            "custody",
            "install-units" if in_place else "place-file",
            "log-reset",
            "write-config",
            "remove-staging",
        ),
    )


def write_plan(files: Files, layout: Layout, plan: Plan) -> None:
    """Commit to ``plan``: on return every later start will run it."""
    body = msgspec.json.encode(plan)
    envelope = _Envelope(google_crc32c.value(body), msgspec.Raw(body))
    write_atomic(files, layout.plan, msgspec.json.encode(envelope))


def read_plan(files: Files, layout: Layout) -> Plan | None:
    """The plan to run or None; raises ``Corruption`` or, for a newer version, ``UsageError``."""
    if not files.exists(layout.plan):
        return None
    file = files.open(layout.plan)
    try:
        data = file.pread(_BYTES_MAX, 0)
    finally:
        file.close()
    try:
        envelope = msgspec.json.decode(data, type=_Envelope)
        if google_crc32c.value(bytes(envelope.plan)) != envelope.crc:
            raise _damaged(layout, "its checksum is wrong")
        _check_version(msgspec.json.decode(envelope.plan), layout)
        plan = msgspec.json.decode(envelope.plan, type=Plan)
        Position.parse(plan.position)
    except (msgspec.MsgspecError, ValueError) as error:
        raise _damaged(layout, str(error)) from None
    return plan


def _check_version(raw: object, layout: Layout) -> None:
    version = raw.get("version") if isinstance(raw, dict) else None
    if version != PLAN_VERSION:
        raise UsageError(
            f"{layout.plan} has version {version}, which is not known here",
            hint="a newer Paceline wrote it; start that one, it will finish the plan",
        )


def _damaged(layout: Layout, why: str) -> Corruption:
    return Corruption(
        f"the snapshot plan {layout.plan} is damaged: {why}",
        hint="the node fetches a new snapshot from the leader",
    )
