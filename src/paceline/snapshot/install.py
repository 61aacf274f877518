"""Running a plan: each step acts through the node, and may be repeated at will.

``run_plan`` is called at every start, before the engine or the log is used for
anything else, and by ``install`` right after a transfer.  ``Corruption`` out of
it means: this image cannot be brought in; the plan stays, so the node never
serves what is half done; fetch again, and the new plan takes the old one's place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from paceline.errors import Corruption, HashMismatch, UsageError
from paceline.files import Files
from paceline.snapshot.layout import Layout
from paceline.snapshot.plan import Plan, Step, read_plan, write_plan
from paceline.snapshot.unitsfile import read_units

__all__ = ["Actions", "install", "run_plan"]


class Actions(Protocol):
    """What the node does for a plan.  Each blocks until its effect is durable, and may be called again."""

    def keep_lost(self, plan: Plan) -> None:
        """Put every log entry that is not in the history of ``plan.end`` into custody (invariant 9)."""
        ...

    def install_units(self, unit_bytes: int, unit_count: int, units: Iterable[tuple[int, bytes]]) -> None:
        """``engine.install`` then ``engine.checkpoint(force=True)``.  Only used when a database is there."""
        ...

    def database_digest(self) -> bytes:
        """``Pin.digest`` of the database as it stands now."""
        ...

    def reset_log(self, plan: Plan) -> None:
        """Let the log continue after ``plan.end``; a suffix stays only when that very entry is in the log."""
        ...

    def write_config(self, plan: Plan) -> None:
        """Take over ``plan.config`` as the membership in force."""
        ...


def install(files: Files, layout: Layout, plan: Plan, actions: Actions) -> None:
    """Commit to a staged image and bring it in.  The point of no return is the plan file."""
    if "place-file" in plan.steps and files.exists(layout.database):
        raise UsageError(
            f"a database stands at {layout.database}; it is never replaced by another file",
            hint="stop the node and move the file away if it is not wanted",
        )
    write_plan(files, layout, plan)
    run_plan(files, layout, actions)


def run_plan(files: Files, layout: Layout, actions: Actions) -> Plan | None:
    """Run the plan that is there to its end; returns it, None when there was none."""
    plan = read_plan(files, layout)
    if plan is None:
        return None
    for step in plan.steps:
        _STEPS[step](files, layout, actions, plan)
    files.unlink(layout.plan)
    files.sync_dir(layout.directory)
    return plan


def _custody(files: Files, layout: Layout, actions: Actions, plan: Plan) -> None:
    actions.keep_lost(plan)


def _place_file(files: Files, layout: Layout, actions: Actions, plan: Plan) -> None:
    if not files.exists(layout.incoming):
        if not files.exists(layout.database):
            raise Corruption(
                f"neither {layout.incoming} nor {layout.database} is there",
                hint="the snapshot is fetched again",
            )
        return
    if files.exists(layout.database):
        raise _foreign(layout)
    for suffix in layout.companions:
        if files.exists(layout.database + suffix):
            files.unlink(layout.database + suffix)
    # Gone for good before the new file can be seen beside them.
    files.sync_dir(layout.database_directory)
    files.rename(layout.incoming, layout.database)
    files.sync_dir(layout.database_directory)


def _foreign(layout: Layout) -> UsageError:
    return UsageError(
        f"a database appeared at {layout.database} while a snapshot was to be placed there",
        hint=f"move it away, or remove {layout.plan} to keep it",
    )


def _install_units(files: Files, layout: Layout, actions: Actions, plan: Plan) -> None:
    if files.exists(layout.units):
        actions.install_units(plan.unit_bytes, plan.unit_count, read_units(files, layout.units, plan.shape))
    # Also when the units are gone, because a former run came as far as remove-staging.
    if actions.database_digest() != plan.digest:
        raise HashMismatch(
            f"the database is not the snapshot at {plan.end.short} after its units were installed",
            hint="it changed under the transfer; the node fetches again what differs",
        )


def _log_reset(files: Files, layout: Layout, actions: Actions, plan: Plan) -> None:
    actions.reset_log(plan)


def _write_config(files: Files, layout: Layout, actions: Actions, plan: Plan) -> None:
    actions.write_config(plan)


def _remove_staging(files: Files, layout: Layout, actions: Actions, plan: Plan) -> None:
    keep = os.path.basename(layout.plan)
    for name in files.listdir(layout.directory):
        if name != keep:
            files.unlink(os.path.join(layout.directory, name))
    files.sync_dir(layout.directory)
    if files.exists(layout.incoming):
        files.unlink(layout.incoming)
        files.sync_dir(layout.database_directory)


_STEPS: Final[dict[Step, Callable[[Files, Layout, Actions, Plan], None]]] = {
    "custody": _custody,
    "place-file": _place_file,
    "install-units": _install_units,
    "log-reset": _log_reset,
    "write-config": _write_config,
    "remove-staging": _remove_staging,
}
