"""The plan, and every crash in it.

The disk is the simulator's: a crash keeps any legal part of what was not synced.
"""

import random

import pytest
from snapshot_fakes import END, FakeNode, FakePin, Talk, content, layout, put, some_units

from paceline.errors import Corruption, HashMismatch, UsageError
from paceline.files import Files
from paceline.sim.disk import CRASH_MODES, CrashMode, PowerCut, SimDisk
from paceline.snapshot.install import install, run_plan
from paceline.snapshot.layout import Layout
from paceline.snapshot.plan import Plan, read_plan, write_plan
from paceline.snapshot.staging import Staging

PLACE = layout("/data")
OLD = FakePin(some_units(40, seed=1))
NEW = FakePin([b"new!" * 16 if n in (3, 4, 39) else unit for n, unit in enumerate(OLD.units)] + [b"+" * 64])


def a_disk(seed: int, *, database: bool) -> SimDisk:
    disk = SimDisk(random.Random(seed))
    files = disk.mount()
    for directory in ("/data", "/data/db", "/data/snapshot"):
        files.mkdir(directory)
    if database:
        put(files, PLACE.database, b"the engine's own business")
    else:
        put(files, PLACE.database + "-wal", b"stale frames")
        put(files, PLACE.database + "-shm", b"stale index")
    return disk


def transfer(files: Files, *, local: FakePin | None) -> Plan:
    staging = Staging(files, PLACE, local)
    talk = Talk(staging.request(), NEW, staging.target)
    digest = talk.run()
    staging.close()
    return staging.staged(talk.offer, digest)


def check_new(files: Files, node: FakeNode, *, in_place: bool) -> None:
    assert node.log_end == END and node.config == b"members" and node.lost_kept
    assert files.listdir("/data/snapshot") == []
    if in_place:
        assert [node.units[n] for n in sorted(node.units)] == NEW.units
        assert content(files, PLACE.database) == b"the engine's own business"
    else:
        assert content(files, PLACE.database) == b"".join(NEW.units)
        assert files.listdir("/data/db") == ["main.db"], "stale companions are gone"


@pytest.mark.parametrize("in_place", [False, True])
def test_plan_brings_the_node_to_the_image(in_place: bool) -> None:
    files = a_disk(1, database=in_place).mount()
    node = FakeNode(OLD)
    install(files, PLACE, transfer(files, local=OLD if in_place else None), node)
    check_new(files, node, in_place=in_place)
    assert run_plan(files, PLACE, node) is None


@pytest.mark.parametrize("mode", CRASH_MODES)
@pytest.mark.parametrize("in_place", [False, True])
def test_crash_at_every_disk_operation_ends_old_or_new(in_place: bool, mode: CrashMode) -> None:
    """And once more at every second operation of the recovery: a crash while recovering from a crash."""
    committed = 0
    for seed in range(4):
        for n in range(1, 1000):
            disk, node = a_disk(seed, database=in_place), FakeNode(OLD)
            plan = transfer(disk.mount(), local=OLD if in_place else None)
            disk.crash_at_op(n)
            if crashes_not(disk, mode, lambda files, node=node, plan=plan: install(files, PLACE, plan, node)):
                break
            disk.crash_at_op(1 + n % 7)
            crashes_not(disk, mode, lambda files, node=node: run_plan(files, PLACE, node))
            files = disk.mount()
            run_plan(files, PLACE, node)
            if node.log_end is None:
                assert not node.lost_kept and node.units == FakeNode(OLD).units
                assert files.exists(PLACE.database) == in_place
                continue
            committed += 1
            check_new(files, node, in_place=in_place)
        else:
            raise AssertionError("the enumeration never came to an end")
    assert committed > 10


def crashes_not(disk: SimDisk, mode: CrashMode, work) -> bool:
    try:
        work(disk.mount())
    except PowerCut:
        disk.crash(mode)
        return False
    disk.crash("none")
    return True


class Killed(BaseException):
    pass


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("step", ["custody", "install", "log", "config"])
def test_kill_in_any_action_of_the_node_is_repeated(in_place: bool, step: str) -> None:
    files = a_disk(1, database=in_place).mount()
    kills = [step]

    def before(name: str) -> None:
        if name in kills:
            kills.remove(name)
            raise Killed

    node = FakeNode(OLD, before)
    plan = transfer(files, local=OLD if in_place else None)
    if in_place or step != "install":
        with pytest.raises(Killed):
            install(files, PLACE, plan, node)
        assert run_plan(files, PLACE, node) == plan
    else:
        install(files, PLACE, plan, node)
    check_new(files, node, in_place=in_place)


@pytest.mark.parametrize("mode", CRASH_MODES)
@pytest.mark.parametrize("in_place", [False, True])
def test_crash_at_every_operation_of_a_transfer_is_resumed(in_place: bool, mode: CrashMode) -> None:
    for n in range(1, 100):
        disk, node = a_disk(n, database=in_place), FakeNode(OLD)
        local = OLD if in_place else None
        disk.crash_at_op(n)
        done = crashes_not(disk, mode, lambda files, local=local: transfer(files, local=local))
        files = disk.mount()
        assert run_plan(files, PLACE, node) is None
        install(files, PLACE, transfer(files, local=local), node)
        check_new(files, node, in_place=in_place)
        if done:
            return
    raise AssertionError("the enumeration never came to an end")


def test_database_that_appeared_meanwhile_is_not_replaced() -> None:
    files = a_disk(1, database=False).mount()
    plan = transfer(files, local=None)
    write_plan(files, PLACE, plan)
    put(files, PLACE.database, b"somebody's data")
    with pytest.raises(UsageError, match="appeared"):
        run_plan(files, PLACE, FakeNode(OLD))
    with pytest.raises(UsageError, match="never replaced"):
        install(files, PLACE, plan, FakeNode(OLD))
    assert content(files, PLACE.database) == b"somebody's data"


def test_database_that_changed_under_the_resync_keeps_its_plan_until_a_new_one_succeeds() -> None:
    files = a_disk(1, database=True).mount()
    node = FakeNode(OLD)
    plan = transfer(files, local=OLD)
    node.units[20] = b"foreign!" * 8
    for _ in range(2):
        with pytest.raises(HashMismatch):
            install(files, PLACE, plan, node)
        assert node.log_end is None and read_plan(files, PLACE) == plan
    now = FakePin([node.units[n] for n in sorted(node.units)])
    install(files, PLACE, transfer(files, local=now), node)
    check_new(files, node, in_place=True)


def test_lost_staging_without_a_database_is_corruption() -> None:
    files = a_disk(1, database=False).mount()
    plan = transfer(files, local=None)
    write_plan(files, PLACE, plan)
    files.unlink(PLACE.incoming)
    with pytest.raises(Corruption):
        run_plan(files, PLACE, FakeNode(OLD))


def test_every_flipped_bit_of_a_plan_is_noticed() -> None:
    files = a_disk(1, database=True).mount()
    plan = transfer(files, local=OLD)
    write_plan(files, PLACE, plan)
    whole = content(files, PLACE.plan)
    for at in range(len(whole)):
        put(files, PLACE.plan, whole[:at] + bytes((whole[at] ^ 4,)) + whole[at + 1 :])
        with pytest.raises(Corruption):
            read_plan(files, PLACE)
    put(files, PLACE.plan, whole)
    assert read_plan(files, PLACE) == plan


def test_plan_of_a_newer_version_is_left_for_the_newer_program() -> None:
    import google_crc32c

    files = a_disk(1, database=True).mount()
    body = b'{"version":2,"surprise":true}'
    put(files, PLACE.plan, b'{"crc":%d,"plan":%s}' % (google_crc32c.value(body), body))
    with pytest.raises(UsageError, match="newer"):
        run_plan(files, PLACE, FakeNode(OLD))
    assert files.exists(PLACE.plan)


def test_layout_names_no_absolute_path_in_the_plan() -> None:
    disk = a_disk(1, database=True)
    files = disk.mount()
    write_plan(files, PLACE, transfer(files, local=OLD))
    assert b"/data" not in content(files, PLACE.plan)
    moved = Layout(directory="/data/snapshot", database="/elsewhere/main.db", companions=())
    assert read_plan(files, moved) is not None
