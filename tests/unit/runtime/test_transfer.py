"""Transfers over real sockets on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from paceline.errors import Corruption, Diverged, Overloaded, ProtocolError, TimedOut
from paceline.files import RealFiles
from paceline.ids import Position
from paceline.runtime import transfer
from paceline.runtime.transfer import Gate, PinnedImage, backup, fetch, serve_session
from paceline.sim.disk import SimDisk
from paceline.snapshot.backup import BackupFile
from paceline.snapshot.install import install
from paceline.snapshot.pace import Progress
from paceline.snapshot.staging import Staging

sys.path.insert(0, str(Path(__file__).parents[1] / "snapshot"))
from snapshot_fakes import COMPANIONS, END, FakeNode, FakePin, content, layout, put, some_units

pytestmark = pytest.mark.asyncio
FILES = RealFiles()


class FakeProvider:
    def __init__(self, units: list[bytes]) -> None:
        self.units = units
        self.pins: list[FakePin] = []
        self.commit = asyncio.Event()
        self.commit.set()
        self.lost = False
        self.pinned = asyncio.Event()

    @asynccontextmanager
    async def pin(self) -> AsyncIterator[PinnedImage]:
        pin = FakePin(self.units)
        self.pins.append(pin)
        self.pinned.set()
        try:
            yield PinnedImage(pin=pin, position=END, config=b"members", snapshot=f"s{len(self.pins)}")
        finally:
            pin.close()

    async def committed(self, position: Position) -> None:
        assert position == END
        await self.commit.wait()
        if self.lost:
            raise Diverged("the position was rewound")


class Network:
    """A listening sender and what it saw; ``wrap`` may put a fault between the stream and the session."""

    def __init__(self, provider: FakeProvider, gate: Gate) -> None:
        self.provider, self.gate = provider, gate
        self.errors: list[BaseException] = []
        self.served = 0
        self.wrap: Callable[[asyncio.StreamWriter], Any] = lambda writer: writer
        self.sessions: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Network:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for task in list(self.sessions):
            task.cancel()
        if self.sessions:
            await asyncio.wait(self.sessions)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.sessions.add(task)
        try:
            await serve_session(reader, self.wrap(writer), self.provider, gate=self.gate)
            self.served += 1
        except BaseException as error:
            self.errors.append(error)
        finally:
            with contextlib.suppress(OSError):
                while await reader.read(65536):
                    pass
            writer.transport.abort()
            self.sessions.discard(task)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


def network(units: list[bytes], *, rate: int = 0, sessions_max: int = 4) -> Network:
    return Network(FakeProvider(units), Gate(rate=rate, sessions_max=sessions_max))


def quiet(_: Progress) -> None:
    pass


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "SNAPSHOT_BACKOFF_SECONDS", 0.001)


@pytest.mark.parametrize("count", [0, 1, 5000])
async def test_join_brings_the_image_and_its_plan(tmp_path: Path, count: int) -> None:
    seen: list[Progress] = []
    place = layout(str(tmp_path))
    async with network(some_units(count)) as net:
        plan = await fetch(net.connect, Staging(FILES, place, None), seen.append)
        node = FakeNode(FakePin([]))
        install(FILES, place, plan, node)
        while net.sessions:
            await asyncio.wait(net.sessions)
    assert content(FILES, place.database) == b"".join(net.provider.units)
    assert (node.config, node.log_end) == (b"members", END)
    assert net.provider.pins[0].closed and net.served == 1
    assert not count or (seen[-1].units_done, seen[-1].units_total) == (count, count)


async def test_resync_receives_only_what_differs(tmp_path: Path) -> None:
    old = some_units(3000)
    new = [b"new!" * 16 if n % 100 == 0 else unit for n, unit in enumerate(old)]
    place = layout(str(tmp_path))
    FILES.mkdir(place.database_directory)
    put(FILES, place.database, b"here")
    seen: list[Progress] = []
    node = FakeNode(FakePin(old))
    async with network(new) as net:
        plan = await fetch(net.connect, Staging(FILES, place, FakePin(old)), seen.append)
    install(FILES, place, plan, node)
    assert [node.units[n] for n in sorted(node.units)] == new
    assert (seen[-1].units_received, seen[-1].units_equal) == (30, 2970)


async def test_backup_is_one_plain_file(tmp_path: Path) -> None:
    path = str(tmp_path / "copy.db")
    async with network(some_units(2000)) as net:
        position = await backup(net.connect, BackupFile(FILES, path, companions=COMPANIONS), quiet)
    assert position == END
    assert FILES.listdir(str(tmp_path)) == ["copy.db"]
    assert content(FILES, path) == b"".join(net.provider.units)


class Breaking:
    """A writer that ends its connection, or flips a byte, after so many bytes.

    It ends by a FIN, and the socket stays until the receiver has hung up (``Network._accept``): a reset would
    throw away what the receiver's kernel holds, and how much that is depends on the load of the machine.
    """

    def __init__(self, writer: asyncio.StreamWriter, after: int, *, flip: bool) -> None:
        self._writer, self._left, self._flip = writer, after, flip
        self._ended = False

    def write(self, data: bytes) -> None:
        data = bytes(data)
        if 0 <= self._left < len(data):
            if self._flip:
                data = data[: self._left] + bytes((data[self._left] ^ 0x40,)) + data[self._left + 1 :]
                self._left = -1
                self._writer.write(data)
                return
            self._writer.write(data[: self._left])
            self._writer.write_eof()
            self._ended = True
            self._left = -1
            return
        self._left = max(-1, self._left - len(data)) if self._left >= 0 else -1
        if not self.is_closing():
            self._writer.write(data)

    @property
    def transport(self) -> Any:
        return self

    def is_closing(self) -> bool:
        return self._ended or self._writer.transport.is_closing()

    def abort(self) -> None:
        if not self._ended:
            self._writer.transport.abort()

    def close(self) -> None:
        if not self._ended:
            self._writer.close()

    async def drain(self) -> None:
        await self._writer.drain()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer.transport, name)


async def test_transfer_that_breaks_again_and_again_resumes_until_done(tmp_path: Path) -> None:
    units = some_units(9000)
    place = layout(str(tmp_path))
    # In sum less than one transfer of everything, so each break comes, whatever was lost in flight before.
    breaks = iter([10, 80_000, 50, 90_000, 100_000, 110_000])
    async with network(units) as net:

        def wrap(writer: asyncio.StreamWriter) -> Any:
            # Every connection finds a newer image: the one in flight must not start again.
            net.provider.units = [*net.provider.units[:-1], random.Random(len(net.errors)).randbytes(64)]
            after = next(breaks, None)
            return writer if after is None else Breaking(writer, after, flip=False)

        net.wrap = wrap
        seen: list[Progress] = []
        await fetch(net.connect, Staging(FILES, place, None), seen.append)
    assert content(FILES, place.incoming) == b"".join(net.provider.units)
    assert seen[-1].attempt == 7
    assert sum(p.trouble is not None for p in seen) == 6
    assert seen[-1].units_equal > 0, "what had arrived did not travel again"


@pytest.mark.parametrize("at", [2, 30, 200, 5_000, 60_000, 120_000])
async def test_flipped_byte_on_the_wire_never_becomes_data(tmp_path: Path, at: int) -> None:
    place = layout(str(tmp_path))
    async with network(some_units(3000)) as net:
        net.wrap = lambda writer: Breaking(writer, at, flip=True)
        try:
            async with asyncio.timeout(2):
                await fetch(net.connect, Staging(FILES, place, None), quiet)
            assert content(FILES, place.incoming) == b"".join(net.provider.units)
        except (Corruption, ProtocolError, TimeoutError):
            pass
        net.wrap = lambda writer: writer
        await fetch(net.connect, Staging(FILES, place, None), quiet)
    assert content(FILES, place.incoming) == b"".join(net.provider.units)


async def test_nothing_is_done_before_the_position_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_BEAT_SECONDS", 0.01)
    monkeypatch.setattr(transfer, "SNAPSHOT_IDLE_SECONDS_MAX", 0.2)
    all_there = asyncio.Event()

    def progress(now: Progress) -> None:
        if now.units_done == now.units_total:
            all_there.set()

    async with network(some_units(100)) as net:
        net.provider.commit.clear()
        task = asyncio.ensure_future(
            fetch(net.connect, Staging(FILES, layout(str(tmp_path)), None), progress)
        )
        await all_there.wait()
        done, _ = await asyncio.wait({task}, timeout=0.5)  # longer than the silence limit
        assert not done
        net.provider.commit.set()
        await task
        assert len(net.provider.pins) == 1


async def test_snapshot_whose_position_was_rewound_is_refused(tmp_path: Path) -> None:
    async with network(some_units(100)) as net:
        net.provider.lost = True
        with pytest.raises(Diverged, match="rewound"):
            await fetch(net.connect, Staging(FILES, layout(str(tmp_path)), None), quiet)


async def test_sender_with_all_sessions_taken_is_tried_again_by_itself(tmp_path: Path) -> None:
    async with network(some_units(100), sessions_max=1) as net:
        net.provider.commit.clear()
        first = asyncio.ensure_future(
            fetch(net.connect, Staging(FILES, layout(f"{tmp_path}/a"), None), quiet)
        )
        await net.provider.pinned.wait()
        refused = asyncio.Event()

        def progress(now: Progress) -> None:
            if now.trouble and "sends 1 snapshots already" in now.trouble:
                refused.set()

        second = asyncio.ensure_future(
            fetch(net.connect, Staging(FILES, layout(f"{tmp_path}/b"), None), progress)
        )
        await refused.wait()
        net.provider.commit.set()
        await asyncio.gather(first, second)
    assert all(isinstance(e, Overloaded) for e in net.errors) and net.errors
    assert net.gate.sessions == 0


async def test_silent_receiver_loses_its_pin(monkeypatch: pytest.MonkeyPatch) -> None:
    async with network(some_units(100)) as net:
        reader, writer = await net.connect()
        monkeypatch.setattr(transfer, "SNAPSHOT_IDLE_SECONDS_MAX", 0.05)
        writer.write(transfer.encode_frame(transfer.SnapshotRequest(1, "join", None, 0, 0)))
        await reader.read()
        await asyncio.wait(net.sessions) if net.sessions else None
        writer.close()
    assert net.provider.pins[0].closed
    assert isinstance(net.errors[0], TimedOut)


async def test_pin_is_let_go_at_its_age_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "SNAPSHOT_PIN_SECONDS_MAX", 0.05)
    expired = asyncio.Event()
    async with network(some_units(100)) as net:
        net.provider.commit.clear()

        def progress(now: Progress) -> None:
            if now.trouble and "was held for" in now.trouble:
                expired.set()
                net.provider.commit.set()

        await fetch(net.connect, Staging(FILES, layout(str(tmp_path)), None), progress)
    assert expired.is_set()
    assert all(pin.closed for pin in net.provider.pins)


async def test_cancelled_transfer_closes_both_sides_and_can_go_on(tmp_path: Path) -> None:
    place = layout(str(tmp_path))
    async with network(some_units(20_000), rate=400_000) as net:
        some = asyncio.Event()
        task = asyncio.ensure_future(fetch(net.connect, Staging(FILES, place, None), lambda _: some.set()))
        await some.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while net.sessions:
            await asyncio.wait(net.sessions)
        assert net.provider.pins[0].closed
        net.gate = Gate(rate=0)
        seen: list[Progress] = []
        await fetch(net.connect, Staging(FILES, place, None), seen.append)
    assert seen[-1].units_equal >= 1024
    assert content(FILES, place.incoming) == b"".join(net.provider.units)


async def test_cancelled_sender_closes_its_pin_only_after_its_thread_left_it(tmp_path: Path) -> None:
    async with network(some_units(20_000)) as net:
        task = asyncio.ensure_future(fetch(net.connect, Staging(FILES, layout(str(tmp_path)), None), quiet))
        await net.provider.pinned.wait()
        for session in list(net.sessions):
            session.cancel()
        await task
    assert all(pin.closed for pin in net.provider.pins)
    assert not [e for e in net.errors if isinstance(e, AssertionError)]


async def test_rate_limit_holds_over_the_whole_transfer(tmp_path: Path) -> None:
    clock = asyncio.get_running_loop().time
    async with network(some_units(4000), rate=500_000) as net:  # 256 kB that do not compress
        start = clock()
        await fetch(net.connect, Staging(FILES, layout(str(tmp_path)), None), quiet)
        assert 0.2 < clock() - start < 5


async def test_disk_that_fails_is_not_retried() -> None:
    disk = SimDisk(random.Random(1))
    disk.fail("sync", 5)
    disk.mkdir("/n")
    async with network(some_units(100)) as net:
        with pytest.raises(OSError):
            await fetch(net.connect, Staging(disk.mount(), layout("/n"), None), quiet)
        assert len(net.provider.pins) == 1


async def test_loop_stays_responsive_while_ranges_are_prepared(tmp_path: Path) -> None:
    units = some_units(6000, 4096)
    provider = FakeProvider(units)
    gaps: list[float] = []

    async def pulse() -> None:
        clock = asyncio.get_running_loop().time
        last = clock()
        while True:
            await asyncio.sleep(0.001)
            gaps.append(clock() - last)
            last = clock()

    async with Network(provider, Gate(rate=0)) as net:
        original = provider.pin

        @asynccontextmanager
        async def pin() -> AsyncIterator[PinnedImage]:
            async with original() as image:
                image.pin.unit_bytes = 4096  # type: ignore[misc]
                yield image

        provider.pin = pin  # type: ignore[method-assign]
        pulsing = asyncio.ensure_future(pulse())
        await fetch(net.connect, Staging(FILES, layout(str(tmp_path)), None), quiet)
        pulsing.cancel()
    assert sorted(gaps)[len(gaps) * 9 // 10] < 0.1
