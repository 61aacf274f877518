"""One node in one process: start-up, connections, snapshots, the clock, the end.

Start-up order: lock the directory; found or join; finish an interrupted install; recover;
listen; begin.  What the node decides stands in ``node/``; here is only what connects
it to this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from typing import Any

from paceline.config.shape import NodeConfig
from paceline.core.effects import Timing
from paceline.core.membership import Membership
from paceline.core.messages import Message
from paceline.engines.base import Engine
from paceline.errors import DiskFull, Diverged, NotLeader, PacelineError, UsageError
from paceline.ids import DatabasePosition, Index, NodeId, Term
from paceline.limits import START_BYTES_MIN, TICK_MS
from paceline.log.custody import Custody
from paceline.log.journal import Log
from paceline.node.installing import InstallActions
from paceline.node.locate import end_of
from paceline.node.node import Node, NodeSettings
from paceline.node.start import open_node
from paceline.runtime.directory import DataDirectory
from paceline.runtime.engines import Engines
from paceline.runtime.events import EventHub
from paceline.runtime.fetching import Fetcher
from paceline.runtime.greeting import Hello, Welcome, refusal
from paceline.runtime.joining import candidate, check_founders, found, join
from paceline.runtime.peers import Peers
from paceline.runtime.ports import RealPorts
from paceline.runtime.snapshots import NodeProvider
from paceline.runtime.transfer import Gate, serve_session
from paceline.snapshot.install import run_plan
from paceline.snapshot.layout import Layout

__all__ = ["NodeProcess"]

log = logging.getLogger("paceline")
_HAND_OVER_S = 0.5
COMPANIONS = ("-wal", "-shm", "-journal")
_LOUD = {"quarantined", "differs", "lost", "surplus-undone", "rebased", "disk-full", "refused", "reseed"}


class NodeProcess:
    """Implements ``peers.Host`` and ``ports.Outside``."""

    node: Node
    engine: Engine

    def __init__(self, config: NodeConfig, engines: Engines) -> None:
        self.config = config
        self._engines = engines
        self.directory = DataDirectory(config.data, config.name, config.cluster)
        self.layout = Layout(
            directory=self.directory.paths.snapshot,
            database=self.directory.paths.database,
            companions=COMPANIONS,
        )
        self.boot = secrets.token_hex(8)
        self.events = EventHub()
        self.peers = Peers(self, config.name)
        self.gate = Gate(rate=config.settings.snapshot_rate_bytes_per_second)
        self.failure: asyncio.Future[None]
        self.waiting_for: str | None = "starting"
        self._ticker: asyncio.Task[None] | None = None
        self._refusals: dict[NodeId, str] = {}
        self._told: tuple[int, int] | None = None

    # -- start and stop -----------------------------------------------------------------

    async def start(self) -> None:
        """Come up as far as serving; raises ``PacelineError`` when this node cannot run."""
        loop = asyncio.get_running_loop()
        self.failure = loop.create_future()
        files, root = self.directory.files, self.directory.paths.root
        if files.free_bytes(root) < START_BYTES_MIN:
            raise DiskFull(
                f"no space left on the disk of {root}",
                hint="free some space there, then start the node again",
            )
        self.directory.files.mkdir(self.directory.paths.snapshot)
        self.directory.files.mkdir(self.layout.database_directory)
        if self.directory.identity.cluster is None:
            await self._become_member()
        cluster = self.directory.identity.cluster
        assert cluster is not None
        self.engine = self._engines.make(cluster)
        self.ports = RealPorts(self, loop)
        await asyncio.to_thread(self._finish_install)
        self.node = await asyncio.to_thread(self._open)
        self.provider = NodeProvider(self.node)
        self.fetcher = Fetcher(self)
        await self.peers.start(self.config.peer)
        self.waiting_for = None
        self._membership_changed()
        self.node.begin()
        self._ticker = loop.create_task(self._tick())
        self._ticker.add_done_callback(self.ended)

    async def _become_member(self) -> None:
        config = self.config
        if config.leader == config.name and not config.join:
            await found(config, self.directory, self._engines, self.hello("join"))
            return
        database = await asyncio.to_thread(self._engines.look) if self.directory.has_database else None

        def waiting(why: str) -> None:
            if why != self.waiting_for:
                self.waiting_for = why
                log.info("waiting to join: %s", why)

        await join(config, self.directory, self.hello("join"), database, waiting)

    def _finish_install(self) -> None:
        """An install plan that a crash left behind is run to its end before anything else is believed."""
        files, paths = self.directory.files, self.directory.paths
        if not files.exists(self.layout.plan):
            return
        cluster = self.directory.identity.cluster
        assert cluster is not None
        journal, _ = Log.open(
            files, paths.log, cluster=bytes.fromhex(cluster), segment_bytes=self.config.settings.segment_bytes
        )
        if files.exists(self.layout.units):
            with contextlib.suppress(Diverged):  # open nevertheless, and the plan brings it right
                self.engine.open()
        try:
            run_plan(
                files,
                self.layout,
                InstallActions(
                    files=files,
                    anchor_path=paths.anchor,
                    engine=self.engine,
                    log=journal,
                    custody=Custody(files, paths.custody),
                    wall_us=self.ports.wall_us,
                    on_loop=lambda call: call(),
                    flush=lambda: (journal.flush(), None)[1],
                ),
            )
        finally:
            self.engine.close()
            journal.close()

    def _open(self) -> Node:
        settings = self.config.settings
        return open_node(
            ports=self.ports,
            files=self.directory.files,
            paths=self.directory.paths,
            identity=self.directory.identity,
            engine=self.engine,
            settings=NodeSettings(
                apply_interval_ms=settings.apply_interval_ms,
                checkpoint_retry_ms=500,
                retention_bytes=settings.retention_bytes,
                retention_seconds=settings.retention_seconds,
            ),
            timing=Timing(
                heartbeat_ms=settings.heartbeat_ms,
                election_timeout_ms=max(settings.election_timeout_ms, 5 * settings.heartbeat_ms),
            ),
            segment_bytes=settings.segment_bytes,
        )

    def ended(self, task: asyncio.Task[None]) -> None:
        """A task that the node cannot do without is over: an error of the program unless it was cancelled."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fatal(error)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_MS / 1000)
            self.node.tick()
            self._tell_position()

    def _tell_position(self) -> None:
        """To listeners, once a tick at most; the first of them hears at once where this node is."""
        if not self.events.listening:
            self._told = None
            return
        node = self.node
        if (now := (node.replica.commit, node.applied)) == self._told:
            return
        self._told = now
        position = node.log.position_at(node.applied)
        self.events.publish(
            {
                "event": "position",
                "node": self.config.name,
                "position": str(position) if position else None,
                "applied": node.applied,
                "commit": node.replica.commit,
            }
        )

    async def stop(self) -> None:
        """Hand the leadership over, stop serving, let what is under way end, close the database whole."""
        await self._hand_over()
        if self._ticker is not None:
            self._ticker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticker
        self.events.close()
        if hasattr(self, "node"):
            await self.fetcher.close()
            self.node.stopping = True
            self.node.acks.abandon(f"{self.config.name} is stopping")
            self.node.writes.abandon(None)
        await self.peers.close()
        if hasattr(self, "ports"):
            await self.ports.settle()
            await asyncio.to_thread(self.ports.stop)
        await asyncio.to_thread(self._close)

    async def _hand_over(self) -> None:
        """Spare the others an election, if somebody is there who can lead at once."""
        if not hasattr(self, "node") or not self.node.leads:
            return
        over: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(answer: Any) -> None:
            if not over.done():
                over.set_result(answer)

        self.node.switch(None, int(_HAND_OVER_S * 1000), done)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_HAND_OVER_S):
                await over

    def _close(self) -> None:
        if hasattr(self, "node"):
            if self.node.log.pending:
                with contextlib.suppress(DiskFull):  # nothing of it was acknowledged
                    self.node.log.flush()
            self.engine.close()
            self.node.log.close()
        self.directory.close()

    # -- ports.Outside ----------------------------------------------------------------------

    def send(self, to: NodeId, message: Message) -> None:
        self.peers.send(to, message)

    def fetch_snapshot(self, leader: NodeId) -> None:
        self.fetcher.start(leader)

    def event(self, kind: str, details: dict[str, Any]) -> None:
        (log.warning if kind in _LOUD else log.info)("%s %s", kind, details)
        if kind == "membership":
            self._membership_changed()
        self.events.publish({"event": kind, "node": self.config.name, **details})

    def fatal(self, error: BaseException) -> None:
        if not self.failure.done():
            self.failure.set_exception(error)

    def unsynced_bytes(self) -> int:
        return self.node.log.staged_bytes

    def _membership_changed(self) -> None:
        if hasattr(self, "node") and self.node.replica.membership is not None:
            self.peers.follow(self.node.replica.membership)

    # -- peers.Host -------------------------------------------------------------------------

    def hello(self, purpose: Any) -> Hello:
        identity = self.directory.identity
        return Hello(
            purpose=purpose,
            cluster=identity.cluster,
            cluster_name=self.config.cluster,
            name=self.config.name,
            incarnation=identity.incarnation,
            boot=self.boot,
            address=self.config.advertise,
            http=self.config.advertise_http,
            peer=self.config.advertise_peer,
        )

    def connected(self, name: NodeId) -> None:
        self.node.connected(name)

    def disconnected(self, name: NodeId) -> None:
        if not self.node.stopping:
            self.node.disconnected(name)

    def received(self, sender: NodeId, incarnation: str, message: Message) -> None:
        self.node.receive(sender, incarnation, message)

    def refused(self, name: NodeId, error: PacelineError, *, fatal: bool) -> None:
        if self._refusals.get(name) != error.message:
            self._refusals[name] = error.message
            self.event("refused", {"by": name, "reason": str(error)})
        if fatal:
            self.fatal(error)

    def judge(self, hello: Hello) -> Welcome:
        """Accept or refuse a caller on the peer port."""
        identity = self.directory.identity
        try:
            self._check(hello)
            if hello.purpose == "join":
                return self._admit(hello)
        except NotLeader as error:
            return self._refuse(error, fatal=False, leader=self._leader_peer())
        except UsageError as error:
            return self._refuse(error, fatal=True, leader=self._leader_peer())
        except PacelineError as error:
            return self._refuse(error, fatal=False, leader=None)
        return Welcome(
            version=1, name=identity.name, incarnation=identity.incarnation, cluster=identity.cluster
        )

    def _refuse(self, error: PacelineError, *, fatal: bool, leader: str | None) -> Welcome:
        identity = self.directory.identity
        return refusal(
            error,
            name=identity.name,
            incarnation=identity.incarnation,
            cluster=identity.cluster,
            fatal=fatal,
            leader=leader,
        )

    def _check(self, hello: Hello) -> None:
        identity = self.directory.identity
        if hello.cluster_name != self.config.cluster:
            raise UsageError(
                f"{identity.name} is of cluster {self.config.cluster!r}, not {hello.cluster_name!r}",
                hint="correct the address or the cluster's name",
            )
        if hello.cluster is not None and hello.cluster != identity.cluster:
            raise UsageError(
                f"{identity.name} is of cluster {str(identity.cluster)[:8]}, {hello.name or 'the caller'} of another "
                f"one with the same name ({hello.cluster[:8]})",
                hint="one of the two data directories belongs elsewhere; start it from an empty one to join",
            )
        if hello.name == identity.name:
            raise UsageError(
                f"another process is node {identity.name} already", hint="give each node a name of its own"
            )
        member = self._member(hello.name)
        if hello.purpose == "peer" and self.node.leads:
            if member is None:
                raise UsageError(
                    f"{hello.name} is not a member (any more)",
                    hint="to let it in again, empty its data directory and start it with --join",
                )
            if member.incarnation != hello.incarnation:
                raise UsageError(
                    f"another process is node {hello.name} already, with another data directory",
                    hint="stop one of the two",
                )

    def _member(self, name: str) -> Any:
        membership = self.node.replica.membership
        return membership.member(name) if membership else None

    def _leader_peer(self) -> str | None:
        leader = self.node.replica.leader
        member = self._member(leader) if leader else None
        return member.peer if member and leader != self.config.name else None

    def _admit(self, hello: Hello) -> Welcome:
        identity, node = self.directory.identity, self.node
        if node.leads and node.replica.membership is not None:
            check_founders(hello, node.replica.membership)
        membership: Membership = node.members.admit(candidate(hello))
        position: str | None = None
        if hello.database is not None:
            term, index, chain = hello.database
            end = end_of(node.log, DatabasePosition(Term(term), Index(index), chain), node.anchor)
            found_at = node.log.position_at(end) if end is not None and end <= node.replica.commit else None
            position = str(found_at) if found_at else None
        held = node.replica.history.at(Index(node.log.base.index)) if position else None
        return Welcome(
            version=1,
            name=identity.name,
            incarnation=identity.incarnation,
            cluster=identity.cluster,
            membership=(held[1] if held else membership).encode(),
            position=position,
        )

    async def serve_snapshot(
        self, hello: Hello, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(PacelineError, OSError):
            member = self._member(hello.name)
            known = member is not None and member.incarnation == hello.incarnation
            provider = self.provider.to(NodeId(hello.name) if known else None)
            await serve_session(reader, writer, provider, gate=self.gate)
