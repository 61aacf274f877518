"""What a killed leader left behind is found, or honestly not; foreign writes while down are noticed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pagepair import Pair, digest, other_process

from paceline.engines.sqlite import plainfile, state
from paceline.engines.sqlite.applier import Applier
from paceline.engines.sqlite.mark import Mark
from paceline.engines.sqlite.surplus import surplus
from paceline.errors import Corruption, Diverged
from paceline.files import RealFiles

_LEADER = """
import os, sys, apsw
from paceline.engines.sqlite.applier import Applier
from paceline.engines.sqlite.capture import Capture
path, program = sys.argv[1:]
applier = Applier(path)
applier.open()
mark = applier.release_for_leading()
sql = apsw.Connection(path)
sql.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
capture = Capture(path)
capture.attach(sql, mark)
def logged(statement):
    global mark
    sql.execute(statement)
    for _ in capture.changed(): pass
    capture.advance()
    mark = capture.mark()
def captured(statement):
    keep = mark
    logged(statement)
    globals()["mark"] = keep
exec(program)
print(mark.hex(), flush=True)
os.kill(os.getpid(), 9)
"""


def killed_leader(path: str, program: str) -> bytes:
    """Run a leader in a process that is killed at the end; the mark that its log would remember."""
    return bytes.fromhex(killed_leader_says(path, program))


def killed_leader_says(path: str, program: str) -> str:
    """Also what the program printed before the mark."""
    done = subprocess.run(
        [sys.executable, "-c", _LEADER, path, program], stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == -9
    return done.stdout


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    yield str(tmp_path / "main.db")
    plainfile.forget(str(tmp_path / "main.db"))


def opened(path: str) -> Applier:
    applier = Applier(path)
    assert applier.open() is None
    return applier


def found(applier: Applier, *marks: bytes) -> int:
    """Undo the surplus; the number of its transactions.  ``marks``: newest first, of the last reign."""
    transactions = list(surplus(applier.path, of_reign(*marks), applier.page_size))
    applier.undo(delta for parts in reversed(transactions) for delta in reversed(parts))
    return len(transactions)


def of_reign(*marks: bytes) -> list[tuple[int, bytes]]:
    return [(len(marks) - number, mark) for number, mark in enumerate(marks)]


def rows(path: str) -> str:
    with other_process(path) as other:
        return other.ask("q('select x from t order by x')")


def test_transactions_after_the_mark_are_surplus_and_can_be_undone(path: str) -> None:
    mark = killed_leader(
        path,
        "logged('create table t(x)'); logged('insert into t values (1)')\n"
        "captured('insert into t values (2)'); sql.execute('insert into t values (3)')",
    )
    applier = opened(path)
    assert rows(path) == "[(1,), (2,), (3,)]"
    assert found(applier, mark) == 2
    assert rows(path) == "[(1,)]"
    assert found(applier, mark) == 0, "the undo itself is no surplus"
    applier.close()


def test_leader_that_logged_everything_has_no_surplus(path: str) -> None:
    mark = killed_leader(path, "logged('create table t(x)'); logged('insert into t values (1)')")
    applier = opened(path)
    assert found(applier, mark) == 0
    applier.close()
    # Again after a clean close: the log is another one, and the note knows why.
    applier = opened(path)
    assert found(applier, mark) == 0
    applier.close()
    assert rows(path) == "[(1,)]"


def test_surplus_after_a_checkpoint_of_our_own_is_the_new_log(path: str) -> None:
    mark = killed_leader(
        path,
        "logged('create table t(x)'); logged('insert into t values (1)'); assert capture.checkpoint()\n"
        "captured('insert into t values (2)'); sql.execute('insert into t values (3)')",
    )
    applier = opened(path)
    assert found(applier, mark) == 2
    assert rows(path) == "[(1,)]"
    applier.close()


def test_an_entry_that_lost_its_last_commit_in_a_power_cut_is_surplus(path: str) -> None:
    """Two commits under one entry; the write-ahead log ends between them."""
    program = "logged('create table t(x)'); sql.execute('insert into t values (1)'); cut = os.path.getsize(path + '-wal')\n"
    program += "first = mark; logged('insert into t values (2)'); print(first.hex(), cut, end=' ')"
    first, cut, second = killed_leader_says(path, program).split()
    os.truncate(path + "-wal", int(cut))
    os.unlink(path + "-shm")
    applier = opened(path)
    assert rows(path) == "[(1,)]"
    assert found(applier, bytes.fromhex(second), bytes.fromhex(first)) == 1
    assert rows(path) == "[]"
    assert found(applier, bytes.fromhex(second), bytes.fromhex(first)) == 0
    applier.close()


def test_marks_of_an_older_reign_are_not_looked_at(path: str) -> None:
    """After a power cut and a replay the old reign's frames are others."""
    old = killed_leader(path, "logged('create table t(x)'); logged('insert into t values (1)')")
    applier = opened(path)
    applier.release_for_leading(7)
    applier.open()
    stale = Mark.decode(old)
    beyond = Mark(stale.salts, stale.frame + 5, stale.page_count, stale.change, (1, 2)).encode()
    assert list(surplus(path, [(7, beyond)], applier.page_size)) == []
    applier.close()


def test_surplus_of_a_reign_that_logged_nothing_begins_where_the_reign_began(path: str) -> None:
    killed_leader(path, "logged('create table t(x)'); logged('insert into t values (1)')")
    applier = opened(path)
    before = digest(path)
    applier.close()
    killed_leader(path, "sql.execute('insert into t values (2)')")
    applier = opened(path)
    assert found(applier) == 1
    assert digest(path) == before
    applier.close()


def test_what_a_follower_applied_is_no_surplus(path: str, tmp_path: Path) -> None:
    pair = Pair(tmp_path / "pair")
    mark = pair.applier.mark
    pair.applier.release_for_leading()
    pair.applier.open()
    pair.run("CREATE TABLE t(x)")
    pair.ship()
    pair.run("INSERT INTO t VALUES (1)")
    pair.ship()
    assert list(surplus(pair.follower_path, of_reign(mark), 4096)) == []
    pair.close()


def test_surplus_that_somebody_else_checkpointed_is_diverged(path: str) -> None:
    mark = killed_leader(path, "logged('create table t(x)'); sql.execute('insert into t values (3)')")
    assert rows(path) == "[(3,)]"  # the last to close moves the log into the file and deletes it
    assert not os.path.exists(path + "-wal")
    applier = Applier(path)
    assert applier.open() is not None
    with pytest.raises(Diverged):
        list(surplus(path, of_reign(mark), applier.page_size))
    applier.close()


def test_surplus_moved_into_the_file_under_a_reader_is_diverged(path: str) -> None:
    mark = killed_leader(path, "logged('create table t(x)'); sql.execute('insert into t values (3)')")
    with other_process(path) as other:
        other.ask("q('pragma wal_checkpoint(passive)')")
        applier = Applier(path)
        applier.open()
        with pytest.raises(Diverged):
            list(surplus(path, of_reign(mark), applier.page_size))
        applier.close()


def test_node_that_never_led_has_no_surplus(path: str) -> None:
    applier = opened(path)
    assert list(surplus(path, [], applier.page_size)) == []
    applier.close()


def test_mark_survives_its_encoding_and_nothing_else_is_one() -> None:
    mark = Mark(b"saltsalt", 7, 9, 2**32 - 1, (1, 2))
    raw = mark.encode()
    assert len(raw) <= 255 and Mark.decode(raw) == mark
    for wrong in (b"", raw[:-1], raw + b"\0"):
        with pytest.raises(Corruption):
            Mark.decode(wrong)


# the note


def test_clean_close_leaves_the_whole_database_in_one_file(path: str) -> None:
    mark = killed_leader(path, "logged('create table t(x)'); logged('insert into t values (1)')")
    assert mark
    opened(path).close()
    assert sorted(os.listdir(os.path.dirname(path))) == ["main.db", "state"]
    note = state.read_note(RealFiles(), path)
    assert note is not None and note.clean
    opened(path).close()


def test_reader_while_the_node_is_down_is_not_suspected(path: str) -> None:
    killed_leader(path, "logged('create table t(x)')")
    opened(path).close()
    assert rows(path) == "[]"
    opened(path).close()


@pytest.mark.parametrize("kill_reader", [False, True])
def test_write_while_the_node_is_down_is_noticed(path: str, kill_reader: bool) -> None:
    killed_leader(path, "logged('create table t(x)')")
    opened(path).close()
    with other_process(path) as other:
        other.ask("q('insert into t values (1)')")
        if kill_reader:
            other.ask("__import__('os')._exit(0)")
    applier = Applier(path)
    reason = applier.open()
    assert reason is not None and "while the node was down" in reason
    applier.close()


def test_killed_follower_finds_its_own_log_and_is_not_suspicious(path: str) -> None:
    killed_leader(
        path, "logged('create table t(x)'); assert capture.checkpoint(); logged('insert into t values(1)')"
    )
    opened(path).close()


def test_log_that_somebody_else_started_is_noticed(path: str) -> None:
    killed_leader(
        path,
        "logged('create table t(x)'); capture.detach(); sql.close(); applier.open()\n"
        "applier.install(applier.page_size, applier.page_count, []); assert applier.checkpoint()",
    )
    with other_process(path) as other:
        other.ask("q('insert into t values (1)')")
        other.ask("__import__('os')._exit(0)")
    applier = Applier(path)
    assert applier.open() is not None
    applier.close()


def test_suspicion_lasts_until_the_node_has_resynced(path: str) -> None:
    killed_leader(path, "logged('create table t(x)')")
    opened(path).close()
    rows_before = digest(path)
    plainfile.forget(path)
    with other_process(path) as other:
        other.ask("q('insert into t values (1)')")
    assert digest(path) != rows_before
    for _ in range(2):
        applier = Applier(path)
        assert applier.open() is not None
        applier.close()
    applier.open()
    applier.install(applier.page_size, applier.page_count, [(1, applier._source.stored(1))])
    applier.close()
    opened(path).close()


def test_first_transaction_of_a_new_log_raises_no_suspicion(path: str) -> None:
    """Killed between the first commit of a new log and the note about it."""
    mark = killed_leader(
        path,
        "logged('create table t(x)'); assert capture.checkpoint(); sql.execute('insert into t values(1)')",
    )
    applier = opened(path)
    assert found(applier, mark) == 1
    applier.close()


_KILL_AFTER_CHECKPOINT = """
import paceline.engines.sqlite.state as state
write = state.write_note
def kill(*args, **fields):
    if not fields["moving"]:
        print(mark.hex(), flush=True)
        os.kill(os.getpid(), 9)
    write(*args, **fields)
logged('create table t(x)')
logged('insert into t values (1)')
"""


def test_leader_killed_right_after_a_checkpoint_is_not_suspicious(path: str) -> None:
    mark = killed_leader(path, _KILL_AFTER_CHECKPOINT + "state.write_note = kill; capture.checkpoint()")
    assert os.path.getsize(path + "-wal") == 0
    applier = opened(path)
    assert found(applier, mark) == 0
    applier.close()
    assert rows(path) == "[(1,)]"


def test_follower_killed_right_after_a_checkpoint_is_not_suspicious(path: str) -> None:
    killed_leader(
        path,
        _KILL_AFTER_CHECKPOINT + "capture.detach(); sql.close(); applier.open()\n"
        "applier.install(applier.page_size, applier.page_count, [])\n"
        "state.write_note = kill; applier.checkpoint()",
    )
    assert os.path.getsize(path + "-wal") == 0
    opened(path).close()


def test_unreadable_note_counts_as_none(path: str) -> None:
    opened(path).close()
    Path(os.path.dirname(path), "state").write_bytes(b"{broken")
    opened(path).close()
