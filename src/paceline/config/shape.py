"""The configuration as values, and as the text of a file.

Whoever holds a :class:`NodeConfig` may rely on every rule that ``load`` checks.
"""

from __future__ import annotations

import json
import os

import msgspec

from paceline import limits
from paceline.ids import NodeId

__all__ = ["Member", "NodeConfig", "Settings", "to_toml"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """``[settings]``: how the node works.  Units stand last in the names."""

    durability: str = "quorum"
    unreached: str = "wait"
    degrade_after_ms: int = limits.DEGRADE_AFTER_MS
    foreign_keys: bool = False
    timeout_ms: int = limits.TIMEOUT_MS_DEFAULT
    checkpoint_frames: int = limits.CHECKPOINT_FRAMES
    segment_bytes: int = limits.SEGMENT_BYTES
    retention_bytes: int = limits.RETENTION_BYTES
    retention_seconds: int = limits.RETENTION_SECONDS
    snapshot_rate_bytes_per_second: int = 0
    apply_interval_ms: int = limits.APPLY_INTERVAL_MS
    heartbeat_ms: int = limits.HEARTBEAT_MS
    election_timeout_ms: int = limits.ELECTION_TIMEOUT_MS
    log_level: str = "info"


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A founding member, by the addresses under which the others reach it."""

    name: NodeId
    listen: str
    http: str
    peer: str


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One node, checked.  ``data`` is absolute; exactly one of ``members`` and ``join`` is filled.

    ``leader`` founds the cluster and leads first; with authority ``designated`` nobody else ever leads.  It is None only
    for a node that joins: the cluster tells it, and its authority too.
    ``path`` is the file it was read from, for messages.
    """

    name: NodeId
    data: str
    listen: str
    http: str
    peer: str
    advertise: str
    advertise_http: str
    advertise_peer: str
    cluster: str
    leader: NodeId | None
    authority: str = "auto"
    members: tuple[Member, ...] = ()
    join: tuple[str, ...] = ()
    insecure: bool = False
    settings: Settings = Settings()
    path: str | None = None


def _line(key: str, value: object) -> str:
    # The JSON of a text, number, boolean or list of texts is also the TOML for it; only DEL must be escaped.
    return f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")


def to_toml(config: NodeConfig, *, base: str | None = None) -> str:
    """The file that loads as ``config``; ``data`` is written relative to ``base`` when given.

    Settings at their default are left out, so that a file says only what somebody chose.
    """
    data = os.path.relpath(config.data, base) if base else config.data
    lines = [_line("name", config.name), _line("data", data)]
    lines += [_line(key, getattr(config, key)) for key in ("listen", "http", "peer")]
    for key, name in (("listen", "advertise"), ("http", "advertise_http"), ("peer", "advertise_peer")):
        if getattr(config, name) != getattr(config, key):
            lines.append(_line(name, getattr(config, name)))
    if config.insecure:
        lines.append(_line("insecure", True))
    lines += ["", "[cluster]", _line("name", config.cluster)]
    if config.leader is not None:
        lines.append(_line("leader", config.leader))
    if config.authority != "auto":
        lines.append(_line("authority", config.authority))
    if config.join:
        lines.append(_line("join", list(config.join)))
    for member in config.members:
        lines += ["", "[[cluster.members]]"]
        lines += [_line(key, getattr(member, key)) for key in ("name", "listen", "http", "peer")]
    default = msgspec.to_builtins(Settings())
    chosen = {
        key: value for key, value in msgspec.to_builtins(config.settings).items() if value != default[key]
    }
    if chosen:
        lines += ["", "[settings]", *(_line(key, value) for key, value in chosen.items())]
    return "\n".join(lines) + "\n"
