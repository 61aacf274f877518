"""One node's process on the simulated machine: start-up, connections, death, and start again.

Stands where ``runtime/process.py`` and ``runtime/joining.py`` stand in production, and keeps their order: identity;
found or join; finish an interrupted install; recover; begin.  The disk and the wall clock's
offset outlive the process, everything else goes with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import apsw
import msgspec

from paceline.core.membership import Member, Membership, Settings
from paceline.core.messages import Message
from paceline.engines.base import Engine
from paceline.errors import Diverged, PacelineError
from paceline.files import Files
from paceline.ids import GENESIS, NodeId
from paceline.log.custody import Custody
from paceline.log.journal import Log
from paceline.node.identity import Identity, load_identity, save_identity
from paceline.node.installing import InstallActions
from paceline.node.node import Node
from paceline.node.start import Paths, create_state, open_node
from paceline.sim.disk import CRASH_MODES, CrashMode, PowerCut, SimDisk
from paceline.sim.ports import SimPorts
from paceline.sim.simfiles import LaneFiles
from paceline.sim.sqlite import SimSqliteEngine
from paceline.sim.transfer import Fetcher, Sending
from paceline.sim.workplace import PlaceFiles, Workplace
from paceline.sim.world import Life, Violation, World
from paceline.snapshot.install import run_plan
from paceline.snapshot.layout import Layout

if TYPE_CHECKING:
    from paceline.sim.cluster import Cluster

__all__ = ["ROOT", "Process"]

ROOT = "/data"
"""The data directory, where nothing in it is a real file."""
_WALL_BASE_US = 1_700_000_000_000_000
_JOIN_RETRY_US = 200_000


class Process:
    files: Files
    ports: SimPorts
    node: Node

    def __init__(self, cluster: Cluster, name: NodeId, disk: SimDisk) -> None:
        self.cluster = cluster
        self.world: World = cluster.world
        self.name = name
        self.disk = disk
        self.life: Life | None = None
        self.up = False
        """Whether a node is open in this process (it may also still wait to join)."""
        self.incarnation = ""
        self.boots = 0
        self.wall_offset_us = 0
        self.sync_factor = 1
        self.paths = Paths(cluster.root_of(name))
        self.layout = Layout(
            directory=self.paths.snapshot,
            database=self.paths.database,
            companions=("-wal", "-shm", "-journal") if cluster.options.sqlite else ("-wal",),
        )
        self.place: Workplace | None = None
        """With the SQLite engine: where its files are."""
        if cluster.options.sqlite is not None:
            self.place = Workplace(disk, self.layout.database_directory, self._sync_us)
            cluster.machine.add(self.place)
        self._engine: Engine | None = None
        self.may_fail: bool = False
        """A fault that makes this process end by itself is under way."""
        self.founds = name == cluster.founder
        """Whether it founds the cluster when its disk is empty; whoever comes back with an empty disk joins."""
        self.went_on_us = 0
        """When it last went on after a stop."""
        self._rng = self.world.rng(f"process/{name}")

    # -- life and death --------------------------------------------------------------------

    def boot(self) -> None:
        assert self.life is None
        self.boots += 1
        life = self.life = Life(f"{self.name}/{self.boots}", self._call)
        self.world.trace(f"{self.name} boots ({self.boots})")
        self.files = LaneFiles(self.disk.mount(), self._sync_us)
        if self.place is not None:
            self.place.begin()
            self.files = PlaceFiles(self.files, self.place)
        self.ports = SimPorts(self.world, life, self, self.cluster.options.latencies)
        self.sending = Sending(self)
        self.fetcher = Fetcher(self)
        life.call(self._start)
        self.world.after_step(life)

    def _call(self, call: Callable[[], object]) -> None:
        """Run code of this process."""
        try:
            call()
        except PowerCut:
            self.power_cut()
        except Violation:
            raise
        except (PacelineError, OSError, apsw.Error) as error:
            if self.disk.dark:  # whoever met it has told it as an error of the disk
                self.power_cut()
            else:
                self.ended_by(error)
        except Exception as error:
            raise Violation("no_programmer_error", f"{self.name}: {type(error).__name__}: {error}") from error

    def ended_by(self, error: BaseException) -> None:
        """The process ends itself, with this error, and is started again by its supervisor."""
        self.world.trace(f"{self.name} ends: {error}")
        self.cluster.watch.ended(self, error)
        self.kill()
        self.cluster.restart_later(self)

    def kill(self) -> None:
        """``kill -9``: what was written stays visible, synced or not."""
        before = self._die()
        self.disk.kill()
        self._clear(before)

    def power_cut(self, mode: CrashMode | None = None) -> None:
        """What was not synced survives as ``mode`` says."""
        chosen: CrashMode = self._rng.choice(CRASH_MODES) if mode is None else mode
        before = self._die()
        self.disk.crash(chosen)
        self._clear(before)
        self.world.trace(f"{self.name} power cut ({chosen})")
        self.cluster.watch.power_cut(self)
        self.cluster.restart_later(self)

    def stop(self, for_us: int) -> None:
        """``SIGSTOP``, and ``SIGCONT`` after a while."""
        life = self.life
        if life is None or life.stopped:
            return
        self.world.trace(f"{self.name} stopped")
        self.world.stop(life)
        self.world.at(for_us, lambda: self._go_on(life))

    def _go_on(self, life: Life) -> None:
        if life.alive and life.stopped:
            self.world.trace(f"{self.name} goes on")
            self.went_on_us = self.world.now_us
            self.world.go_on(life)

    def go_on(self) -> None:
        """``SIGCONT`` now."""
        if self.life is not None:
            self._go_on(self.life)

    @property
    def stopped(self) -> bool:
        """Whether it does nothing now, or is still busy with what arrived while it did nothing."""
        return self.life is not None and self.life.held is not None

    def _die(self) -> dict[str, bytes]:
        """Returns the database's files as they were visible at the end."""
        visible = self.place.visible() if self.place is not None else {}
        if self.life is None:
            return visible
        self.cluster.watch.died(self)
        life, self.life = self.life, None
        life.alive = False
        self.up = False
        if self.place is not None:
            self.place.stop()
        self.fetcher.died()
        self.ports.kill()
        self.cluster.network.gone(self.name)
        return visible

    def _clear(self, before: dict[str, bytes]) -> None:
        """Nothing that the dead incarnation had open stays open."""
        if self.place is None:
            return
        if isinstance(self._engine, SimSqliteEngine):
            self._engine.abandon()
        self._engine = None
        self.place.clear(before)

    # -- start-up ---------------------------------------------------------------------------

    def _start(self) -> None:
        self.files.mkdir(self.paths.root)
        identity = load_identity(self.files, self.paths.identity)
        if identity is None:
            identity = self._new_identity()
        self.incarnation = identity.incarnation
        self.files.mkdir(self.paths.snapshot)
        self.files.mkdir(self.layout.database_directory)
        if identity.cluster is not None:
            self._open(identity)
        elif self.founds:
            self._found(identity)
        else:
            self._join(identity)

    def _new_identity(self) -> Identity:
        identity = Identity(
            format=1,
            name=self.name,
            incarnation=f"{self._rng.getrandbits(64):016x}",
            cluster=None,
            cluster_name="sim",
            inode=1,
        )
        save_identity(self.files, self.paths.identity, identity)
        return identity

    def member(self, *, voter: bool) -> Member:
        address = f"{self.name}:1"
        return Member(
            name=self.name,
            incarnation=self.incarnation,
            address=address,
            http=address,
            peer=address,
            voter=voter,
        )

    def _found(self, identity: Identity) -> None:
        options = self.cluster.options
        founders = [name for name in self.cluster.founders if name != self.name]
        membership = Membership(
            cluster=self.cluster.cluster_id,
            cluster_name="sim",
            members=(self.member(voter=True),),
            settings=Settings(
                authority=options.authority,
                leader=self.name if options.authority == "designated" else None,
                durability="quorum",
            ),
            forming=tuple(founders),
        )
        self._create(identity, membership, options.segment_bytes)

    def _create(self, identity: Identity, membership: Membership, segment_bytes: int) -> None:
        create_state(
            self.files,
            self.paths,
            cluster=membership.cluster,
            base=GENESIS,
            database=None,
            membership=membership,
            segment_bytes=segment_bytes,
        )
        identity = msgspec.structs.replace(identity, cluster=membership.cluster)
        save_identity(self.files, self.paths.identity, identity)
        self._open(identity)

    def _join(self, identity: Identity) -> None:
        """Ask every running process until the one that leads lets this node in."""

        def ask() -> None:
            for other in self.cluster.processes.values():
                if other is self or not other.up or other.stopped or not other.node.leads:
                    continue
                passable = self.cluster.network.passes(self.name, other.name)
                if not passable or not self.cluster.network.passes(other.name, self.name):
                    continue
                membership = other.admit(self.member(voter=False))
                if membership is not None:
                    self._create(identity, membership, self.cluster.options.segment_bytes)
                    return
            self.world.at(_JOIN_RETRY_US, ask, self.life)

        ask()

    def admit(self, candidate: Member) -> Membership | None:
        """Leader: let a node in; None when it may not come in now."""
        assert self.life is not None
        admitted: list[Membership] = []

        def call() -> None:
            try:
                admitted.append(self.node.members.admit(candidate))
            except PacelineError as error:
                self.world.trace(f"{self.name} refuses {candidate.name}: {error.message}")

        self.life.call(call)
        return admitted[0] if admitted else None

    def _open(self, identity: Identity) -> None:
        options = self.cluster.options
        engine = self._engine = self.cluster.make_engine(self)
        self._finish_install(identity, engine)
        self.node = open_node(
            ports=self.ports,
            files=self.files,
            paths=self.paths,
            identity=identity,
            engine=engine,
            settings=options.node_settings,
            timing=options.timing,
            segment_bytes=options.segment_bytes,
        )
        self.up = True
        self.cluster.watch.opened(self)
        self._follow_members()
        self.node.begin()
        self._tick()

    def _finish_install(self, identity: Identity, engine: Any) -> None:
        if not self.files.exists(self.layout.plan):
            return
        assert identity.cluster is not None
        self.world.trace(f"{self.name} finishes an install")
        log, _ = Log.open(
            self.files,
            self.paths.log,
            cluster=bytes.fromhex(identity.cluster),
            segment_bytes=self.cluster.options.segment_bytes,
        )
        if self.files.exists(self.layout.units):
            with contextlib.suppress(Diverged):  # open nevertheless, and the plan brings it right
                engine.open()
        try:
            run_plan(
                self.files,
                self.layout,
                InstallActions(
                    files=self.files,
                    anchor_path=self.paths.anchor,
                    engine=engine,
                    log=log,
                    custody=Custody(self.files, self.paths.custody),
                    wall_us=self.wall_us,
                    on_loop=lambda call: call(),
                    flush=lambda: (log.flush(), None)[1],
                ),
            )
        finally:
            engine.close()
            log.close()

    def _tick(self) -> None:
        self.world.at(self.cluster.options.tick_us, self._tick, self.life)
        self.node.tick()

    # -- ports.Outside ---------------------------------------------------------------------------

    def wall_us(self) -> int:
        return _WALL_BASE_US + self.world.now_us + self.wall_offset_us

    def send(self, to: NodeId, message: Message) -> None:
        self.cluster.network.send(self.name, to, message)

    def fetch_snapshot(self, leader: NodeId) -> None:
        if self.fetcher.start(leader):
            self.cluster.watch.noted(self, "fetching")

    def event(self, kind: str, details: dict[str, Any]) -> None:
        self.world.trace(f"{self.name} {kind} {sorted(details.items())}")
        self.cluster.watch.event(self, kind, details)
        if kind == "membership" and self.up:
            self._follow_members()

    def fatal(self, error: BaseException) -> None:
        """The process goes on for a moment, as the real one does."""
        life = self.life
        if life is not None:
            self.world.at(self._rng.randrange(1_000), lambda: self._end(error), life)

    def _end(self, error: BaseException) -> None:
        if isinstance(error, PowerCut | PacelineError | OSError):
            raise error
        raise Violation("no_programmer_error", f"{self.name}: {type(error).__name__}: {error}") from error

    def _follow_members(self) -> None:
        membership = self.node.replica.membership
        if membership is not None:
            names = [m.name for m in membership.members if m.name != self.name]
            self.cluster.network.follow(self.name, names)

    def _sync_us(self) -> int:
        low, high = self.cluster.options.latencies.sync_us
        return self._rng.randint(low, high) * self.sync_factor

    @property
    def dark(self) -> bool:
        return self.disk.dark

    # -- network.Endpoint ---------------------------------------------------------------------------

    def accepts(self, caller: NodeId) -> bool:
        if not self.up or self.stopped:
            return False
        if not self.node.leads:
            return True
        membership = self.node.replica.membership
        member = membership.member(caller) if membership else None
        return member is not None and member.incarnation == self.cluster.processes[caller].incarnation

    def connected(self, peer: NodeId) -> None:
        if self.up:
            self.node.connected(peer)

    def disconnected(self, peer: NodeId) -> None:
        if self.up:
            self.node.disconnected(peer)

    def received(self, sender: NodeId, incarnation: str, message: Message) -> None:
        if self.up:
            self.node.receive(sender, incarnation, message)
