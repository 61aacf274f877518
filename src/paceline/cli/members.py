"""What the nodes of a cluster say about themselves and each other, merged for a table.

Every known address is asked at once, with little patience.  The leader knows
the members and their lag; each node knows its own role and health best; a node
that does not answer is still shown, as down.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from paceline.cli.cluster import Cluster
from paceline.cli.context import Target, open_client, refusal
from paceline.errors import PacelineError

__all__ = ["NodeStatus", "Overview", "gather", "look"]

PATIENCE_SECONDS: Final = 2.0
_STATUS_MS: Final = 1_500

NodeStatus = dict[str, Any]
"""A node's own status, as ``GET /api/v1/status`` gives it."""

Asker = Callable[[str], NodeStatus | str]
"""Asks one address; a text is the reason why there is no answer."""


class Overview:
    """One look at a cluster.

    ``view`` is the status that counts (the leader's, else that of the highest
    term), None when nobody answered; ``rows`` has one dict per member.
    """

    def __init__(self, view: NodeStatus | None, rows: list[dict[str, Any]], errors: dict[str, str]) -> None:
        self.view = view
        self.rows = rows
        self.errors = errors

    @property
    def healthy(self) -> bool:
        return (
            self.view is not None
            and self.view.get("role") == "leader"
            and all(row["up"] and row["health"] == "ok" for row in self.rows)
        )

    @property
    def voters(self) -> tuple[int, int]:
        """How many voters can be reached, and how many there are: by the leader, without one from here."""
        told = (self.view or {}).get("voters") or {}
        voters = [row for row in self.rows if row["voting"] == "voter"]
        if told.get("reachable") is not None:
            return int(told["reachable"]), int(told["count"])
        return sum(row["up"] for row in voters), int(told.get("count", len(voters)))

    @property
    def lost(self) -> dict[str, dict[str, Any]]:
        """Nodes that keep lost writes, with their counts."""
        return {row["name"]: row["lost"] for row in self.rows if (row["lost"] or {}).get("ranges")}

    def row(self, name: str) -> dict[str, Any] | None:
        return next((row for row in self.rows if row["name"] == name), None)


def ask(address: str) -> NodeStatus | str:
    if (reason := refusal(address, PATIENCE_SECONDS / 2)) is not None:
        return reason
    try:
        with open_client([address], timeout_ms=_STATUS_MS) as client:
            return client.status()
    except PacelineError as error:
        return error.message
    except OSError as error:
        return error.strerror or str(error)


def _best(statuses: list[NodeStatus]) -> NodeStatus | None:
    """The leader's view; of two leaders the one of the higher term."""
    return max(statuses, key=lambda s: (s.get("role") == "leader", s.get("term", 0)), default=None)


def _ask_all(addresses: list[str], asker: Asker) -> dict[str, NodeStatus | str]:
    pool = ThreadPoolExecutor(max_workers=min(32, max(1, len(addresses))))
    futures = {address: pool.submit(asker, address) for address in addresses}
    answers: dict[str, NodeStatus | str] = {}
    for address, future in futures.items():
        try:
            answers[address] = future.result(timeout=PATIENCE_SECONDS)
        except TimeoutError:
            answers[address] = "no answer"
    pool.shutdown(wait=False, cancel_futures=True)
    return answers


def gather(addresses: list[str], cluster: Cluster | None, asker: Asker | None = None) -> Overview:
    """Ask ``addresses``, then the members that they name, and merge."""
    asker = asker or ask
    answers = _ask_all(addresses, asker)
    view = _best([a for a in answers.values() if isinstance(a, dict)])
    named = [str(m["address"]) for m in (view or {}).get("members", [])]
    more = [address for address in named if address not in answers]
    if more:
        answers |= _ask_all(more, asker)
        view = _best([a for a in answers.values() if isinstance(a, dict)])
    return Overview(
        view, _rows(view, answers, cluster), {a: t for a, t in answers.items() if isinstance(t, str)}
    )


def _rows(
    view: NodeStatus | None, answers: dict[str, NodeStatus | str], cluster: Cluster | None
) -> list[dict[str, Any]]:
    own = {str(a["node"]): a for a in answers.values() if isinstance(a, dict)}
    members: dict[str, dict[str, Any]] = {str(m["name"]): m for m in (view or {}).get("members", [])}
    for node in cluster.nodes if cluster else []:
        members.setdefault(node.name, {"name": node.name, "address": node.listen, "http": node.http})
    leading = view is not None and view.get("role") == "leader"
    return [_row(member, own.get(name), leading) for name, member in sorted(members.items())]


def _row(member: dict[str, Any], own: NodeStatus | None, leading: bool) -> dict[str, Any]:
    source = own or {}
    health = source.get("health") if own else "down"
    told = member.get("health")
    if own and health == "ok" and leading and told not in (None, "ok"):
        health = told
    return {
        "name": member["name"],
        "role": source.get("role") or "-",
        "voting": member.get("voting") or "-",
        "term": source.get("term"),
        "position": source.get("position") or member.get("position"),
        "lag_entries": member.get("lag_entries") if leading else None,
        "lag_ms": member.get("lag_ms") if leading else None,
        "durability": source.get("durability"),
        "health": health or "-",
        "up": own is not None,
        "address": member.get("address"),
        "http": member.get("http"),
        "database": (source.get("database") or {}).get("path"),
        "progress": source.get("progress"),
        "lost": source.get("lost"),
    }


def look(target: Target) -> Overview:
    return gather(target.addresses, target.cluster)
