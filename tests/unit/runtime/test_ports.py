"""Work of the log's lane whose syncs go without a thread: done, failed, in order, and where the kernel refuses."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paceline.core.messages import Message
from paceline.files import File, RealFiles, Steps, perform
from paceline.ids import NodeId
from paceline.node.ports import Lane
from paceline.runtime.asyncsync import AsyncSync
from paceline.runtime.ports import RealPorts


class Outside:
    def send(self, to: NodeId, message: Message) -> None: ...

    def fetch_snapshot(self, leader: NodeId) -> None: ...

    def event(self, kind: str, details: dict[str, Any]) -> None: ...

    def fatal(self, error: BaseException) -> None:
        raise error

    def unsynced_bytes(self) -> int:
        return 0


def written(file: File, seen: list[str], data: bytes = b"x" * 1000) -> Steps[str]:
    for number in range(3):
        file.pwritev([data], number * len(data))
        seen.append(f"written {number}")
        yield file
        seen.append(f"synced {number}")
    return "all"


async def run(ports: RealPorts, steps: Steps[str]) -> str:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    ports.run_steps(steps, future.set_result, future.set_exception)
    return await asyncio.wait_for(future, 10)


def with_ports(tmp_path: Path, test: Callable[[RealPorts, File], Any]) -> Any:
    async def main() -> Any:
        ports = RealPorts(Outside(), asyncio.get_running_loop())
        file = RealFiles().open(str(tmp_path / "file"), create=True)
        try:
            return await test(ports, file)
        finally:
            await ports.settle()
            ports.stop()
            file.close()

    return asyncio.run(main())


WHOLE = ["written 0", "synced 0", "written 1", "synced 1", "written 2", "synced 2"]


def test_steps_run_to_their_end_with_the_kernels_help(tmp_path: Path) -> None:
    seen: list[str] = []

    async def test(ports: RealPorts, file: File) -> str:
        assert ports._async_sync is not None, "this kernel has asynchronous syncs"
        result = await run(ports, written(file, seen))
        assert ports._async_sync is not None, "and did them"
        return result

    assert with_ports(tmp_path, test) == "all"
    assert seen == WHOLE


@pytest.mark.parametrize("how", ["never there", "refused later"])
def test_without_the_kernels_help_a_thread_syncs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    seen: list[str] = []

    def refuse(*_: Any) -> None:
        raise OSError(errno.EINVAL, "not here")

    monkeypatch.setattr(AsyncSync, "__init__" if how == "never there" else "sync", refuse)

    async def test(ports: RealPorts, file: File) -> str:
        result = await run(ports, written(file, seen))
        assert ports._async_sync is None
        return result

    assert with_ports(tmp_path, test) == "all"
    assert seen == WHOLE


def test_a_failed_sync_is_thrown_into_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel tells it: the result of a sync that ended."""
    ended = AsyncSync._ended

    def failing(self: AsyncSync) -> None:
        done = self._done
        assert done is not None
        self._done = lambda error: done(OSError(errno.EIO, os.strerror(errno.EIO)))
        ended(self)

    monkeypatch.setattr(AsyncSync, "_ended", failing)
    seen: list[str] = []

    async def test(ports: RealPorts, file: File) -> None:
        with pytest.raises(OSError, match="Input/output error"):
            await run(ports, written(file, seen))

    with_ports(tmp_path, test)
    assert seen == ["written 0"]


def test_the_logs_lane_waits_for_a_sync_without_a_thread(tmp_path: Path) -> None:
    order: list[str] = []

    async def test(ports: RealPorts, file: File) -> None:
        over = asyncio.Event()
        ports.run_steps(written(file, order), lambda _: None, ports.fatal)
        ports.run(Lane.LOG, lambda: order.append("lane"), lambda _: over.set(), ports.fatal)
        await over.wait()

    with_ports(tmp_path, test)
    assert order == [*WHOLE, "lane"]


def test_stopping_waits_for_what_is_under_way_and_starts_nothing_new(tmp_path: Path) -> None:
    seen: list[str] = []

    async def test(ports: RealPorts, file: File) -> None:
        ports.run_steps(written(file, seen), lambda _: None, ports.fatal)
        await ports.settle()
        assert seen == WHOLE
        assert ports._async_sync is None

    with_ports(tmp_path, test)


def test_in_place_every_file_is_synced_and_a_failure_is_thrown_in(tmp_path: Path) -> None:
    seen: list[str] = []
    file = RealFiles().open(str(tmp_path / "file"), create=True)
    assert perform(written(file, seen)) == "all"
    assert seen == WHOLE
    steps = written(file, seen := [])
    file.sync = lambda: (_ for _ in ()).throw(OSError(errno.EIO, "no"))  # type: ignore[method-assign]
    with pytest.raises(OSError, match="no"):
        perform(steps)
    assert seen == ["written 0"]
