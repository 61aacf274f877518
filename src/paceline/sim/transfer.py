"""Snapshots between simulated processes: the shipped sessions, staging, plan and install, message by message.

Stands where ``runtime/fetching.py`` and ``runtime/transfer.py`` stand in production.  Each message is
encoded into its frame, delayed, and lost with the transfer when either side dies or the path is blocked;
the receiver then tries again after a pause, with what it has staged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from paceline.core.membership import Membership
from paceline.engines.base import Pin
from paceline.errors import PacelineError
from paceline.ids import NodeId, Position
from paceline.limits import SNAPSHOT_PIN_SECONDS_MAX
from paceline.node.installing import InstallActions
from paceline.snapshot.install import install
from paceline.snapshot.messages import (
    FrameDecoder,
    Message,
    RangeHashes,
    RangeUnits,
    SnapshotDone,
    SnapshotOffer,
    SnapshotRequest,
    encode_frame,
)
from paceline.snapshot.plan import Plan
from paceline.snapshot.receiver import ReceivingSession
from paceline.snapshot.sender import SendingSession
from paceline.snapshot.staging import Staging

if TYPE_CHECKING:
    from paceline.sim.process import Process
    from paceline.sim.world import World

__all__ = ["Fetcher", "Sending"]

_RETRY_US = 500_000
_SILENCE_US = 3_000_000
_HOLD_MS = 30_000


class Fetcher:
    """One fetch at a time, as in production."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._attempt = 0
        self._busy = False
        self._receiving: _Receiving | None = None

    def start(self, leader: NodeId) -> bool:
        """False when one is under way already."""
        if self._busy or leader == self._process.name:
            return False
        self._busy = True
        node = self._process.node
        node.begin_resync()
        node.on_state(self._local_pin, lambda local: self._begin(leader, local))
        return True

    def _begin(self, leader: NodeId, local: Pin | None) -> None:
        self._receiving = _Receiving(self, self._process, leader, local)
        self._receiving.begin()

    def _local_pin(self) -> Pin | None:
        """What is here already, None when no database was ever here."""
        pin = self._process.node.engine.pin()
        if pin.unit_count == 0:
            pin.close()
            return None
        return pin

    def died(self) -> None:
        """The process is gone: the sender's connection breaks."""
        if self._receiving is not None:
            self._receiving.broken()

    def ended(self) -> None:
        """Failed or done: the node asks again when it still needs one."""
        self._busy = False


class _Receiving:
    def __init__(self, fetcher: Fetcher, process: Process, leader: NodeId, local: Pin | None) -> None:
        self._fetcher = fetcher
        self._process = process
        self._leader = leader
        self._term = process.node.replica.term
        self._fresh = local is None
        self._local = local
        self._clear_the_way()
        self._staging = Staging(process.files, process.layout, local)
        self._session: ReceivingSession | None = None
        self.ended = False
        self._heard_us = process.world.now_us
        self._asking = _Order(process.world)
        self.order = _Order(process.world)
        """Of what the sender says."""

    def _clear_the_way(self) -> None:
        """An empty database file of a node that never had one goes first."""
        files, layout = self._process.files, self._process.layout
        if self._fresh and files.exists(layout.database):
            files.unlink(layout.database)

    def begin(self) -> None:
        self._watch()
        self._to_sender(self._staging.request())

    def _watch(self) -> None:
        """Give up after silence."""
        world = self._process.world
        if self.ended:
            return
        if world.now_us - self._heard_us > _SILENCE_US:
            self._fail("silence")
            return
        world.at(_RETRY_US, self._watch, self._process.life)

    def _fail(self, why: str) -> None:
        if self.ended:
            return
        self._end()
        self._process.world.trace(f"{self._process.name} transfer failed: {why}")
        self._process.world.at(_RETRY_US, self._fetcher.ended, self._process.life)

    def _end(self) -> None:
        """Whatever comes of it, this transfer is over: both sides let go of what they hold."""
        self.ended = True
        self._staging.close()
        if self._local is not None:
            self._local.close()
        self.broken()

    def broken(self) -> None:
        """The connection is gone: the sender, where it still lives, notices."""
        self.ended = True
        sender = self._process.cluster.processes.get(self._leader)
        if sender is not None and sender.life is not None:
            sender.sending.forget(self)

    def _to_sender(self, message: Message) -> None:
        process, leader = self._process, self._leader
        sender = process.cluster.processes[leader]
        life = sender.life

        def arrive() -> None:
            if life is None or not life.alive or sender.life is not life or not sender.up:
                return
            if process.cluster.network.passes(process.name, leader):
                life.call(lambda: sender.sending.receive(self, process.name, _carried(message)))

        process.world.at(self._asking.delay(process.cluster.network.delay_us()), arrive, process.life)

    def arrive(self, message: Message) -> None:
        """Something from the sender."""
        if self.ended:
            return
        self._heard_us = self._process.world.now_us
        try:
            self._receive(message)
        except PacelineError as error:
            self._fail(error.message)

    def _receive(self, message: Message) -> None:
        match message:
            case SnapshotOffer():
                self._session = ReceivingSession(message, self._staging.target)
                self._session.begin()
                self._ask()
            case RangeUnits() if self._session is not None:
                self._session.take(message)
                self._ask()
            case SnapshotDone() if self._session is not None:
                digest = self._session.finish(message)
                self._end()
                self._install(self._staging.staged(self._session.offer, digest))
            case _:
                self._fail("refused by the sender")

    def _ask(self) -> None:
        assert self._session is not None
        while self._session.may_ask:
            self._to_sender(self._session.ask())

    def _install(self, plan: Plan) -> None:
        process, node = self._process, self._process.node
        if node.replica.term != self._term:
            self._fetcher.ended()
            return
        try:
            node.begin_install()
        except PacelineError:
            self._fetcher.ended()
            return
        process.world.trace(f"{process.name} installs {plan.end.short} fresh={self._fresh}")
        process.cluster.watch.noted(process, "installing")
        actions = InstallActions(
            files=process.files,
            anchor_path=process.paths.anchor,
            engine=node.engine,
            log=node.log,
            custody=node.custody,
            wall_us=node.ports.wall_us,
            on_loop=node.ports.ask,
            flush=lambda: process.ports.flush_from_lane(node.log.flush),
        )

        def work() -> None:
            if self._fresh:
                node.engine.close()
                for suffix in ("", *process.layout.companions):
                    path = process.layout.database + suffix
                    if process.files.exists(path):
                        process.files.unlink(path)
            try:
                install(process.files, process.layout, plan, actions)
            finally:
                if self._fresh:
                    node.engine.open()

        def done(_: None) -> None:
            node.installed(plan.end, Membership.decode(plan.config), plan.database)
            self._fetcher.ended()

        node.on_state(work, done)


class Sending:
    """The sender's side, for all receivers of one process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._sessions: dict[_Receiving, tuple[SendingSession, Pin]] = {}
        self._count = 0

    def receive(self, receiver: _Receiving, name: NodeId, message: Message) -> None:
        match message:
            case SnapshotRequest():
                self._begin(receiver, name, message)
            case RangeHashes():
                if receiver not in self._sessions:
                    return
                session, _ = self._sessions[receiver]
                self._reply(receiver, name, session.answer(message))
                if session.complete:
                    self._finish(receiver, name, session)
            case _:
                raise AssertionError(f"unexpected {message}")

    def _begin(self, receiver: _Receiving, name: NodeId, request: SnapshotRequest) -> None:
        node = self._process.node
        if node.quarantined or node.installing:
            return  # the receiver gives up after some silence

        def pinned(pin: Pin, position: Position) -> None:
            if receiver.ended:
                pin.close()
                return
            hold = node.retainer.hold(position.index)
            node.ports.later(_HOLD_MS, lambda: node.retainer.release(hold))
            membership = node.replica.history.at_or_after(position.index)
            self._count += 1
            session = SendingSession(
                request,
                pin,
                position=position,
                config=membership.encode() if membership else b"",
                snapshot=f"{self._process.name}-{position.index}-{self._count}",
            )
            self._sessions[receiver] = session, pin
            self._reply(receiver, name, session.offer)
            if session.complete:
                self._finish(receiver, name, session)

        node.pin(pinned)

    def forget(self, receiver: _Receiving) -> None:
        if receiver in self._sessions:
            self._sessions.pop(receiver)[1].close()

    def _finish(self, receiver: _Receiving, name: NodeId, session: SendingSession) -> None:
        node = self._process.node
        position = Position.parse(session.offer.position)
        process = self._process.cluster.processes[name]
        member = node.replica.membership.member(name) if node.replica.membership else None
        known = member is not None and member.incarnation == process.incarnation
        node.when_final(
            position,
            name if known else None,
            node.ports.now_ms() + SNAPSHOT_PIN_SECONDS_MAX * 1000,
            lambda: self._reply(receiver, name, session.done()),
            lambda: self.forget(receiver),
        )

    def _reply(self, receiver: _Receiving, name: NodeId, message: Message) -> None:
        process = self._process
        life = process.cluster.processes[name].life

        def arrive() -> None:
            if life is not None and life.alive and process.cluster.network.passes(process.name, name):
                life.call(lambda: receiver.arrive(_carried(message)))

        process.world.at(receiver.order.delay(process.cluster.network.delay_us()), arrive, process.life)


class _Order:
    """Messages in one direction never overtake each other."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._last_us = 0

    def delay(self, delay_us: int) -> int:
        self._last_us = max(self._last_us, self._world.now_us + delay_us)
        return self._last_us - self._world.now_us


def _carried(message: Message) -> Message:
    """Through the frame's bytes."""
    decoder = FrameDecoder()
    decoder.feed(encode_frame(message))
    carried = decoder.next_message()
    assert carried is not None
    return carried
