"""The supervisor step by step: processes and time are the test's."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from paceline.cli.cluster import Cluster, LocalNode, node_addresses, supervisor_lock
from paceline.cli.supervisor import Supervisor, last_words
from paceline.errors import UsageError


class FakeProcess:
    pid = 1

    def __init__(self, *, stubborn: bool = False) -> None:
        self.code: int | None = None
        self.signals: list[int] = []
        self.stubborn = stubborn

    def poll(self) -> int | None:
        return self.code

    def send_signal(self, sig: int) -> None:
        self.signals.append(sig)
        if sig == signal.SIGKILL or not self.stubborn:
            self.code = -sig


class World:
    """One cluster directory, its processes by name in the order of their starts, and a clock."""

    def __init__(self, path: Path) -> None:
        for name in ("n1", "n2", "n3"):
            (path / name).mkdir()
            (path / name / "paceline.toml").touch()
        self.cluster = Cluster(path, "main", [self._node("n1", 4001), self._node("n2", 4011)], None)
        self.cluster.save()
        self.now = 100.0
        self.said: list[str] = []
        self.starts: list[tuple[str, FakeProcess]] = []
        self.supervisor = Supervisor(
            self.cluster, self.said.append, spawn=self._spawn, clock=lambda: self.now
        )

    @staticmethod
    def _node(name: str, port: int) -> LocalNode:
        return LocalNode(name=name, **node_addresses("127.0.0.1", port))

    def _spawn(self, cluster: Cluster, name: str) -> FakeProcess:
        process = FakeProcess()
        self.starts.append((name, process))
        return process

    def step(self, seconds: float = 0.25) -> None:
        self.now += seconds
        self.supervisor.step()

    def change(self, *names: str) -> None:
        with Cluster.load(self.cluster.path).changing() as fresh:
            fresh.nodes = [self._node(name, 4001 + 10 * n) for n, name in enumerate(names)]

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.starts]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_every_node_is_started_once(world: World) -> None:
    world.step()
    world.step()
    assert sorted(world.names) == ["n1", "n2"] and world.said == []


def test_node_whose_directory_was_wiped_is_waited_for_and_the_others_run(world: World) -> None:
    config = world.cluster.config_path("n1")
    config.unlink()
    world.step()
    world.step()
    assert world.names == ["n2"]
    assert len(world.said) == 1 and "paceline node add n1" in world.said[0]
    assert [node.name for node in world.cluster.present] == ["n2"]
    config.touch()
    world.step()
    assert world.names == ["n2", "n1"]


def test_dead_node_starts_again_after_a_growing_pause(world: World) -> None:
    world.change("n1")
    world.step()
    pauses = []
    for _ in range(8):
        world.starts[-1][1].code = -9
        world.step()
        died = world.now
        count = len(world.starts)
        while len(world.starts) == count:
            world.step(0.5)
        pauses.append(world.now - died)
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert world.said[0] == "n1 ended (SIGKILL); starting it again in 0.5 s"


def test_node_that_lived_long_starts_again_soon(world: World) -> None:
    world.change("n1")
    world.step()
    for lifetime in (1, 1, 60):
        world.step(lifetime)
        world.starts[-1][1].code = 1
        world.step()
        world.step(10)
    assert [line.rpartition(" in ")[2] for line in world.said] == ["0.5 s", "1 s", "0.5 s"]


def test_last_words_of_a_dead_node_are_repeated(world: World) -> None:
    world.step()
    world.cluster.log_path("n1").write_text("hello\npaceline: port 4001 is in use\n  hint: stop it\n")
    dict(world.starts)["n1"].code = 1
    world.step()
    assert world.said == ["n1 ended (exit code 1: port 4001 is in use (stop it)); starting it again in 0.5 s"]
    assert world.supervisor.dead() == {"n1": "port 4001 is in use (stop it)"}


def test_old_words_in_the_log_are_not_taken_for_new_ones(world: World) -> None:
    world.cluster.log_path("n1").write_text("paceline: an old story\n")
    world.step()
    dict(world.starts)["n1"].code = 1
    world.step()
    assert world.said == ["n1 ended (exit code 1); starting it again in 0.5 s"]


def test_node_that_is_added_starts_and_one_that_is_removed_stops(world: World) -> None:
    world.step()
    world.change("n1", "n3")
    world.step()
    assert world.names[2:] == ["n3"]
    assert dict(world.starts)["n2"].signals == [signal.SIGTERM]
    world.step(100)
    assert len(world.starts) == 3, "a removed node is not started again"
    assert world.said == ["n3 was added; starting it", "n2 was removed; stopping it"]


def test_name_that_is_removed_and_added_again_starts_again(world: World) -> None:
    world.step()
    world.change("n1")
    world.step()
    world.step()
    world.change("n1", "n2")
    world.step()
    assert world.names.count("n2") == 2


def test_stop_terminates_all_and_waits(world: World) -> None:
    world.step()
    world.supervisor.stop()
    assert [process.signals for _, process in world.starts] == [[signal.SIGTERM]] * 2
    assert world.supervisor.pids() == {}


def test_second_interrupt_kills_a_stubborn_node(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.step()
    dict(world.starts)["n2"].stubborn = True
    monkeypatch.setattr("paceline.cli.supervisor.time.sleep", lambda _s: world.supervisor.interrupt())
    world.supervisor.stop()
    assert dict(world.starts)["n2"].signals == [signal.SIGTERM, signal.SIGKILL]
    assert world.said == ["n2 did not stop in time; killing it"]


def test_last_words_without_an_error_are_the_last_line(tmp_path: Path) -> None:
    log = tmp_path / "node.log"
    assert last_words(log) == ""
    log.write_text("one\ntwo\n\n")
    assert last_words(log) == "two"


def test_second_up_on_a_directory_is_refused_and_down_finds_the_first(world: World) -> None:
    path = world.cluster.path
    assert world.cluster.supervisor() is None
    with supervisor_lock(path):
        assert world.cluster.supervisor() == os.getpid()
        with pytest.raises(UsageError, match=f"process {os.getpid()}"), supervisor_lock(path):
            pass
    assert world.cluster.supervisor() is None
