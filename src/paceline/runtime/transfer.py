"""Snapshot transfers over a connection: the asyncio shell of ``paceline.snapshot``.

The runtime has opened, authenticated and greeted the connection; here it only
carries the frames of one transfer.  Reading, hashing, compressing and writing
happen in worker threads, one range at a time, so the loop never waits for a
disk.  A cancelled transfer first lets the range in hand end (milliseconds),
because its thread uses the pin or the staging file; then it closes them.

Memory: each side holds about one range (4 MiB), its encoding, and as much in
the socket's buffer; nothing grows with the database.

Silence is a failure: whoever waits for bytes gives up after
``SNAPSHOT_IDLE_SECONDS_MAX``.  While the sender waits for the commit it says so.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeVar

from paceline.engines.base import Pin
from paceline.errors import Overloaded, PacelineError, TimedOut, Unavailable
from paceline.ids import Position
from paceline.limits import (
    SNAPSHOT_BACKOFF_SECONDS,
    SNAPSHOT_BACKOFF_SECONDS_MAX,
    SNAPSHOT_IDLE_SECONDS_MAX,
    SNAPSHOT_PIN_SECONDS_MAX,
    SNAPSHOT_RANGE_BYTES,
    SNAPSHOT_SESSIONS_MAX,
)
from paceline.snapshot.backup import BackupFile
from paceline.snapshot.messages import (
    FrameDecoder,
    Message,
    RangeHashes,
    RangeUnits,
    SnapshotDone,
    SnapshotFailed,
    SnapshotOffer,
    SnapshotRequest,
    SnapshotWait,
    encode_frame,
    expect,
)
from paceline.snapshot.pace import Meter, Progress, TokenBucket
from paceline.snapshot.plan import Plan
from paceline.snapshot.receiver import ReceivingSession
from paceline.snapshot.sender import SendingSession
from paceline.snapshot.staging import Staging
from paceline.snapshot.target import Target

__all__ = ["Connect", "Gate", "PinnedImage", "Provider", "backup", "fetch", "serve_session"]

_READ_BYTES: Final = 256 * 1024
_SLICE_BYTES: Final = 256 * 1024
_BEAT_SECONDS: Final = SNAPSHOT_IDLE_SECONDS_MAX / 6

T = TypeVar("T")
Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
"""Open, authenticate and greet a connection to a sender; ``OSError`` and ``Unavailable`` are retried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedImage:
    """``position``: the end of the log up to which ``pin`` contains everything."""

    pin: Pin
    position: Position
    config: bytes
    snapshot: str


class Provider(Protocol):
    """What the node gives to a sender."""

    def pin(self) -> AbstractAsyncContextManager[PinnedImage]:
        """Pin on the state lane and hold log retention at that position; leaving lets both go.

        The receiver continues from the position only after it has installed the image: the node keeps the
        log for it (as for any follower that is known to be there) longer than the session lasts.
        """
        ...

    async def committed(self, position: Position) -> None:
        """Return when ``position`` is committed; raise when it never will be (a rewind took it)."""
        ...


class Gate:
    """What all sending sessions of a node share: their number and their bandwidth (bytes/s, 0: no limit)."""

    def __init__(self, *, rate: int, sessions_max: int = SNAPSHOT_SESSIONS_MAX) -> None:
        self.bucket = TokenBucket(rate)
        self._sessions_max = sessions_max
        self.sessions = 0

    def __enter__(self) -> None:
        if self.sessions >= self._sessions_max:
            raise Overloaded(
                f"this node sends {self.sessions} snapshots already",
                hint="it is tried again by itself; another node may be free",
            )
        self.sessions += 1

    def __exit__(self, *exc: object) -> None:
        self.sessions -= 1


class _Link:
    """Messages over one connection, with the silence limit in both directions."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = FrameDecoder()
        # Sender: the next range is prepared while this one drains.  Receiver: all questions that may be
        # in flight fit, so asking never blocks on a peer that is itself blocked answering.
        self._buffer_at_most(SNAPSHOT_RANGE_BYTES)

    def _buffer_at_most(self, size: int) -> None:
        """``drain`` returns at or below ``size``: it waits for one slice to leave, on any network."""
        self._writer.transport.set_write_buffer_limits(high=size, low=size)

    async def receive(self) -> Message:
        while (message := self._decoder.next_message()) is None:
            async with _moving():
                data = await self._reader.read(_READ_BYTES)
            if not data:
                raise Unavailable("the other side ended the snapshot transfer")
            self._decoder.feed(data)
        return message

    async def receive_past_waits(self) -> Message:
        while isinstance(message := await self.receive(), SnapshotWait):
            pass
        return message

    async def send(self, message: Message, bucket: TokenBucket | None = None) -> None:
        frame = memoryview(encode_frame(message))
        size = min(_SLICE_BYTES, (bucket.slice_bytes if bucket else None) or _SLICE_BYTES)
        clock = asyncio.get_running_loop().time
        for start in range(0, len(frame), size):
            part = frame[start : start + size]
            if bucket and (wait := bucket.spend(len(part), clock())):
                await asyncio.sleep(wait)
            if self._writer.transport.is_closing():
                raise Unavailable("the other side ended the snapshot transfer")
            self._writer.write(part)
            async with _moving():
                await self._writer.drain()

    async def close(self) -> None:
        """Let everything leave, then close."""
        while waiting := self._writer.transport.get_write_buffer_size():
            self._buffer_at_most(max(0, waiting - _SLICE_BYTES))
            async with _moving():
                await self._writer.drain()
        self._writer.close()

    def abort(self) -> None:
        """Close without waiting for buffered bytes to leave: nobody may be reading them."""
        self._writer.transport.abort()


@asynccontextmanager
async def _moving() -> AsyncIterator[None]:
    """Around one step of I/O on the connection: silence and breakage become ``Unavailable``."""
    try:
        async with asyncio.timeout(SNAPSHOT_IDLE_SECONDS_MAX):
            yield
    except TimeoutError:
        raise TimedOut(
            f"nothing moved in a snapshot transfer for {SNAPSHOT_IDLE_SECONDS_MAX} s",
            hint="the transfer resumes by itself",
        ) from None
    except OSError as error:
        raise Unavailable(f"the connection of a snapshot transfer broke: {error}") from error


async def _in_thread(executor: Executor | None, work: Callable[..., T], *args: object) -> T:
    """Run ``work`` in a thread; on return or raise (also when cancelled) the thread has left it."""
    running = asyncio.get_running_loop().run_in_executor(executor, work, *args)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({running})
        if not running.cancelled():
            running.exception()
        raise


# sending


async def serve_session(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    provider: Provider,
    *,
    gate: Gate,
    executor: Executor | None = None,
) -> None:
    """Serve one transfer on a greeted connection, and close it.

    Raises what ended it early: a ``PacelineError`` that the receiver has been told, if it still listens.
    """
    link = _Link(reader, writer)
    try:
        with gate:
            async with _pin_age():
                await _serve(link, provider, gate.bucket, executor)
        await link.close()
    except PacelineError as error:
        with suppress(Unavailable):
            await link.send(SnapshotFailed.of(error))
            await link.close()
        raise
    finally:
        link.abort()


@asynccontextmanager
async def _pin_age() -> AsyncIterator[None]:
    age = asyncio.timeout(SNAPSHOT_PIN_SECONDS_MAX)
    try:
        async with age:
            yield
    except TimeoutError:
        if not age.expired():
            raise
        raise TimedOut(
            f"a snapshot was held for {SNAPSHOT_PIN_SECONDS_MAX} s",
            hint="the transfer resumes by itself from a newer one",
        ) from None


async def _serve(link: _Link, provider: Provider, bucket: TokenBucket, executor: Executor | None) -> None:
    request = expect(SnapshotRequest, await link.receive())
    async with provider.pin() as image:
        session = SendingSession(
            request,
            image.pin,
            position=image.position,
            config=image.config,
            snapshot=image.snapshot,
        )
        await link.send(session.offer)
        while not session.complete:
            asked = expect(RangeHashes, await link.receive())
            await link.send(await _in_thread(executor, session.answer, asked), bucket)
        await _beating(link, provider.committed(image.position))
        await link.send(session.done())


async def _beating(link: _Link, work: Coroutine[Any, Any, None]) -> None:
    """Await ``work``, telling the receiver now and then that this side is alive."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=_BEAT_SECONDS))[0]:
            await link.send(SnapshotWait("commit"))
        task.result()
    finally:
        task.cancel()
        await asyncio.wait({task})


# receiving


async def fetch(
    connect: Connect,
    staging: Staging,
    progress: Callable[[Progress], None],
    *,
    executor: Executor | None = None,
) -> Plan:
    """Bring an image into ``staging``; returns the plan for it, to be given to ``snapshot.install.install``.

    Connections that break, busy senders and a full disk are tried again, with back-off, until cancelled; what
    has arrived stays.  Raises ``Corruption`` when the result lacks the sender's digest (call again: only what
    is wrong is sent anew), ``ProtocolError`` for a peer that does not speak this, ``OSError`` of the disk.
    """
    try:
        offer, digest = await _until_done(connect, staging.request(), staging.target, progress, executor)
    finally:
        staging.close()
    return staging.staged(offer, digest)


async def backup(
    connect: Connect,
    file: BackupFile,
    progress: Callable[[Progress], None],
    *,
    executor: Executor | None = None,
) -> Position:
    """Receive an image into a plain file; returns its position.  Tries again as ``fetch`` does."""
    try:
        offer, _ = await _until_done(connect, file.request(), file.target, progress, executor)
        await _in_thread(executor, file.publish)
    finally:
        file.close()
    return Position.parse(offer.position)


async def _until_done(
    connect: Connect,
    request: SnapshotRequest,
    target: Target,
    progress: Callable[[Progress], None],
    executor: Executor | None,
) -> tuple[SnapshotOffer, bytes]:
    report = _Report(progress)
    delay = SNAPSHOT_BACKOFF_SECONDS
    while True:
        report.begin_attempt()
        try:
            return await _receive(await _linked(connect), request, target, report, executor)
        except Unavailable as error:
            # A connection that brought something starts the back-off anew.
            delay = SNAPSHOT_BACKOFF_SECONDS if report.moved else min(2 * delay, SNAPSHOT_BACKOFF_SECONDS_MAX)
            report.broken(error)
        await asyncio.sleep(delay * random.uniform(0.5, 1.0))


async def _linked(connect: Connect) -> _Link:
    async with _moving():
        reader, writer = await connect()
    return _Link(reader, writer)


async def _receive(
    link: _Link,
    request: SnapshotRequest,
    target: Target,
    report: _Report,
    executor: Executor | None,
) -> tuple[SnapshotOffer, bytes]:
    try:
        await link.send(request)
        offer = expect(SnapshotOffer, await link.receive_past_waits())
        session = ReceivingSession(offer, target)
        await _in_thread(executor, session.begin)
        while not session.complete:
            while session.may_ask:
                await link.send(await _in_thread(executor, session.ask))
            units = expect(RangeUnits, await link.receive_past_waits())
            await _in_thread(executor, session.take, units)
            report.took(session, units)
        done = expect(SnapshotDone, await link.receive_past_waits())
        return offer, await _in_thread(executor, session.finish, done)
    finally:
        link.abort()


class _Report:
    """Turns what a session has done into ``Progress`` calls."""

    def __init__(self, progress: Callable[[Progress], None]) -> None:
        self._progress = progress
        self._clock = asyncio.get_running_loop().time
        self._meter = Meter(self._clock())
        self._attempt = 0
        self._last = Progress(
            bytes_done=0,
            units_done=0,
            units_total=0,
            units_equal=0,
            units_received=0,
            bytes_per_second=0.0,
            attempt=0,
            trouble=None,
        )
        self.moved = False

    def begin_attempt(self) -> None:
        self._attempt += 1
        self.moved = False

    def took(self, session: ReceivingSession, units: RangeUnits) -> None:
        self.moved = True
        size = session.shape.unit_bytes
        self._last = Progress(
            bytes_done=session.units_done * size,
            units_done=session.units_done,
            units_total=session.shape.unit_count,
            units_equal=session.units_done - session.units_received,
            units_received=session.units_received,
            bytes_per_second=self._meter.add(units.count * size, self._clock()),
            attempt=self._attempt,
            trouble=None,
        )
        self._progress(self._last)

    def broken(self, error: Exception) -> None:
        trouble = str(error) or type(error).__name__
        self._last = replace(self._last, bytes_per_second=0.0, attempt=self._attempt, trouble=trouble)
        self._progress(self._last)
