"""Where to connect: addresses, the search for the leader, and the pause between attempts.

Pure: no socket, no clock.  ``Search`` is one round over the known members; the
caller opens what ``next`` names and reports what it met.  Both clients drive it.

Theory.  Any member knows who leads.  A client that wants the leader follows
that hint first; when the hinted address cannot be reached (a private network,
say) it stays with the member that it did reach, because members forward.

A refusal names the leader too, so after a change of leader the way is mostly known before
the search begins.  An address that does not answer at all (a host without power) costs little at first and more
patience only if nobody answers; it is tried last in the next round.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Final

from paceline.client.protocol import Failure, Reply, Welcome
from paceline.errors import NotLeader, PacelineError, Unavailable, UsageError
from paceline.limits import (
    CLIENT_BACKOFF_SECONDS_MAX,
    CLIENT_BACKOFF_SECONDS_MIN,
    CLIENT_CONNECT_SECONDS,
    CLIENT_CONNECT_SECONDS_MIN,
    CLIENT_ELECTION_BACKOFF_SECONDS_MAX,
)

__all__ = ["Backoff", "Routes", "Search", "is_newer", "parse_address"]

_ADDRESS: Final = re.compile(r"^(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/\[\]@]+)):(\d{1,5})$")


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[v6]:port``; raises ``UsageError``."""
    match = _ADDRESS.match(address)
    if match is None or not 1 <= int(match[3]) <= 65535:
        raise UsageError(f"not an address: {address!r}", hint="write host:port, for example 127.0.0.1:7301")
    return match[1] or match[2], int(match[3])


def is_newer(old: Welcome, new: Welcome) -> bool:
    """Whether another member's welcome proves that whom we wait for no longer leads."""
    return new.term > old.term and new.leader is not None and new.leader != old.node


class Backoff:
    """Growing pauses with jitter, so that many clients do not return in step."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._ceiling = CLIENT_BACKOFF_SECONDS_MIN

    def next(self, *, electing: bool = False) -> float:
        """Seconds to wait before the next attempt; ``electing``: members answer, and will soon have a leader."""
        ceiling = self._ceiling
        if electing:
            ceiling = min(ceiling, CLIENT_ELECTION_BACKOFF_SECONDS_MAX)
        self._ceiling = min(self._ceiling * 2, CLIENT_BACKOFF_SECONDS_MAX)
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
        self.patience_seconds = CLIENT_CONNECT_SECONDS_MIN
        """For one address to connect and greet."""

    def hint(self, reply: Reply, node: str) -> bool:
        """Learn the leader's address from a refusal of ``node``; whether it leads somewhere else."""
        if type(reply) is not Failure or not reply.leader_address or reply.leader in (None, node):
            return False
        self.leader = reply.leader_address
        return True

    def moved(self) -> None:
        """The leader is no longer where it was, and nobody said where it is now."""
        self.leader = None

    def silent(self, address: str) -> None:
        """Nothing at all came from this address within the patience."""
        self.patience_seconds = min(self.patience_seconds * 2, CLIENT_CONNECT_SECONDS)
        if address in self.addresses:
            self.addresses.remove(address)
            self.addresses.append(address)
        if address == self.leader:
            self.leader = None

    def search(self, *, leader: bool, direct: bool = False) -> Search:
        """``direct``: only the leader itself will do, nobody that forwards."""
        return Search(self, leader, direct)

    def rotate(self) -> None:
        """Start the next search at another member (spreads readers)."""
        self.addresses.append(self.addresses.pop(0))


class Search:
    """One round: ``next`` gives an address; answer it by ``opened`` or ``failed``."""

    def __init__(self, routes: Routes, leader: bool, direct: bool = False) -> None:
        self._routes = routes
        self._wants_leader = leader
        self._direct = direct
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
        routes.patience_seconds = max(CLIENT_CONNECT_SECONDS_MIN, routes.patience_seconds / 2)
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
        return (
            not self._direct and welcome.leader is not None and welcome.cluster in ("", self._routes.cluster)
        )

    def failed(self, address: str, error: Exception) -> None:
        text = error.message if isinstance(error, PacelineError) else str(error) or type(error).__name__
        self._reasons.append(f"{address}: {text}")
        if isinstance(error, TimeoutError):
            self._routes.silent(address)

    def error(self) -> Unavailable:
        """Why the round found nothing."""
        reasons = "; ".join(self._reasons)
        if self._leaderless:
            return NotLeader(f"no leader found: {reasons}", hint="a majority of the voters must be up")
        return Unavailable(
            f"no node reachable: {reasons}", hint="check the addresses and that nodes are running"
        )
