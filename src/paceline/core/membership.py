"""Who belongs to the cluster, and the settings that all of them share.

A :class:`Membership` is the body of a ``CONFIG`` entry.  It takes effect on each
node as soon as the entry is in that node's log (Ongaro 2014, section 4.1),
so a truncation must also bring the previous one back: :class:`History` keeps
them by index.  Changes go one at a time, which keeps all quorums overlapping.

A member is a name *and* an incarnation (drawn when its data directory is made):
the same name with an empty directory is somebody new.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from paceline.errors import UsageError
from paceline.ids import Index, NodeId
from paceline.limits import ID_GAP

__all__ = ["Authority", "History", "Member", "Membership", "Settings", "majority"]

Authority = str
"""``designated``: the leader named in the settings; ``auto``: elected by a majority."""


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """Addresses are ``host:port``: ``address`` for native clients, ``http``, and ``peer`` for other nodes."""

    name: NodeId
    incarnation: str
    address: str
    http: str
    peer: str
    voter: bool


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    authority: Authority
    leader: NodeId | None
    """The designated leader (authority ``designated``)."""
    durability: str
    writes: str = "on"
    """``on`` or ``stopped``."""
    unreached: str = "wait"
    """What happens to a write whose durability cannot be reached: ``wait`` (until its time limit), ``fail`` (it is
    refused before it runs) or ``degrade`` (after ``degrade_after_ms`` the leader's own disk is enough)."""
    degrade_after_ms: int = 1_000
    id_gap: int | msgspec.UnsetType = msgspec.UNSET
    """How many ids of each AUTOINCREMENT table a new reign leaves out; see ``ids_left_out``."""

    @property
    def ids_left_out(self) -> int:
        """Before the first change of a reign, for ids that lost writes were given (decision 0011)."""
        if self.authority == "designated":  # one and the same node always leads
            return 0
        return ID_GAP if self.id_gap is msgspec.UNSET else self.id_gap


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """``forming``: names of founders still missing before the cluster takes its first write."""

    cluster: str
    cluster_name: str
    members: tuple[Member, ...]
    settings: Settings
    forming: tuple[NodeId, ...] = ()

    def member(self, name: str) -> Member | None:
        return next((m for m in self.members if m.name == name), None)

    @property
    def voters(self) -> frozenset[NodeId]:
        return frozenset(m.name for m in self.members if m.voter)

    def with_member(self, member: Member) -> Membership:
        """Add ``member`` or replace the one of its name."""
        rest = tuple(m for m in self.members if m.name != member.name)
        members = tuple(sorted((*rest, member), key=lambda m: m.name))
        forming = tuple(n for n in self.forming if not (member.voter and n == member.name))
        return msgspec.structs.replace(self, members=members, forming=forming)

    def without(self, name: str) -> Membership:
        """Remove a member; raises :class:`UsageError` when nothing would be left to decide."""
        member = self.member(name)
        if member is None:
            raise UsageError(
                f"no member is called {name!r}", hint=f"members: {', '.join(m.name for m in self.members)}"
            )
        if self.voters == {member.name}:
            raise UsageError(
                f"{name} is the last voter", hint="stop the cluster instead of removing its last voter"
            )
        members = tuple(m for m in self.members if m.name != name)
        forming = tuple(n for n in self.forming if n != name)
        return msgspec.structs.replace(self, members=members, forming=forming)

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, body: bytes | memoryview) -> Membership:
        return msgspec.json.decode(body, type=cls)


def majority(count: int) -> int:
    """How many of ``count`` voters decide."""
    return count // 2 + 1


def differing_voters(old: Membership, new: Membership) -> int:
    """How many voters (name and incarnation) one has and the other lacks."""

    def identities(membership: Membership) -> set[tuple[str, str]]:
        return {(m.name, m.incarnation) for m in membership.members if m.voter}

    return len(identities(old) ^ identities(new))


class History:
    """The memberships of a log, newest last; the first one covers the log's base."""

    def __init__(self, items: Iterable[tuple[Index, Membership]]) -> None:
        self._items = list(items)
        self._changed()

    def _changed(self) -> None:
        # Asked for at every acknowledgement, so kept.
        self.current: Membership | None = self._items[-1][1] if self._items else None
        self.index: Index = self._items[-1][0] if self._items else Index(0)
        """Of the entry that holds the current membership (0: none yet)."""
        self.voters: frozenset[NodeId] = self.current.voters if self.current else frozenset()

    def at(self, index: Index) -> tuple[Index, Membership] | None:
        """The membership in force at ``index``."""
        return next((item for item in reversed(self._items) if item[0] <= index), None)

    def at_or_after(self, index: Index) -> Membership | None:
        """The membership in force at ``index``; when that is forgotten, the oldest known one, which is committed."""
        found = self.at(index) or (self._items[0] if self._items else None)
        return found[1] if found else None

    def append(self, index: Index, membership: Membership) -> None:
        assert index > self.index or not self._items, "config entries come in order"
        self._items.append((index, membership))
        self._changed()

    def truncate(self, after: Index) -> None:
        while self._items and self._items[-1][0] > after:
            self._items.pop()
        self._changed()

    def forget_before(self, index: Index) -> None:
        """Drop what no truncation can need any more: all but the one in force at ``index``."""
        while len(self._items) > 1 and self._items[1][0] <= index:
            self._items.pop(0)

    def reset(self, index: Index, membership: Membership) -> None:
        self._items = [(index, membership)]
        self._changed()
