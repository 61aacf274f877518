"""What must hold between keys: addresses, members and leader fit together.

Each function takes the flat, already checked keys and raises ``UsageError``
with the source, the key and the value that breaks the rule.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from paceline.config.keys import MEMBER_KEYS, bad_value, check, split_address, unknown_key
from paceline.config.shape import Member
from paceline.errors import UsageError
from paceline.ids import NodeId
from paceline.limits import ELECTION_TIMEOUT_MS, HEARTBEAT_MS

__all__ = [
    "HEARTBEATS_MIN",
    "advertised",
    "authority_of",
    "check_listeners",
    "election_timeout_ms",
    "founders",
    "leader_of",
    "listeners",
]

HEARTBEATS_MIN: Final = 5
"""An election timeout is at least so many heartbeats: a few that are late must not cost a reign."""


def _member(source: str, number: int, row: Mapping[str, object]) -> Member:
    where = f"cluster.members[{number}]"
    for key in row:
        if key not in MEMBER_KEYS:
            raise unknown_key(source, f"{where}.{key}", [f"{where}.{name}" for name in MEMBER_KEYS])
    for key, kind in MEMBER_KEYS.items():
        if key not in row:
            raise UsageError(
                f"{source}: {where} has no {key}", hint=f"each member needs {', '.join(MEMBER_KEYS)}"
            )
        check(source, f"{where}.{key}", row[key], kind)
    return msgspec.convert(dict(row), Member)


def _is_wildcard(address: str) -> bool:
    return split_address(address)[0] in ("0.0.0.0", "::")


def _is_loopback(address: str) -> bool:
    host, _ = split_address(address)
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_members(source: str, members: tuple[Member, ...]) -> None:
    seen: dict[str, str] = {}
    for member in members:
        for value in (member.name, member.listen, member.http, member.peer):
            if value in seen:
                raise UsageError(
                    f"{source}: cluster.members: {value} stands there twice",
                    hint="names and addresses are unique in a cluster",
                )
            seen[value] = member.name


def check_listeners(source: str, addresses: dict[str, str], *, insecure: bool) -> None:
    if len(set(addresses.values())) < len(addresses):
        pairs = ", ".join(f"{key} = {value}" for key, value in addresses.items())
        raise UsageError(f"{source}: {pairs}: expected three different addresses")
    for key, address in addresses.items():
        if not insecure and not _is_loopback(address):
            raise UsageError(
                f"{source}: {key} = {json.dumps(address)}: not loopback, and there is no TLS or password yet",
                hint="set insecure = true (or --insecure) if the network is trusted",
            )


def listeners(source: str, flat: dict[str, object], row: Member | None) -> dict[str, str]:
    """The three listen addresses, from the node's own keys or its row."""
    found: dict[str, str] = {}
    for key in ("listen", "http", "peer"):
        value = flat.get(key, getattr(row, key) if row else None)
        if value is None:
            raise UsageError(f"{source}: {key} is missing", hint=f'set {key} = "127.0.0.1:PORT"')
        found[key] = str(value)
    return found


def advertised(
    source: str, flat: dict[str, object], listen: dict[str, str], row: Member | None
) -> dict[str, str]:
    """What others are told; a founding member must be told what its row says."""
    found: dict[str, str] = {}
    for key, address in listen.items():
        name = "advertise" if key == "listen" else f"advertise_{key}"
        wanted = getattr(row, key) if row else None
        value = str(flat.get(name, wanted if wanted and _is_wildcard(address) else address))
        if _is_wildcard(value):
            raise bad_value(source, key, value, f"an address that others can reach; set {name} as well")
        if wanted is not None and value != wanted:
            raise bad_value(
                source,
                name if name in flat else key,
                value,
                f'"{wanted}" as in this node\'s row of cluster.members',
                hint="the members must be the same in all files",
            )
        found[name] = value
    return found


def authority_of(source: str, flat: dict[str, object]) -> str:
    """Who may name a leader; only a founder decides it, a node that joins is told."""
    if "cluster.authority" in flat and "cluster.join" in flat:
        raise bad_value(
            source,
            "cluster.authority",
            flat["cluster.authority"],
            "nothing, because the cluster that this node joins decides it",
            hint="leave it out",
        )
    return str(flat.get("cluster.authority", "auto"))


def election_timeout_ms(source: str, flat: dict[str, object]) -> int:
    """The timeout to use: as given, else the default, raised to fit slow heartbeats."""
    heartbeat_ms: Any = flat.get("settings.heartbeat_ms", HEARTBEAT_MS)
    least = HEARTBEATS_MIN * heartbeat_ms
    given: Any = flat.get("settings.election_timeout_ms")
    if given is None:
        return max(ELECTION_TIMEOUT_MS, int(least))
    if given < least:
        raise bad_value(
            source,
            "settings.election_timeout_ms",
            given,
            f"at least {least}, that is {HEARTBEATS_MIN} x heartbeat_ms ({heartbeat_ms})",
            hint="a few late heartbeats must not look like a dead leader",
        )
    return int(given)


def leader_of(source: str, flat: dict[str, object], members: tuple[Member, ...]) -> NodeId | None:
    names = [member.name for member in members]
    leader = flat.get("cluster.leader")
    if leader is None:
        if not members:
            return None
        raise UsageError(f"{source}: cluster.leader is missing", hint=f"name one of: {', '.join(names)}")
    if members and leader not in names:
        raise bad_value(source, "cluster.leader", leader, f"one of {', '.join(names)}")
    return NodeId(str(leader))


def founders(source: str, flat: dict[str, object], name: str) -> tuple[Member, ...]:
    rows: Any = flat.get("cluster.members", ())
    joins = "cluster.join" in flat
    if rows and joins:
        raise UsageError(
            f"{source}: both cluster.members and cluster.join are set", hint="found a cluster or join one"
        )
    if not rows and not joins and flat.get("cluster.leader") != name:
        raise UsageError(
            f"{source}: neither cluster.members nor cluster.join is set",
            hint=f'list the members, or join = ["host:peerport"], or leader = "{name}" for a cluster of one',
        )
    members = tuple(_member(source, number, row) for number, row in enumerate(rows, 1))
    _check_members(source, members)
    if members and name not in [member.name for member in members]:
        raise bad_value(source, "name", name, f"one of cluster.members: {', '.join(m.name for m in members)}")
    return members
