"""What goes wrong, and when: drawn from the seed, biased to no particular moment.

Each fault undoes itself after a while or at ``heal``, which ends the safety phase.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from paceline.errors import PacelineError
from paceline.ids import NodeId
from paceline.sim.disk import DiskOptions
from paceline.sim.turmoil import Turmoil

if TYPE_CHECKING:
    from paceline.sim.cluster import Cluster
    from paceline.sim.process import Process

__all__ = ["Faults"]


class Faults:
    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.counts: dict[str, int] = {}
        self.active = True
        self._rng = cluster.world.rng("faults")
        self._turmoil = Turmoil(cluster, self.counts)
        self._kinds: dict[str, Callable[[], None]] = {
            "kill": self._kill,
            "power": self._power,
            "power-at-op": self._power_at_op,
            "power-all": self._power_all,
            "partition": self._partition,
            "one-way": self._one_way,
            "break": self._break,
            "clock": self._clock,
            "slow-disk": self._slow_disk,
            "sync-error": self._sync_error,
            "disk-full": self._disk_full,
            "member": self._member,
            "stop-writes": self._stop_writes,
        }

    def begin(self) -> None:
        self._turmoil.begin()
        if self.cluster.options.faults:
            self._later()

    def _later(self) -> None:
        mean = self.cluster.options.fault_every_ms * 1000
        self.cluster.world.at(self._rng.randrange(2 * mean) + 1, self._strike)

    def _strike(self) -> None:
        if not self.active:
            return
        kind = self._rng.choice(self.cluster.options.faults)
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.cluster.world.trace(f"fault {kind}")
        self._kinds[kind]()
        self._later()

    def heal(self) -> None:
        """Everything is well from now on; whoever is down starts again."""
        self.active = False
        self._turmoil.end()
        self.cluster.world.trace("heal")
        self.cluster.network.heal()
        for process in self.cluster.processes.values():
            process.disk.options = DiskOptions()
            process.disk.calm()
            process.sync_factor = 1
        self._writes("on")

    # -- machines -------------------------------------------------------------------------

    def _running(self) -> list[Process]:
        return [process for process in self.cluster.processes.values() if process.life is not None]

    def _victim(self) -> Process | None:
        """Often the leader: it is where most can go wrong."""
        running = self._running()
        leader = self.cluster.leader
        if leader is not None and self._rng.random() < 0.4:
            return leader
        return self._rng.choice(running) if running else None

    def _kill(self) -> None:
        if process := self._victim():
            self.cluster.world.trace(f"{process.name} killed")
            process.kill()
            self.cluster.restart_later(process)

    def _power(self) -> None:
        if process := self._victim():
            process.power_cut()

    def _power_at_op(self) -> None:
        if process := self._victim():
            process.disk.crash_at_op(self._rng.randint(1, 12))

    def _power_all(self) -> None:
        for process in self._running():
            process.power_cut()

    def _clock(self) -> None:
        if process := self._victim():
            process.wall_offset_us += self._rng.choice((-3_600_000_000, -1_000_000, 1_000_000, 3_600_000_000))

    # -- network ---------------------------------------------------------------------------

    def _split(self) -> tuple[list[NodeId], list[NodeId]]:
        names = list(self.cluster.processes)
        self._rng.shuffle(names)
        cut = self._rng.randint(1, max(1, len(names) - 1))
        return names[:cut], names[cut:]

    def _partition(self) -> None:
        """Two sides; with a bridge one node sees both."""
        left, right = self._split()
        if len(right) > 1 and self._rng.random() < 0.3:
            right = right[1:]
        self._block([(a, b) for a in left for b in right] + [(b, a) for a in left for b in right])

    def _one_way(self) -> None:
        left, right = self._split()
        self._block([(a, b) for a in left for b in right])

    def _block(self, pairs: list[tuple[NodeId, NodeId]]) -> None:
        self.cluster.network.block(pairs, breaks=self._rng.random() < 0.5)
        self.cluster.world.at(self._rng.randint(20_000, 2_000_000), self.cluster.network.heal)

    def _break(self) -> None:
        self.cluster.network.break_line(self._rng)

    # -- disks ------------------------------------------------------------------------------

    def _slow_disk(self) -> None:
        if process := self._victim():
            process.sync_factor = self._rng.choice((3, 20))

            def again() -> None:
                process.sync_factor = 1

            self.cluster.world.at(self._rng.randint(100_000, 2_000_000), again)

    def _sync_error(self) -> None:
        if process := self._victim():
            process.may_fail = True
            process.disk.fail("sync", errno.EIO, skip=self._rng.randrange(6))

    def _disk_full(self) -> None:
        if process := self._victim():
            process.may_fail = True
            process.disk.options = DiskOptions(
                quota_bytes=process.disk.used_bytes + self._rng.randrange(4_000)
            )

            def again() -> None:
                process.disk.options = DiskOptions()

            self.cluster.world.at(self._rng.randint(100_000, 1_500_000), again)

    # -- operators ---------------------------------------------------------------------------

    def _member(self) -> None:
        """Take a follower out and bring an empty machine of a new name in; or only the one or the other."""
        leader = self.cluster.leader
        if leader is None:
            return
        others = [name for name in self.cluster.processes if name != leader.name]
        if leader.stopped:
            return
        if others and len(self.cluster.processes) > 2 and self._rng.random() < 0.5 and not self._missing():
            self._remove(leader, self._rng.choice(others))
        if len(self.cluster.processes) < 6:
            name = NodeId(f"x{self.counts['member']}")
            process = self.cluster.add(name)
            self.cluster.restart_later(process)

    def _missing(self) -> bool:
        """Whether a disk was emptied and its node is no voter again: then the others are needed."""
        return "wipe" in self.counts and self._turmoil.disk_is_missing

    def _remove(self, leader: Process, name: NodeId) -> None:
        removed: list[bool] = []

        def call() -> None:
            try:
                leader.node.members.remove(name)
                removed.append(True)
            except PacelineError as error:
                self.cluster.world.trace(f"not removed: {error.message}")

        assert leader.life is not None
        leader.life.call(call)
        if removed:
            self.cluster.remove_later(name)

    def _stop_writes(self) -> None:
        self._writes("stopped")
        self.cluster.world.at(self._rng.randint(50_000, 800_000), lambda: self._writes("on"))

    def _writes(self, value: str) -> None:
        if value == "stopped" and not self.active:
            return
        if not self.active:  # until it holds: who led when it was asked for may not lead any more
            self.cluster.world.at(100_000, lambda: self._writes(value))
        leader = self.cluster.leader
        if leader is None or leader.life is None:
            return

        def call() -> None:
            try:
                leader.node.members.set_writes(value)
            except PacelineError:
                if self.active:
                    self.cluster.world.at(100_000, lambda: self._writes(value))

        leader.life.call(call)
