"""Every key, what it accepts, and how a wrong one is reported.

A key is a dotted name (``settings.heartbeat_ms``).  The table is the whole
truth: file, environment and flags are checked against it, and nothing else.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from paceline import limits
from paceline.errors import UsageError
from paceline.ids import check_node_name

__all__ = [
    "AUTHORITIES",
    "ENVIRONMENT",
    "KEYS",
    "MEMBER_KEYS",
    "Kind",
    "bad_value",
    "check",
    "split_address",
    "unknown_key",
]


class Kind(NamedTuple):
    expected: str
    accepts: Callable[[Any], bool]
    from_text: Callable[[str], object]


def split_address(text: str) -> tuple[str, int]:
    """``host:port`` (IPv6 hosts in brackets); raises ``ValueError``."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = str(ipaddress.IPv6Address(host[1:-1]))
    elif not re.fullmatch(r"[A-Za-z0-9._-]+", host):
        raise ValueError(f"no host in {text!r}")
    if not colon or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ValueError(f"no port in {text!r}")
    return host, int(port)


def _is_address(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(split_address(value))
    except ValueError:
        return False


def _is_name(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(check_node_name(value))
    except ValueError:
        return False


def _integer(low: int, high: int) -> Kind:
    def accepts(value: Any) -> bool:
        return type(value) is int and low <= value <= high

    return Kind(f"an integer from {low} to {high}", accepts, int)


def _one_of(*choices: str) -> Kind:
    return Kind("one of " + ", ".join(choices), lambda value: value in choices, str)


def _flag(text: str) -> object:
    return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)


_TEXT: Final = Kind("a text that is not empty", lambda v: isinstance(v, str) and bool(v.strip()), str)
_NAME: Final = Kind("1-40 letters, digits, '_' or '-'", _is_name, str)
_ADDRESS: Final = Kind('an address "host:port"', _is_address, str)
_FLAG: Final = Kind("true or false", lambda v: isinstance(v, bool), _flag)
_ADDRESSES: Final = Kind(
    'a list of peer addresses ["host:port", ...]',
    lambda v: isinstance(v, list | tuple) and bool(v) and all(map(_is_address, v)),
    lambda text: [part.strip() for part in text.split(",")],
)
_TABLES: Final = Kind(
    "one [[cluster.members]] table for each founding member",
    lambda v: isinstance(v, list | tuple) and all(isinstance(row, Mapping) for row in v),
    str,
)
_GIB: Final = 1024 * limits.MIB

AUTHORITIES: Final = ("auto", "designated")
"""Who may name a leader: the voters by election, or the configuration alone."""

KEYS: Final[dict[str, Kind]] = {
    "name": _NAME,
    "data": _TEXT,
    "listen": _ADDRESS,
    "http": _ADDRESS,
    "peer": _ADDRESS,
    "advertise": _ADDRESS,
    "advertise_http": _ADDRESS,
    "advertise_peer": _ADDRESS,
    "insecure": _FLAG,
    "cluster.name": _NAME,
    "cluster.leader": _NAME,
    "cluster.authority": _one_of(*AUTHORITIES),
    "cluster.members": _TABLES,
    "cluster.join": _ADDRESSES,
    "settings.durability": _TEXT,
    "settings.unreached": _one_of("wait", "fail", "degrade"),
    "settings.degrade_after_ms": _integer(limits.DEGRADE_AFTER_MS_MIN, limits.DEGRADE_AFTER_MS_MAX),
    "settings.foreign_keys": _FLAG,
    "settings.timeout_ms": _integer(1, limits.TIMEOUT_MS_MAX),
    "settings.checkpoint_frames": _integer(100, 1_000_000),
    "settings.segment_bytes": _integer(64 * limits.KIB, _GIB),
    "settings.retention_bytes": _integer(limits.MIB, 1024 * _GIB),
    "settings.retention_seconds": _integer(0, 10 * 365 * 86_400),
    "settings.snapshot_rate_bytes_per_second": _integer(0, 100 * _GIB),
    "settings.apply_interval_ms": _integer(0, 1_000),
    "settings.heartbeat_ms": _integer(10, 10_000),
    "settings.election_timeout_ms": _integer(50, 100_000),
    "settings.log_level": _one_of("debug", "info", "warning", "error"),
}
"""Every key, by its dotted name.  0 for ``snapshot_rate_bytes_per_second`` means no limit."""

MEMBER_KEYS: Final[dict[str, Kind]] = {
    "name": _NAME,
    "listen": _ADDRESS,
    "http": _ADDRESS,
    "peer": _ADDRESS,
}

ENVIRONMENT: Final[dict[str, str]] = {
    "PACELINE_" + key.removeprefix("settings.").replace(".", "_").upper(): key
    for key in KEYS
    if key != "cluster.members"
}
"""Variable -> key: ``PACELINE_LISTEN``, ``PACELINE_CLUSTER_LEADER``, ``PACELINE_DURABILITY``."""


def bad_value(source: str, key: str, value: object, expected: str, hint: str | None = None) -> UsageError:
    shown = json.dumps(value, default=str)
    if len(shown) > 80:
        shown = shown[:77] + "..."
    return UsageError(f"{source}: {key} = {shown}: expected {expected}", hint=hint)


def check(source: str, key: str, value: object, kind: Kind) -> object:
    if not kind.accepts(value):
        raise bad_value(source, key, value, kind.expected)
    return value


def unknown_key(source: str, key: str, known: list[str]) -> UsageError:
    section, _, last = key.rpartition(".")
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.75) or [
        name for name in known if name.rpartition(".")[2] == last
    ]
    place = f"in [{section}]" if section else "at the top"
    hint = f"did you mean {near[0]}?" if near else f"known {place}: {', '.join(_siblings(section, known))}"
    return UsageError(f"{source}: unknown key {key}", hint=hint)


def _siblings(section: str, known: list[str]) -> list[str]:
    return [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == section]
