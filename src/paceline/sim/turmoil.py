"""Faults aimed at elections: the leader is cut off, stopped, deaf or mute; a disk is emptied; and ambushes.

An *ambush* waits for a transition after which a fault would hurt most (a leader was elected, a snapshot began, a
log was cut) and strikes that node within moments.  All is drawn from sources of its own, so the
faults in ``faults.py`` are the same with and without.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from paceline.ids import NodeId
from paceline.sim.disk import SimDisk

if TYPE_CHECKING:
    from paceline.sim.cluster import Cluster
    from paceline.sim.process import Process

__all__ = ["Turmoil"]


class Turmoil:
    def __init__(self, cluster: Cluster, counts: dict[str, int]) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._options = cluster.options.turmoil
        self._counts = counts
        self._active = True
        self._rng = cluster.world.rng("faults/turmoil")
        self._wiped: NodeId | None = None
        """Came back with an empty disk, and is not known to have caught up yet: no other disk may go meanwhile."""
        self._kinds: dict[str, Callable[[Process], None]] = {
            "stop": self._stop,
            "isolate": self._isolate,
            "deaf": self._deaf,
            "mute": self._mute,
            "bridge": self._bridge,
            "wipe": self._wipe,
            "switch": self._switch,
            "kill": self._kill,
            "power": lambda process: process.power_cut(),
            "power-at-op": lambda process: process.disk.crash_at_op(
                self._rng.randint(1, self._rng.choice((12, 60)))
            ),
        }

    def begin(self) -> None:
        if self._options.faults:
            self._later()
        if self._options.ambush:
            self._cluster.watch.listener = self._heard

    def end(self) -> None:
        self._active = False
        for process in self._cluster.processes.values():
            process.go_on()

    def _later(self) -> None:
        self._world.at(1 + self._rng.randrange(2_000 * self._options.every_ms), self._strike)

    def _strike(self) -> None:
        if not self._active:
            return
        kind = self._rng.choice(self._options.faults)
        victim = self._victim()
        if victim is not None:
            self._do(kind, victim)
        self._later()

    def _do(self, kind: str, victim: Process) -> None:
        self._counts[kind] = self._counts.get(kind, 0) + 1
        self._world.trace(f"fault {kind} at {victim.name}")
        self._kinds[kind](victim)

    def _victim(self) -> Process | None:
        """Mostly the leader."""
        running = [process for process in self._cluster.processes.values() if process.life is not None]
        leader = self._cluster.leader
        if leader is not None and self._rng.random() < 0.7:
            return leader
        return self._rng.choice(running) if running else None

    def _heard(self, process: Process, kind: str) -> None:
        options, rng = self._options, self._rng
        if not self._active or kind not in options.ambush or rng.random() >= options.ambush_share:
            return
        act = rng.choice(options.ambush_acts)
        longest_us = rng.choice((500, 5_000, 50_000, self._cluster.options.timing.election_timeout_ms * 1000))
        life = process.life

        def strike() -> None:
            if self._active and life is not None and process.life is life:
                self._world.trace(f"ambush after {kind}")
                self._do(act, process)

        self._world.at(1 + rng.randrange(longest_us), strike)

    # -- processes --------------------------------------------------------------------------

    def _some_us(self) -> int:
        """A length that matters to elections: from a part of their timeout to several."""
        base = self._cluster.options.timing.election_timeout_ms * 1000
        return self._rng.randrange(1, int(base * self._rng.choice((0.9, 3, 8))))

    def _stop(self, victim: Process) -> None:
        victim.stop(self._some_us())

    def _switch(self, victim: Process) -> None:
        """A planned change of the leader, whatever else is going on."""
        life = victim.life
        if life is None or not victim.up or not victim.node.leads:
            return
        timeout_ms = self._rng.choice((100, 2_000))
        life.call(lambda: victim.node.switch(None, timeout_ms, lambda answer: None))
        self._world.after_step(life)

    def _kill(self, victim: Process) -> None:
        self._world.trace(f"{victim.name} killed")
        victim.kill()
        self._cluster.restart_later(victim)

    def _wipe(self, victim: Process) -> None:
        """Its disk is replaced by an empty one, its name stays; the cluster survives one such loss at a time."""
        leader = self._cluster.leader
        membership = leader.node.replica.membership if leader else None
        if leader is None or membership is None or victim.place is not None or self.disk_is_missing:
            return
        replica = leader.node.replica
        if replica.history.index > replica.commit or replica.commit + 1 < len(
            self._cluster.watch.facts.committed
        ):
            return
        if len(membership.voters) < 3 or membership.settings.leader == victim.name:
            return
        member = membership.member(victim.name)
        if member is None or not member.voter:
            return
        self._wiped = victim.name
        victim.kill()
        self._cluster.lost_disks[victim.incarnation] = victim.disk
        victim.disk = SimDisk(self._world.rng(f"disk/{victim.name}/{self._world.now_us}"))
        victim.founds = False
        victim.incarnation = ""
        self._world.trace(f"{victim.name} lost its disk")
        self._cluster.restart_later(victim)

    @property
    def disk_is_missing(self) -> bool:
        """Whether a voter's disk is gone, as the newest leader sees it (who may not know yet): no other may go then."""
        processes = self._cluster.processes
        leading = [p for p in processes.values() if p.up and p.node.leads_or_will]
        newest = max(leading, key=lambda p: p.node.replica.term, default=None)
        membership = newest.node.replica.membership if newest else None
        if membership is None:
            return True
        for member in membership.members:
            process = processes.get(member.name)
            whole = process is not None and process.incarnation == member.incarnation
            if (member.voter and not whole) or (not member.voter and member.name == self._wiped):
                return True
        return self._wiped is not None and membership.member(self._wiped) is None and self._wiped in processes

    # -- network ----------------------------------------------------------------------------

    def _others(self, victim: Process) -> list[NodeId]:
        return [name for name in self._cluster.processes if name != victim.name]

    def _block(self, pairs: list[tuple[NodeId, NodeId]]) -> None:
        network = self._cluster.network
        token = network.block(pairs, breaks=self._rng.random() < 0.5)
        self._world.at(self._some_us(), lambda: network.unblock(token))

    def _isolate(self, victim: Process) -> None:
        """Cut off from all others; now and then one still reaches it (a bridge)."""
        others = self._others(victim)
        if len(others) > 1 and self._rng.random() < 0.25:
            others.remove(self._rng.choice(others))
        self._block([(victim.name, other) for other in others] + [(other, victim.name) for other in others])

    def _deaf(self, victim: Process) -> None:
        self._block([(other, victim.name) for other in self._others(victim)])

    def _mute(self, victim: Process) -> None:
        self._block([(victim.name, other) for other in self._others(victim)])

    def _bridge(self, victim: Process) -> None:
        """Two halves, and only ``victim`` sees both."""
        others = self._others(victim)
        self._rng.shuffle(others)
        half = len(others) // 2
        left, right = others[:half], others[half:]
        self._block([(a, b) for a in left for b in right] + [(b, a) for a in left for b in right])
