"""Membership while running: letting nodes in, promoting them, taking them out.

A node that wants in asks the leader with its name, incarnation and addresses.  It becomes a
learner by a config entry, catches up (log or snapshot), and is promoted to voter
by another one: it counts only when it has caught up.  The same name with
a new incarnation is somebody new; a member that was removed stays out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from paceline.core.durability import parse_durability
from paceline.core.membership import Member, Membership
from paceline.core.progress import Sending
from paceline.core.settings import changed_settings, out_of_reach
from paceline.errors import NotLeader, PacelineError, Unavailable, UsageError

if TYPE_CHECKING:
    from paceline.node.node import Node

__all__ = ["Members"]

CAUGHT_UP_ENTRIES = 64
"""A learner this close to the leader's end is promoted."""
_EVERY_MS = 100


class Members:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._next_ms = 0

    def changed(self) -> None:
        membership = self._node.replica.membership
        if membership is not None:
            self._node.ports.event("membership", members=[m.name for m in membership.members])

    def admit(self, candidate: Member) -> Membership:
        """Leader: let ``candidate`` in as a learner (again, and nothing happens); raises when it may not come in.

        The answer is a committed membership.  Before it is committed the caller is told to ask again: a new leader
        might not know of it, and the caller would be a stranger with a data directory.
        """
        membership = self._leading()
        known = membership.member(candidate.name)
        wanted = msgspec.structs.replace(candidate, voter=known.voter if known else False)
        if known == wanted:
            return self._committed_with(candidate)
        if known is not None and known.incarnation != candidate.incarnation:
            if known.voter and len(membership.voters) == 1:
                raise UsageError(f"{known.name} is the last voter")
            if self._heard_lately(known):
                raise Unavailable(
                    f"another process is node {known.name} already, with another data directory",
                    hint="stop one of the two; each node needs a name of its own",
                )
            wanted = msgspec.structs.replace(candidate, voter=False)
        self._change(membership.with_member(wanted))
        return self._committed_with(candidate)

    def _committed_with(self, candidate: Member) -> Membership:
        replica = self._node.replica
        found = replica.history.at(replica.commit)
        member = found[1].member(candidate.name) if found else None
        if found is None or member is None or member.incarnation != candidate.incarnation:
            raise Unavailable(f"{candidate.name} is being let in", hint="repeat in a moment")
        return found[1]

    def _heard_lately(self, member: Member) -> bool:
        replica = self._node.replica
        progress = replica.followers.get(member.name)
        heard_ms = progress.heard_ms if progress is not None else None
        return heard_ms is not None and (
            self._node.ports.now_ms() - heard_ms < replica.timing.election_timeout_ms
        )

    def remove(self, name: str) -> None:
        membership = self._leading()
        if name == self._node.replica.name:
            raise UsageError(
                f"{name} leads the cluster", hint="only a follower can be removed; move the leadership first"
            )
        remaining = membership.without(name)
        if (why := out_of_reach(remaining)) is not None:
            raise UsageError(why, hint="first choose another one: paceline cluster set durability=quorum")
        self._change(remaining)

    def set_writes(self, value: str) -> None:
        """``on`` or ``stopped``."""
        membership = self._leading()
        if membership.settings.writes != value:
            settings = msgspec.structs.replace(membership.settings, writes=value)
            self._change(msgspec.structs.replace(membership, settings=settings))

    def set_settings(self, wanted: Mapping[str, object]) -> None:
        """Change settings of the cluster; raises ``UsageError`` with the reason when they make no sense here."""
        membership = self._leading()
        replica = self._node.replica
        settings = changed_settings(membership, wanted)
        if "durability" in wanted and settings.unreached != "degrade":
            why = replica.missing(parse_durability(settings.durability), self._node.ports.now_ms())
            if why is not None:
                raise UsageError(
                    f"durability cannot be set to '{settings.durability}' now, writes would wait in vain: {why}",
                    hint="start them first, or let it fall back meanwhile: set unreached=degrade, too",
                )
        if settings != membership.settings:
            self._change(msgspec.structs.replace(membership, settings=settings))

    def _leading(self) -> Membership:
        replica = self._node.replica
        if not self._node.leads or replica.membership is None:
            raise NotLeader(
                f"{replica.name} does not lead", leader=str(replica.leader) if replica.leader else None
            )
        return replica.membership

    def _change(self, membership: Membership) -> None:
        self._node.replica.change(membership, self._node.ports.now_ms())
        self._node.drain()

    def tick(self, now_ms: int) -> None:
        """Leader: promote one learner that has caught up."""
        node = self._node
        if now_ms < self._next_ms or not node.leads:
            return
        self._next_ms = now_ms + _EVERY_MS
        membership = node.replica.membership
        if membership is None or node.replica.history.index > node.replica.commit:
            return
        for member in membership.members:
            progress = node.replica.followers.get(member.name)
            if member.voter or progress is None or progress.state is not Sending.REPLICATE:
                continue
            if progress.health == "ok" and progress.applied + CAUGHT_UP_ENTRIES >= node.replica.last.index:
                try:
                    self._change(membership.with_member(msgspec.structs.replace(member, voter=True)))
                except PacelineError:
                    pass  # another change is under way; the next tick tries again
                return
