"""Where to connect: addresses, the search for the leader, and the pause between attempts.

Pure: no socket, no clock.  ``Search`` is one round over the known members; the
caller opens what ``next`` names and reports what it met.  Both clients drive it.

Theory.  Any member knows who leads.  A client that wants the leader follows
that hint first; when the hinted address cannot be reached (a private network,
say) it stays with the member that it did reach, because members forward.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Final

from paceline.client.protocol import Welcome
from paceline.errors import NotLeader, PacelineError, Unavailable, UsageError
from paceline.limits import CLIENT_BACKOFF_SECONDS_MAX, CLIENT_BACKOFF_SECONDS_MIN

__all__ = ["Backoff", "Routes", "Search", "parse_address"]

_ADDRESS: Final = re.compile(r"^(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/\[\]@]+)):(\d{1,5})$")


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[v6]:port``; raises ``UsageError``."""
    match = _ADDRESS.match(address)
    if match is None or not 1 <= int(match[3]) <= 65535:
        raise UsageError(f"not an address: {address!r}", hint="write host:port, for example 127.0.0.1:7301")
    return match[1] or match[2], int(match[3])


class Backoff:
    """Growing pauses with jitter, so that many clients do not return in step."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._ceiling = CLIENT_BACKOFF_SECONDS_MIN

    def next(self) -> float:
        """Seconds to wait before the next attempt."""
        ceiling = self._ceiling
        self._ceiling = min(ceiling * 2, CLIENT_BACKOFF_SECONDS_MAX)
        return self._chance.uniform(ceiling / 2, ceiling)

    def reset(self) -> None:
        self._ceiling = CLIENT_BACKOFF_SECONDS_MIN


class Routes:
    """What one client knows of its cluster: the configured members and the last leader met."""

    def __init__(self, addresses: Sequence[str]) -> None:
        if isinstance(addresses, str) or not addresses:
            raise UsageError("a client needs a list of addresses", hint='for example ["127.0.0.1:7301"]')
        for address in addresses:
            parse_address(address)
        self.addresses = list(dict.fromkeys(addresses))
        self.leader: str | None = None
        self.cluster: str | None = None

    def search(self, *, leader: bool) -> Search:
        return Search(self, leader)

    def rotate(self) -> None:
        """Start the next search at another member (spreads readers)."""
        self.addresses.append(self.addresses.pop(0))


class Search:
    """One round: ``next`` gives an address; answer it by ``opened`` or ``failed``."""

    def __init__(self, routes: Routes, leader: bool) -> None:
        self._routes = routes
        self._wants_leader = leader
        first = [routes.leader] if leader and routes.leader else []
        self._queue = list(dict.fromkeys([*first, *routes.addresses]))
        self._tried: set[str] = set()
        self._reasons: list[str] = []
        self._leaderless = False

    def next(self) -> str | None:
        """The next address to open; None when the round is over."""
        while self._queue:
            address = self._queue.pop(0)
            if address not in self._tried:
                self._tried.add(address)
                return address
        return None

    def opened(self, address: str, welcome: Welcome) -> bool:
        """Whether this connection is what was looked for."""
        routes = self._routes
        if routes.cluster and welcome.cluster and welcome.cluster != routes.cluster:
            self._reasons.append(f"{address}: belongs to another cluster, {welcome.cluster}")
            return False
        routes.cluster = routes.cluster or welcome.cluster or None
        if not self._wants_leader:
            return True
        if welcome.leader == welcome.node:
            routes.leader = address
            return True
        if welcome.leader is None:
            self._leaderless = True
            self._reasons.append(f"{address}: knows no leader")
        else:
            self._reasons.append(f"{address}: follows {welcome.leader}")
            if welcome.leader_address:
                self._queue.insert(0, welcome.leader_address)
        return False

    def forwards(self, welcome: Welcome) -> bool:
        """Whether a member that is not the leader can pass writes on to it."""
        return welcome.leader is not None and welcome.cluster in ("", self._routes.cluster)

    def failed(self, address: str, error: Exception) -> None:
        text = error.message if isinstance(error, PacelineError) else str(error) or type(error).__name__
        self._reasons.append(f"{address}: {text}")

    def error(self) -> Unavailable:
        """Why the round found nothing."""
        reasons = "; ".join(self._reasons)
        if self._leaderless:
            return NotLeader(f"no leader found: {reasons}", hint="a majority of nodes must be up")
        return Unavailable(
            f"no node reachable: {reasons}", hint="check the addresses and that nodes are running"
        )
