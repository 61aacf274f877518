"""The benchmark harness measures what it says; costs are read from /proc."""

from __future__ import annotations

import os
import socket
import sqlite3
from pathlib import Path

import pytest

from bench import durability, failover, machine, memory, reference
from bench.cluster import CommandFailed, LocalCluster, free_port, peak_rss_mb, wait_for

_PROGRAM = """
import os, pathlib, sys, time
folder = pathlib.Path(os.environ["SKETCH_DIR"])
with (folder / "calls").open("a") as calls:
    print(*sys.argv[1:], file=calls)
if sys.argv[1] != "client":
    time.sleep(60)
print(RESULT)
"""


def _reference(folder: Path, result: str) -> Path:
    program = folder / "program.py"
    program.write_text(_PROGRAM.replace("RESULT", repr(result)))
    return program


@pytest.fixture(autouse=True)
def _no_start_up_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_START_SECONDS", 0.3)


def test_reference_is_one_leader_two_followers_and_a_client(tmp_path: Path) -> None:
    program = _reference(tmp_path, "clients 16: 1234 tx/s p50 1.50 ms p99 9.25 ms")
    found = reference.measure(program, tmp_path / "data", mode="quorum", clients=16, seconds=2)
    assert found == {"tps": 1234.0, "p50_ms": 1.5, "p99_ms": 9.25}
    calls = (tmp_path / "data" / "calls").read_text().splitlines()
    assert sorted(calls) == ["client 16 2", "follower 1", "follower 2", "leader quorum"]


def test_reference_without_a_result_is_an_error(tmp_path: Path) -> None:
    program = _reference(tmp_path, "nothing to see")
    with pytest.raises(SystemExit, match="no result"):
        reference.measure(program, tmp_path / "data", mode="quorum", clients=1, seconds=1)


def test_local_sqlite_is_synchronous_and_leaves_nothing_behind(tmp_path: Path) -> None:
    found = machine.local_sqlite(tmp_path, 0.1)
    assert found["tps"] > 0
    assert found["p50_ms"] <= found["p99_ms"]
    assert not list(tmp_path.iterdir())


def test_availability_is_the_share_of_time_in_which_writes_are_acknowledged() -> None:
    tally = durability.Tally()
    tally.acknowledged(0.5, degraded=False)
    tally.acknowledged(1.0, degraded=True)
    tally.failed(1.0, unknown=True)
    tally.failed(0.5, unknown=False)
    assert tally.line() == {
        "available": 0.5,
        "as_asked": 1,
        "degraded": 1,
        "refused": 1,
        "unknown": 1,
        "longest_ack_ms": 1000.0,
    }
    assert durability.Tally().line()["available"] == 0.0


def test_machine_tells_the_disk(tmp_path: Path) -> None:
    found = machine.machine(tmp_path)
    assert found["cores"] == os.cpu_count()
    assert 0 < found["fdatasync_ms"]["p50"] <= found["fdatasync_ms"]["p99"]
    assert not list(tmp_path.iterdir())


def test_free_port_avoids_a_port_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    first = free_port(1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first + 5))
        taken.listen()
        monkeypatch.setattr("bench.cluster._PORTS", range(first, first + 1, 100))
        with pytest.raises(SystemExit):
            free_port(1)


def test_waiting_ends_with_a_clear_error() -> None:
    with pytest.raises(CommandFailed, match="the moon did not happen within 0 s"):
        wait_for("the moon", lambda: None, 0)


def test_failed_command_is_reported_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="not a Paceline cluster"):
        LocalCluster(tmp_path).command("status")


def test_node_process_is_found_by_its_configuration(tmp_path: Path) -> None:
    assert LocalCluster(tmp_path).pid("n1") is None
    assert 1 < peak_rss_mb(os.getpid()) < 10_000


def test_filler_database_has_the_size_asked_for(tmp_path: Path) -> None:
    memory.fill(tmp_path / "filler.db", 8)
    assert 0.8 < (tmp_path / "filler.db").stat().st_size / (8 * 1024 * 1024) < 1.2
    with sqlite3.connect(tmp_path / "filler.db") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def _writer(*acks: tuple[float, int, str]) -> failover.Writer:
    writer = failover.Writer(["127.0.0.1:1"])
    writer.acks = [failover.Ack(*ack) for ack in acks]
    return writer


def test_failover_ends_with_the_first_write_that_a_later_reign_acknowledges() -> None:
    late_answer = (1.02, 1, "n1")  # sent before the kill, read after it
    writer = _writer((0.9, 1, "n1"), (1.0, 1, "n1"), late_answer)
    assert writer.first_later(2, term=1) is None
    writer.acks += [failover.Ack(1.8, 2, "n3"), failover.Ack(1.9, 2, "n3")]
    assert writer.first_later(2, term=1) == (1.8, 2, "n3")


def test_pause_of_a_switch_is_the_longest_time_between_two_acknowledgements() -> None:
    writer = _writer(*((at, 1, "n1") for at in (0.0, 0.4, 1.0, 1.1, 1.35, 1.4, 3.0)))
    assert writer.pause_ms(1.05, 2.0) == pytest.approx(250)
    assert writer.pause_ms(1.0, 1.0) == pytest.approx(600), (
        "a pause counts when it ends, however early it began"
    )
    assert writer.pause_ms(1.38, 1.39) == 0


def test_percentiles_are_values_that_were_measured() -> None:
    assert failover.percentiles([3.0]) == {"p50": 3.0, "p99": 3.0, "max": 3.0}
    assert failover.percentiles([float(n) for n in range(1, 101)]) == {"p50": 50.0, "p99": 99.0, "max": 100.0}
