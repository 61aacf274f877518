"""Swarm options: what one seed is about.

Every seed draws which faults it has and how hard; features left out matter as much as
those left in (a run without crashes goes further).  ``lines`` prints them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, fields

from paceline.core.effects import Timing
from paceline.node.node import NodeSettings
from paceline.sim.network import NetworkOptions
from paceline.sim.ports import Latencies

__all__ = [
    "FAULTS",
    "Options",
    "SqliteOptions",
    "TurmoilOptions",
    "draw_authority",
    "draw_options",
    "draw_turmoil",
]

FAULTS = (
    "kill",
    "power",
    "power-at-op",
    "power-all",
    "partition",
    "one-way",
    "break",
    "clock",
    "slow-disk",
    "sync-error",
    "disk-full",
    "member",
    "stop-writes",
)


TURMOIL = ("stop", "isolate", "deaf", "mute", "bridge", "wipe")
TRANSITIONS = (
    "elected",
    "leading",
    "fetching",
    "installing",
    "installed",
    "truncated",
    "rewound",
    "surplus-undone",
)
ACTS = ("kill", "power", "power-at-op", "stop", "isolate", "deaf", "mute")


@dataclass(frozen=True, slots=True, kw_only=True)
class TurmoilOptions:
    """Faults aimed at elections (``turmoil.py``)."""

    faults: tuple[str, ...] = ()
    every_ms: int = 1_000
    ambush: tuple[str, ...] = ()
    """Transitions after which a fault strikes."""
    ambush_share: float = 0.0
    """Of those transitions."""
    ambush_acts: tuple[str, ...] = ACTS


@dataclass(frozen=True, slots=True, kw_only=True)
class SqliteOptions:
    """What a seed with the SQLite engine is about beside everything else."""

    page_size: int
    """Of the founder's database."""
    other_page_size: int
    """Of what other nodes begin with: another one means that their empty file is made anew."""
    cache_bytes: int
    """Small: SQLite spills pages into its log in the middle of a transaction."""
    checkpoint_frames: int
    part_raw_bytes: int
    """Small: transactions are shipped in parts."""
    apply_pages_max: int
    """Small: what follows one another is streamed, not merged."""
    weight: int
    """By how much larger ballast is than with the small engine."""
    vacuum: float
    shed: float
    """Share of writes that are a VACUUM, or delete ballast."""
    reader: float
    """Share of reads that keep their snapshot for a while, in the way of checkpoints."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    authority: str
    """``designated`` or ``auto`` (see ``core/membership.py``)."""
    nodes: int
    clients: int
    engine: str
    """``memory`` or ``sqlite``."""
    safety_ms: int
    """Length of the phase with faults."""
    liveness_ms: int
    """Within this time after the last fault everything must be well."""
    fault_every_ms: int
    faults: tuple[str, ...]
    levels: tuple[str, ...]
    """Durability levels that clients ask for."""
    network: NetworkOptions
    latencies: Latencies
    timing: Timing
    node_settings: NodeSettings
    segment_bytes: int
    part_bytes: int
    checkpoint_commits: int
    tick_us: int
    think_ms: int
    """Pause of a client between two operations, at most."""
    sqlite: SqliteOptions | None = None
    """With engine ``sqlite``."""
    turmoil: TurmoilOptions = TurmoilOptions()
    strict_reads: float = 0.0
    """Share of reads at level ``linearizable``."""
    gives_up: float = 0.0
    """Share of writes that a client lets go of after a refusal, and must never meet again."""

    def lines(self) -> list[str]:
        return [f"  {field.name}: {getattr(self, field.name)}" for field in fields(self)]


def draw_authority(rng: random.Random) -> str:
    return "auto" if rng.random() < 0.8 else "designated"


def draw_turmoil(rng: random.Random) -> TurmoilOptions:
    faults = tuple(fault for fault in TURMOIL if rng.random() < 0.4)
    every_ms = rng.choice((300, 1_000, 3_000))
    ambush = tuple(kind for kind in TRANSITIONS if rng.random() < 0.4)
    share = rng.choice((0.0, 0.1, 0.4))
    acts = tuple(act for act in ACTS if rng.random() < 0.5) or ACTS
    if rng.random() < 0.4:
        faults = (*faults, "switch")
    return TurmoilOptions(
        faults=faults, every_ms=every_ms, ambush=ambush, ambush_share=share, ambush_acts=acts
    )


def draw_sqlite(rng: random.Random, *, short_log: bool) -> SqliteOptions:
    page_size = rng.choice((512, 1024, 4096, 4096))
    return SqliteOptions(
        page_size=page_size,
        other_page_size=page_size if rng.random() < 0.8 else 2048,
        cache_bytes=rng.choice((8 * 1024, 1024 * 1024)),
        checkpoint_frames=12 if short_log else rng.choice((12, 60, 400)),
        part_raw_bytes=rng.choice((page_size, 4 * page_size, 1024 * 1024)),
        apply_pages_max=rng.choice((4, 2_000)),
        weight=rng.choice((1, 1, 20)),
        vacuum=rng.choice((0.0, 0.03)),
        shed=rng.choice((0.0, 0.05)),
        reader=rng.choice((0.0, 0.1)),
    )


def draw_options(
    rng: random.Random,
    *,
    engine: str = "memory",
    authority: str = "designated",
    sqlite_rng: random.Random | None = None,
) -> Options:
    """``sqlite_rng``: what the SQLite engine needs is drawn apart, so that a seed means the same with both engines."""
    nodes = rng.choices((1, 2, 3, 4, 5), weights=(1, 1, 8, 1, 3))[0]
    election_ms = rng.choice((200, 500, 1000))
    levels = ["async", "local", "quorum", "all"]
    levels += [f"any {count}" for count in range(1, nodes)][:2]
    if nodes >= 3:
        levels.append("first 1 (n2, n3)")
    short_log = rng.random() < 0.25
    """Followers that were away, and new nodes, need a snapshot."""
    faults = tuple(
        fault for fault in FAULTS if rng.random() < 0.4 or (short_log and fault in ("kill", "member"))
    )
    return Options(
        authority=authority,
        nodes=nodes,
        clients=rng.randint(1, 6),
        engine=engine,
        safety_ms=12_000 if short_log else rng.choice((2_000, 4_000, 8_000)),
        liveness_ms=30_000,
        fault_every_ms=rng.choice((100, 300, 800, 2_000)),
        faults=faults,
        levels=tuple(level for level in levels if rng.random() < 0.5) or ("quorum",),
        network=NetworkOptions(
            delay_us=rng.choice(((50, 300), (200, 2_000), (1_000, 30_000))),
            redial_us=rng.choice(((1_000, 20_000), (50_000, 500_000))),
            chaos=rng.random() < 0.25,
        ),
        latencies=Latencies(
            sync_us=rng.choice(((100, 500), (500, 5_000), (1_000, 60_000))),
            state_us=rng.choice(((20, 200), (100, 5_000))),
            read_us=(20, 1_000),
            loop_us=rng.choice(((0, 50), (0, 3_000))),
        ),
        timing=Timing(heartbeat_ms=election_ms // 10, election_timeout_ms=election_ms),
        node_settings=NodeSettings(
            apply_interval_ms=rng.choice((0, 8, 50)),
            checkpoint_retry_ms=100,
            retention_bytes=0 if short_log else rng.choice((0, 20_000, 10_000_000)),
            retention_seconds=0 if short_log else rng.choice((0, 1, 3_600)),
        ),
        segment_bytes=1_024 if short_log else rng.choice((2_048, 8_192, 1_048_576)),
        part_bytes=rng.choice((300, 100_000)),
        checkpoint_commits=3 if short_log else rng.choice((3, 20, 100)),
        tick_us=rng.choice((20_000, 50_000)),
        think_ms=rng.choice((5, 30, 100)),
        sqlite=draw_sqlite(sqlite_rng, short_log=short_log) if engine == "sqlite" and sqlite_rng else None,
    )
