"""What a node says about itself and, when it leads, about the others: one JSON-able dict."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from paceline.core.progress import Progress
from paceline.ids import Position

if TYPE_CHECKING:
    from paceline.runtime.lost import LostWrites
    from paceline.runtime.process import NodeProcess

__all__ = ["StatusReport"]

_REACHABLE_MS = 2000


def _reachable(progress: Progress | None, now_ms: int) -> bool:
    heard_ms = progress.heard_ms if progress is not None else None
    return heard_ms is not None and now_ms - heard_ms < _REACHABLE_MS


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


class StatusReport:
    def __init__(self, process: NodeProcess, version: str, lost: LostWrites) -> None:
        self._process = process
        self._version = version
        self._lost = lost
        self._started = time.monotonic()
        self._role_seen = process.node.replica.role.value
        self._leader_seen = process.node.replica.leader
        self._elections = {"elections_started": 0, "elections_won": 0, "leader_changes": 0}
        process.events.watch(self._on_event)

    def _on_event(self, event: dict[str, Any]) -> None:
        if event["event"] != "role":
            return
        role, leader = event["role"], event["leader"]
        if role != self._role_seen:
            self._role_seen = role
            self._elections["elections_started"] += role == "candidate"
            self._elections["elections_won"] += role == "leader"
        if leader is not None and leader != self._leader_seen:
            self._leader_seen = leader
            self._elections["leader_changes"] += 1

    def make(self) -> dict[str, Any]:
        process, node = self._process, self._process.node
        replica, membership = node.replica, node.replica.membership
        position = node.log.position_at(node.applied)
        settings = membership.settings if membership else None
        return {
            "cluster": process.config.cluster,
            "cluster_id": process.directory.identity.cluster,
            "node": process.config.name,
            "incarnation": process.directory.identity.incarnation,
            "role": self._role(),
            "term": replica.term,
            "leader": replica.leader,
            "authority": settings.authority if settings else None,
            "durability": settings.durability if settings else None,
            "unreached": settings.unreached if settings else None,
            "degrade_after_ms": settings.degrade_after_ms if settings else None,
            "degraded": node.acks.degraded,
            "writes": settings.writes if settings else None,
            "forming": list(membership.forming) if membership else [],
            "version": self._version,
            "format": "page",
            "position": str(position) if position else None,
            "commit": replica.commit,
            "applied": node.applied,
            "uptime_s": round(time.monotonic() - self._started, 1),
            "health": self._health(),
            "ready": self._ready(),
            "progress": self._progress(),
            "members": self._members(position),
            "voters": self._voters(),
            "lost": dict(self._lost.summary),
            "log": {
                "first": node.log.first_index,
                "last": node.log.last.index,
                "durable": node.log.durable.index,
                "bytes": node.log.bytes,
                "segments": node.log.segments,
            },
            "database": self._database(),
            "counters": self._counters(),
            "verifications": node.verifier.results(),
            "pid": os.getpid(),
        }

    def _role(self) -> str:
        node, membership = self._process.node, self._process.node.replica.membership
        if node.quarantined:
            return "quarantined"
        me = membership.member(node.replica.name) if membership else None
        if node.replica.role.value == "follower" and (me is None or not me.voter):
            return "learner"
        return node.replica.role.value

    def _health(self) -> str:
        node = self._process.node
        if node.quarantined:
            return node.quarantined
        if node.disk_full or node.applies.disk_full:
            return "disk full"
        if node.replica.leader is None:
            return "no leader"
        return "ok"

    def _ready(self) -> bool:
        node = self._process.node
        return (
            node.replica.leader is not None
            and not node.quarantined
            and not node.installing
            and (node.leads or not node.leads_or_will)
        )

    def _voters(self) -> dict[str, Any]:
        """How many voters there are, and how many of them this node hears: all that it can say about a majority."""
        node = self._process.node
        voters = sorted(node.replica.voters)
        if not node.leads_or_will:
            return {"count": len(voters), "reachable": None, "away": []}
        now_ms = node.ports.now_ms()
        away = [
            str(name)
            for name in voters
            if name != node.replica.name and not _reachable(node.replica.followers.get(name), now_ms)
        ]
        return {"count": len(voters), "reachable": len(voters) - len(away), "away": away}

    def _database(self) -> dict[str, Any]:
        path = self._process.directory.paths.database
        return {"path": path, "bytes": _size(path), "wal_bytes": _size(path + "-wal")}

    def _counters(self) -> dict[str, int]:
        node = self._process.node
        return {
            "groups": node.writes.groups,
            "requests": node.writes.requests,
            "parts": node.writes.parts,
            "queued": len(node.writes),
            "waiting": node.acks.waiting,
            "applies": node.applies.batches,
            "applied_entries": node.applies.entries,
            **self._elections,
            **{f"events_{kind}": count for kind, count in self._process.events.counts.items()},
        }

    def _members(self, own: Position | None) -> list[dict[str, Any]]:
        node, membership = self._process.node, self._process.node.replica.membership
        if membership is None:
            return []
        rows = []
        for member in membership.members:
            row: dict[str, Any] = {
                "name": member.name,
                "role": "leader"
                if member.name == node.replica.leader
                else "follower"
                if member.voter
                else "learner",
                "voting": "voter" if member.voter else "learner",
                "incarnation": member.incarnation,
                "address": member.address,
                "http": member.http,
                "peer": member.peer,
            }
            if member.name == node.replica.name:
                row |= self._own_row(own)
            elif (progress := node.replica.followers.get(member.name)) is not None:
                row |= self._follower_row(progress)
            rows.append(row)
        return rows

    def _own_row(self, own: Position | None) -> dict[str, Any]:
        node = self._process.node
        return {
            "reachable": True,
            "durable": node.replica.durable,
            "applied": node.applied,
            "position": str(own) if own else None,
            "lag_entries": max(0, node.replica.commit - node.applied),
            "lag_ms": 0,
            "health": self._health(),
        }

    def _progress(self) -> dict[str, int] | None:
        """Of the snapshot that this node fetches."""
        progress = self._process.fetcher.progress
        if progress is None:
            return None
        return {
            "units_done": progress.units_done,
            "units_total": progress.units_total,
            "bytes_per_second": round(progress.bytes_per_second),
        }

    def _follower_row(self, progress: Progress) -> dict[str, Any]:
        node = self._process.node
        now_ms = node.ports.now_ms()
        position = node.log.position_at(progress.applied)
        return {
            "reachable": _reachable(progress, now_ms),
            "durable": progress.durable,
            "applied": progress.applied,
            "position": str(position) if position else None,
            "lag_entries": max(0, node.replica.commit - progress.applied),
            "lag_ms": self._lag_ms(progress),
            "health": progress.health,
            "sending": progress.state.value,
        }

    def _lag_ms(self, progress: Progress) -> int:
        """Age of the oldest committed entry that the follower has not applied (as it last said)."""
        node = self._process.node
        if progress.applied >= node.replica.commit:
            return 0
        entry = node.log.entry(max(progress.applied, node.log.base.index) + 1)  # type: ignore[arg-type]
        if entry is None:
            return 0
        return max(0, (node.ports.wall_us() - entry.time_us) // 1000)
