"""Planned change of the leader, without loss: drain, wait for the target, hand over.

New groups wait in the queue while the target catches up to the end of the log, durably and in its database.
Then it is asked to campaign at once (Raft's leadership transfer, Ongaro 2014, section 3.10); its request
for votes is the first that this node hears of a higher term.  What waited in the queue is answered
'not leader' with the new one's name: nothing of it has happened, so it goes there.  When the target does
not make it in time, everything goes on here as if nothing had been.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from paceline.core.progress import Progress
from paceline.errors import NotLeader, PacelineError, TimedOut, Unavailable, UsageError
from paceline.ids import NodeId

if TYPE_CHECKING:
    from paceline.node.node import Node

__all__ = ["Switching"]

Done = Callable[[dict[str, Any] | PacelineError], None]
_BEHIND_MAX = 10_000
"""Entries that the target may lack when the switch begins: writes wait for it."""
_UNAPPLIED_MAX = 1_000
"""Entries that the target may apply after its election, before it takes the first write."""
_FULL_DISK_RETRY_MS = 2_000
_POLL_MS = 5
_ELECTION_MS = 1_500
"""What the target gets to be elected before this node takes writes again."""


class Switching:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._target: NodeId | None = None
        self._done: Done | None = None
        self._deadline_ms = 0
        self._began_ms = 0
        self._handed_over_ms: int | None = None
        self._next_try_ms = 0

    @property
    def pausing(self) -> bool:
        """Whether groups wait for a switch."""
        return self._target is not None

    def start(self, target: NodeId | None, timeout_ms: int, done: Done) -> None:
        """Hand the leadership to ``target`` (None: to whoever is furthest); ``done`` is called exactly once."""
        try:
            chosen = self._judge(target)
        except PacelineError as error:
            done(error)
            return
        now_ms = self._node.ports.now_ms()
        self._target, self._done = chosen, done
        self._began_ms, self._deadline_ms, self._handed_over_ms = now_ms, now_ms + timeout_ms, None
        self._node.ports.event("switching", to=chosen)
        self._poll()

    def _judge(self, target: NodeId | None) -> NodeId:
        node, replica = self._node, self._node.replica
        membership = replica.membership
        if not node.leads or membership is None:
            leader = str(replica.leader) if replica.leader else None
            raise NotLeader(f"{replica.name} does not lead", leader=leader)
        if membership.settings.authority != "auto":
            raise UsageError(
                f"the leader of this cluster is designated in its configuration ({replica.name})",
                hint="only a cluster with authority 'auto' can switch",
            )
        if self._target is not None:
            raise Unavailable(f"a switch to {self._target} is under way", hint="wait for its end")
        if target is None:
            ready = [p for p in replica.followers.values() if self._why_not(p) is None]
            if not ready:
                raise Unavailable("no follower can lead now", hint="see paceline status")
            return max(ready, key=lambda p: (p.durable, p.applied)).name
        if target == replica.name:
            raise UsageError(f"{target} leads already")
        progress = replica.followers.get(target)
        if progress is None:
            names = ", ".join(m.name for m in membership.members)
            raise UsageError(f"no member is called {target!r}", hint=f"members: {names}")
        why = self._why_not(progress)
        if why is not None:
            raise Unavailable(
                why, hint="see paceline status; choose another node, or wait until it has caught up"
            )
        return target

    def _why_not(self, progress: Progress) -> str | None:
        node, name = self._node, progress.name
        replica = node.replica
        if name not in replica.voters:
            return f"{name} is not a voter"
        heard_ms = progress.heard_ms
        if heard_ms is None or node.ports.now_ms() - heard_ms > replica.timing.election_timeout_ms:
            return f"{name} cannot be reached"
        if progress.health != "ok":
            return f"{name} is not fit to lead: {progress.health}"
        behind = replica.last.index - progress.durable
        if behind > _BEHIND_MAX:
            return f"{name} is {behind} entries behind"
        return None

    def _poll(self) -> None:
        node, target = self._node, self._target
        if target is None or self._handed_over_ms is not None:
            return
        progress = node.replica.followers.get(target)
        if progress is None:
            self._end(Unavailable(f"{target} is no member any more"))
        elif node.ports.now_ms() >= self._deadline_ms:
            self._end(
                TimedOut(
                    f"{target} did not catch up in time; {node.replica.name} goes on leading",
                    hint="see paceline status; allow more time with --timeout",
                )
            )
        elif not node.state_busy and self._caught_up(progress):
            self._handed_over_ms = node.ports.now_ms()
            node.replica.hand_over(target)
            node.drain()
        else:
            node.ports.later(_POLL_MS, self._poll)

    def _caught_up(self, progress: Progress) -> bool:
        """Nothing is missing there, and nobody waits for an acknowledgement here."""
        last, commit = self._node.replica.last.index, self._node.replica.commit
        return progress.durable == commit == last and progress.applied + _UNAPPLIED_MAX >= last

    def tick(self, now_ms: int) -> None:
        self._leave_a_full_disk(now_ms)
        self._hand_over_only(now_ms)
        handed_over_ms = self._handed_over_ms
        if self._target is not None and handed_over_ms is not None and now_ms > handed_over_ms + _ELECTION_MS:
            self._end(
                Unavailable(
                    f"{self._target} was not elected; {self._node.replica.name} goes on leading",
                    hint="see the log of that node",
                )
            )

    def _leave_a_full_disk(self, now_ms: int) -> None:
        """A leader that cannot write its log hands over to somebody who can."""
        node, membership = self._node, self._node.replica.membership
        if node.disk_full is None or not node.leads or self._target is not None or now_ms < self._next_try_ms:
            return
        self._next_try_ms = now_ms + _FULL_DISK_RETRY_MS
        if membership is not None and membership.settings.authority == "auto" and len(membership.voters) > 1:
            self.start(None, _FULL_DISK_RETRY_MS, lambda _: None)

    def _hand_over_only(self, now_ms: int) -> None:
        """A leader whose database cannot lead was elected for its log alone: to give it to somebody who can."""
        node, replica = self._node, self._node.replica
        if not (node.quarantined and node.leads_or_will) or now_ms < self._next_try_ms:
            return
        fit = [p for p in replica.followers.values() if self._why_not(p) is None and self._caught_up(p)]
        if fit:
            self._next_try_ms = now_ms + _ELECTION_MS
            replica.hand_over(max(fit, key=lambda p: p.applied).name)
            node.drain()

    def role_changed(self) -> None:
        """This node's role or its leader changed: that may be what was waited for."""
        node, target = self._node, self._target
        leader = node.replica.leader
        if target is None or node.leads_or_will or leader is None:
            return
        if leader == target:
            pause_ms = node.ports.now_ms() - self._began_ms
            term = int(node.replica.term)
            self._end({"from": str(node.replica.name), "to": str(target), "pause_ms": pause_ms, "term": term})
        else:
            self._end(Unavailable(f"{leader} was elected instead of {target}", hint="see paceline status"))

    def _end(self, answer: dict[str, Any] | PacelineError) -> None:
        done, self._done, self._target = self._done, None, None
        assert done is not None
        done(answer)
        self._node.pump()
