"""The simulated cluster: its processes, and who may come and go."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import AbstractContextManager, nullcontext

from paceline.engines.base import Engine
from paceline.engines.sqlite.connect import EngineOptions
from paceline.ids import NodeId
from paceline.sim.disk import SimDisk
from paceline.sim.engine import MemoryEngine
from paceline.sim.network import Network
from paceline.sim.options import Options
from paceline.sim.oracle import Oracle
from paceline.sim.process import ROOT, Process
from paceline.sim.sqlite import SimSqliteEngine, read_apart
from paceline.sim.sqlitevfs import Machine
from paceline.sim.watch import Watch
from paceline.sim.world import World

__all__ = ["Cluster"]

_RESTART_US = (5_000, 800_000)


class Cluster:
    def __init__(self, world: World, options: Options) -> None:
        self.world = world
        self.options = options
        self.oracle = Oracle()
        self.network = Network(world, options.network)
        self.cluster_id = f"{world.rng('cluster').getrandbits(128):032x}"
        self.founders = [NodeId(f"n{number}") for number in range(1, options.nodes + 1)]
        self.founder = self.founders[0]
        self.processes: dict[NodeId, Process] = {}
        self.lost_disks: dict[str, SimDisk] = {}
        """By incarnation: what was on them when they were taken away."""
        self.machine = Machine()
        self.root = ""
        """Of the real directories, with the SQLite engine; never part of the trace."""
        if options.sqlite is not None:
            memory = "/dev/shm"
            self.root = tempfile.mkdtemp(
                prefix="paceline-sim-", dir=memory if os.path.isdir(memory) else None
            )
            world.hide(self.root)
        self.watch = Watch(self)
        self._rng = world.rng("restarts")
        for name in self.founders:
            self.add(name)

    def add(self, name: NodeId) -> Process:
        """A machine with an empty disk."""
        process = Process(self, name, SimDisk(self.world.rng(f"disk/{name}/{self.world.now_us}")))
        self.processes[name] = process
        self.network.attach(process)
        return process

    def begin(self) -> None:
        for process in list(self.processes.values()):
            self.world.at(self._rng.randrange(50_000), lambda process=process: self._boot(process))  # type: ignore[misc]

    def restart_later(self, process: Process) -> None:
        """What the supervisor (or whoever brings back the power) does."""
        self.world.at(self._rng.randint(*_RESTART_US), lambda: self._boot(process))

    def remove_later(self, name: NodeId) -> None:
        """Its machine is taken away some time after it was removed from the membership."""
        self.world.at(self._rng.randrange(500_000), lambda: self._retire(name))

    def _retire(self, name: NodeId) -> None:
        """Unless the removal was undone, or the node was let in again, meanwhile."""
        leader = self.leader
        membership = leader.node.replica.membership if leader else None
        if (
            leader is None
            or membership is None
            or leader.node.replica.history.index > leader.node.replica.commit
        ):
            self.remove_later(name)
            return
        if membership.member(name) is None and name in self.processes:
            self.processes[name].kill()
            del self.processes[name]
            self.world.trace(f"{name} is gone")

    def content(self, process: Process) -> tuple[list[str], dict[str, str]]:
        """Items and registers of its database, for the checkers."""
        engine = process.node.engine
        if isinstance(engine, MemoryEngine):
            return list(engine.state.items), dict(engine.state.registers)
        assert process.place is not None
        return read_apart(process.place.visible(), process.paths.database)

    def _boot(self, process: Process) -> None:
        if process.life is None and self.processes.get(process.name) is process:
            process.boot()

    def make_engine(self, process: Process) -> Engine:
        sqlite = self.options.sqlite
        if sqlite is not None:
            founds = process.name == self.founder
            return SimSqliteEngine(
                process.paths.database,
                ran=self.oracle.ran,
                cluster=self.cluster_id,
                options=EngineOptions(
                    page_size=sqlite.page_size if founds else sqlite.other_page_size,
                    cache_bytes=sqlite.cache_bytes,
                ),
                monotonic=lambda: self.world.now_us / 1e6,
                files=process.files,
            )
        return MemoryEngine(
            process.files,
            process.paths.database,
            monotonic=lambda: self.world.now_us / 1e6,
            part_bytes=self.options.part_bytes,
            checkpoint_commits=self.options.checkpoint_commits,
            ran=self.oracle.ran,
        )

    def root_of(self, name: NodeId) -> str:
        """The data directory of a node."""
        return os.path.join(self.root, name) if self.root else ROOT

    def running(self) -> AbstractContextManager[None]:
        """For the length of the run: SQLite is on the simulated machines."""
        return self.machine.running(self.options.sqlite) if self.options.sqlite else nullcontext()

    def close(self) -> None:
        """Nothing of the run stays: neither processes nor files."""
        for process in self.processes.values():
            process.kill()
        if self.root:
            shutil.rmtree(self.root)

    @property
    def leader(self) -> Process | None:
        """A process that leads, of the highest term."""
        leading = [p for p in self.processes.values() if p.up and p.node.leads]
        return max(leading, key=lambda p: p.node.replica.term, default=None)
