"""What planted bugs are made of, and the directed runs that look for them.

A bug of a rare kind shows only where its kind of trouble is: a directed run draws everything as any
other, except the options that are given here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from unittest.mock import patch

from paceline.core.effects import Timing
from paceline.node.node import NodeSettings
from paceline.sim.network import NetworkOptions
from paceline.sim.options import SqliteOptions, TurmoilOptions
from paceline.sim.ports import Latencies

__all__ = [
    "CHANGES",
    "CHECKPOINTS",
    "CRASHES",
    "CUTS",
    "ELECTIONS",
    "FOLLOWS",
    "REWINDS",
    "SLOW_GROUPS",
    "SNAPSHOTS",
    "Plant",
    "Planted",
    "patched",
]

Plant = Callable[[], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    plant: Plant
    """Makes the context manager that plants it."""
    cites: str
    """The number of the like in the catalogue of real bugs, and the system that had it."""
    authority: str | None = "designated"
    engine: str = "memory"
    directed: Mapping[str, Any] = field(default_factory=dict)
    rare: bool = False
    """Takes more than some seconds to find."""


def patched(owner: type, name: str, make: Callable[[Any], Any]) -> Any:
    """Replace a method by what ``make`` makes of the original."""
    defined_in = next(base for base in owner.__mro__ if name in base.__dict__)
    return patch.object(defined_in, name, make(defined_in.__dict__[name]))


_QUICK: Final[dict[str, Any]] = {
    "timing": Timing(heartbeat_ms=20, election_timeout_ms=200),
    "latencies": Latencies(sync_us=(500, 5_000), state_us=(20, 200), read_us=(20, 1_000), loop_us=(0, 50)),
    "think_ms": 5,
    "clients": 4,
    "levels": ("quorum", "local"),
}
CRASHES: Final[dict[str, Any]] = {
    **_QUICK,
    "nodes": 3,
    "safety_ms": 6_000,
    "faults": ("kill", "power", "power-at-op", "sync-error"),
    "fault_every_ms": 200,
}
CHECKPOINTS: Final[dict[str, Any]] = {
    **CRASHES,
    "safety_ms": 4_000,
    "think_ms": 20,
    "faults": ("power", "kill"),
    "fault_every_ms": 300,
    "sqlite": SqliteOptions(
        page_size=512,
        other_page_size=512,
        cache_bytes=8 * 1024,
        checkpoint_frames=12,
        part_raw_bytes=1024 * 1024,
        apply_pages_max=2_000,
        weight=1,
        vacuum=0.0,
        shed=0.05,
        reader=0.4,
    ),
}
SNAPSHOTS: Final[dict[str, Any]] = {
    **_QUICK,
    "nodes": 3,
    "safety_ms": 5_000,
    "faults": ("kill", "power", "member", "break"),
    "fault_every_ms": 300,
    "segment_bytes": 1_024,
    "checkpoint_commits": 3,
    "node_settings": NodeSettings(
        apply_interval_ms=8, checkpoint_retry_ms=100, retention_bytes=0, retention_seconds=0
    ),
    "turmoil": TurmoilOptions(
        ambush=("installing", "installed"), ambush_share=0.6, ambush_acts=("kill", "power", "power-at-op")
    ),
}
ELECTIONS: Final[dict[str, Any]] = {
    **_QUICK,
    "nodes": 3,
    "safety_ms": 6_000,
    "faults": ("kill", "power", "partition", "one-way"),
    "fault_every_ms": 400,
    "strict_reads": 0.5,
    "gives_up": 0.3,
    "turmoil": TurmoilOptions(
        faults=("isolate", "mute", "deaf", "stop"),
        every_ms=300,
        ambush=("elected", "leading", "truncated"),
        ambush_share=0.3,
        ambush_acts=("kill", "power", "isolate"),
    ),
}
REWINDS: Final[dict[str, Any]] = {
    **ELECTIONS,
    "faults": ("kill",),
    "fault_every_ms": 2_000,
    "levels": ("async", "local"),
    "turmoil": TurmoilOptions(
        faults=("isolate", "mute"),
        every_ms=300,
        ambush=("truncated", "rewound"),
        ambush_share=0.5,
        ambush_acts=("kill", "power", "power-at-op"),
    ),
}
SLOW_GROUPS: Final[dict[str, Any]] = {
    **REWINDS,
    "latencies": Latencies(
        sync_us=(500, 5_000), state_us=(5_000, 60_000), read_us=(20, 1_000), loop_us=(0, 50)
    ),
}
FOLLOWS: Final[dict[str, Any]] = {
    **ELECTIONS,
    "turmoil": TurmoilOptions(
        faults=("isolate",),
        every_ms=500,
        ambush=("followed",),
        ambush_share=0.5,
        ambush_acts=("power-at-op", "power"),
    ),
}
CUTS: Final[dict[str, Any]] = {
    **ELECTIONS,
    "faults": (),
    "safety_ms": 3_000,
    "tick_us": 50_000,
    "levels": ("quorum",),
    "network": NetworkOptions(delay_us=(50, 300), redial_us=(1_000, 20_000), chaos=False),
    "latencies": Latencies(sync_us=(100, 500), state_us=(20, 200), read_us=(20, 1_000), loop_us=(0, 50)),
    "turmoil": TurmoilOptions(faults=("isolate", "stop"), every_ms=300),
}
CHANGES: Final[dict[str, Any]] = {
    **ELECTIONS,
    "safety_ms": 6_000,
    "faults": ("member", "kill", "partition"),
    "fault_every_ms": 400,
    "turmoil": TurmoilOptions(faults=("wipe", "isolate"), every_ms=400),
}
