"""A node's status as Prometheus reads it: text format 0.0.4, one table, no library.

Every metric is a row: name, kind, help, and where its value stands in the status.  A value that is not known now
(lag, on a node that does not lead) has no line.  docs/reference/metrics.md lists the names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from paceline.core.settings import POLICIES

__all__ = ["METRICS", "METRICS_TYPE", "Metric", "metrics_text"]

METRICS_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
ROLES: Final = ("leader", "candidate", "follower", "learner", "quarantined")

Status = dict[str, Any]
Sample = tuple[dict[str, str], float | int | bool | None]


class Metric(NamedTuple):
    name: str
    kind: str
    help: str
    samples: Callable[[Status], Iterable[Sample]]


def _at(*path: str) -> Callable[[Status], Iterable[Sample]]:
    """The one value at ``path`` of the status."""

    def samples(status: Status) -> Iterable[Sample]:
        value: Any = status
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return [({}, value)]

    return samples


def _roles(status: Status) -> Iterable[Sample]:
    return [({"role": role}, int(status.get("role") == role)) for role in ROLES]


def _followers(key: str, scale: float = 1) -> Callable[[Status], Iterable[Sample]]:
    """``key`` of every other member, as the leader knows it."""

    def samples(status: Status) -> Iterable[Sample]:
        if status.get("role") != "leader":
            return
        for member in status.get("members", ()):
            value = member.get(key)
            if member["name"] != status.get("node") and value is not None:
                yield {"follower": str(member["name"])}, round(value * scale, 6) if scale != 1 else value

    return samples


def _policies(status: Status) -> Iterable[Sample]:
    chosen = status.get("unreached")
    return [({"policy": policy}, int(policy == chosen)) for policy in POLICIES] if chosen else []


def _degraded(status: Status) -> Iterable[Sample]:
    return [({"durability": str(level)}, 1) for level in status.get("degraded") or ()]


def _degraded_count(status: Status) -> Iterable[Sample]:
    return [({}, len(status.get("degraded") or ()) if status.get("role") == "leader" else None)]


def _leads(status: Status) -> Iterable[Sample]:
    return [({}, int(status.get("leader") is not None))]


METRICS: Final = (
    Metric("role", "gauge", "1 for the role that this node has now.", _roles),
    Metric("has_leader", "gauge", "Whether this node knows a leader.", _leads),
    Metric("ready", "gauge", "Whether this node knows a leader and has caught up.", _at("ready")),
    Metric("term", "gauge", "The term that this node is in.", _at("term")),
    Metric("commit_index", "gauge", "Index of the last committed entry that this node knows.", _at("commit")),
    Metric("applied_index", "gauge", "Index up to which the database has applied the log.", _at("applied")),
    Metric("durable_index", "gauge", "Index up to which the log is synced here.", _at("log", "durable")),
    Metric("last_index", "gauge", "Index of the last entry in the log here.", _at("log", "last")),
    Metric(
        "follower_lag_entries",
        "gauge",
        "Committed entries that a follower has not applied (leader only).",
        _followers("lag_entries"),
    ),
    Metric(
        "follower_lag_seconds",
        "gauge",
        "Age of the oldest of them (leader only).",
        _followers("lag_ms", 0.001),
    ),
    Metric(
        "follower_reachable",
        "gauge",
        "Whether the leader hears a follower (leader only).",
        _followers("reachable"),
    ),
    Metric("voters", "gauge", "Voters of the cluster.", _at("voters", "count")),
    Metric(
        "voters_reachable",
        "gauge",
        "Voters that the leader hears, itself included (leader only).",
        _at("voters", "reachable"),
    ),
    Metric(
        "elections_started_total",
        "counter",
        "Campaigns of this node since its start.",
        _at("counters", "elections_started"),
    ),
    Metric(
        "elections_won_total",
        "counter",
        "Reigns of this node since its start.",
        _at("counters", "elections_won"),
    ),
    Metric(
        "leader_changes_total",
        "counter",
        "Changes of leader that this node has seen since its start.",
        _at("counters", "leader_changes"),
    ),
    Metric(
        "write_requests_total",
        "counter",
        "Write requests that this node ran as leader.",
        _at("counters", "requests"),
    ),
    Metric(
        "write_groups_total",
        "counter",
        "Groups (transactions of SQLite) that they became.",
        _at("counters", "groups"),
    ),
    Metric("writes_queued", "gauge", "Write requests that wait for a group.", _at("counters", "queued")),
    Metric(
        "writes_waiting",
        "gauge",
        "Write requests that ran and wait for their durability.",
        _at("counters", "waiting"),
    ),
    Metric(
        "unreached", "gauge", "1 for what happens to a write whose durability cannot be reached.", _policies
    ),
    Metric(
        "degraded_levels",
        "gauge",
        "Levels of durability that fell back to the leader's own disk (leader only).",
        _degraded_count,
    ),
    Metric("degraded", "gauge", "1 for each of them.", _degraded),
    Metric(
        "applied_entries_total",
        "counter",
        "Entries applied as a follower since the start.",
        _at("counters", "applied_entries"),
    ),
    Metric("lost_ranges", "gauge", "Ranges of lost entries in this node's custody.", _at("lost", "ranges")),
    Metric("lost_entries", "gauge", "Entries in them.", _at("lost", "entries")),
    Metric("lost_requests", "gauge", "Write requests in them.", _at("lost", "requests")),
    Metric("custody_bytes", "gauge", "Size of this node's custody.", _at("lost", "bytes")),
    Metric("log_bytes", "gauge", "Size of the log.", _at("log", "bytes")),
    Metric("database_bytes", "gauge", "Size of the database file.", _at("database", "bytes")),
    Metric("wal_bytes", "gauge", "Size of SQLite's write-ahead log.", _at("database", "wal_bytes")),
    Metric("uptime_seconds", "gauge", "Time since the node started.", _at("uptime_s")),
)
"""Every name stands behind ``paceline_``."""


def metrics_text(status: Status) -> str:
    """The page.  Every sample has the labels ``cluster`` and ``node``."""
    labels = {"cluster": str(status.get("cluster")), "node": str(status.get("node"))}
    return "".join(f"{line}\n" for metric in METRICS for line in _lines(metric, status, labels))


def _lines(metric: Metric, status: Status, labels: dict[str, str]) -> Iterator[str]:
    samples = [(own, value) for own, value in metric.samples(status) if value is not None]
    if not samples:
        return
    name = f"paceline_{metric.name}"
    yield f"# HELP {name} {metric.help}"
    yield f"# TYPE {name} {metric.kind}"
    for own, value in samples:
        inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in (labels | own).items())
        yield f"{name}{{{inside}}} {_number(value)}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float | int | bool | None) -> str:
    return str(int(value)) if isinstance(value, bool) else repr(value)
