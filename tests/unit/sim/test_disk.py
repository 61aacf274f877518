"""The simulated disk forgets what a real one may forget, and nothing else."""

from __future__ import annotations

import errno
import random

import pytest

from paceline.files import write_atomic
from paceline.sim.disk import CRASH_MODES, CrashMode, DiskOptions, PowerCut, SimDisk

A = "/d/a"


def disk_with(content: bytes = b"", seed: int = 0) -> SimDisk:
    disk = SimDisk(random.Random(seed))
    disk.mkdir("/d")
    disk.write_file(A, content)
    return disk


def after(mode: CrashMode, change: str, seeds: int = 60) -> set[bytes | None]:
    """Every content of A that a crash was seen to leave after ``change``."""
    found: set[bytes | None] = set()
    for seed in range(seeds):
        disk = disk_with(b"old", seed)
        file = disk.open(A)
        exec(change, {"file": file, "disk": disk})
        disk.crash(mode)
        found.add(disk.read_file(A) if disk.exists(A) else None)
    return found


def test_synced_data_survives_every_crash() -> None:
    for mode in CRASH_MODES:
        assert after(mode, "file.pwritev([b'n', b'ew!'], 0); file.sync()") == {b"new!"}


def test_unsynced_data_is_visible_and_may_be_lost() -> None:
    disk = disk_with(b"old")
    disk.open(A).pwritev([b"new"], 0)
    assert disk.open(A).pread(10, 0) == b"new"
    assert after("none", "file.pwritev([b'new'], 0)") == {b"old"}
    assert after("all", "file.pwritev([b'new'], 0)") == {b"new"}
    assert after("prefix", "file.pwritev([b'new'], 0)") == {b"old", b"new"}
    assert after("subset", "file.pwritev([b'new'], 0)") == {b"old", b"new"}


def test_prefix_never_reorders_and_subset_does() -> None:
    two = "file.pwritev([b'A'], 0); file.pwritev([b'B'], 2)"
    assert after("prefix", two) == {b"old", b"Ald", b"AlB"}
    assert after("subset", two) == {b"old", b"Ald", b"AlB", b"olB"}


def test_write_is_torn_at_sectors_and_its_size_may_come_without_its_data() -> None:
    grown = "file.pwritev([b'x' * 1024], 512)"
    first, second, base = b"x" * 512, b"x" * 512, b"old" + bytes(509)
    seen = after("subset", grown, 400)
    assert seen == {
        b"old",
        base + first + second,
        base + first,
        base + bytes(1024),
        base + bytes(512) + second,
        base + first + bytes(512),
    }
    assert base + bytes(512) + second not in after("prefix", grown, 400)


def test_truncation_may_be_undone_until_it_is_synced() -> None:
    assert after("subset", "file.truncate(1)") == {b"old", b"o"}
    assert after("subset", "file.truncate(1); file.sync()") == {b"o"}


def test_name_is_durable_only_after_its_directory_was_synced() -> None:
    def survives(sync: bool) -> set[bool]:
        found = set()
        for seed in range(40):
            disk = disk_with(seed=seed)
            file = disk.open("/d/new", create=True)
            file.sync()
            if sync:
                disk.sync_dir("/d")
            disk.crash("subset")
            found.add(disk.exists("/d/new"))
        return found

    assert survives(sync=False) == {True, False}
    assert survives(sync=True) == {True}


def test_unlink_and_rename_may_be_undone_until_the_directory_is_synced() -> None:
    assert after("subset", "disk.unlink('/d/a')") == {None, b"old"}
    assert after("subset", "disk.unlink('/d/a'); disk.sync_dir('/d')") == {None}
    assert after("subset", "disk.rename('/d/a', '/d/b')") == {None, b"old"}
    moved = "disk.rename('/d/a', '/d/b'); disk.sync_dir('/d')"
    assert after("none", moved) == {None}


def test_atomic_write_leaves_the_old_or_the_new_file_at_every_crash_point() -> None:
    seen = set()
    for n in range(1, 20):
        for mode in CRASH_MODES:
            for seed in range(5):
                disk = disk_with(b"old", seed)
                disk.crash_at_op(n)
                try:
                    write_atomic(disk, A, b"new" * 300)
                    done = True
                except PowerCut:
                    done = False
                disk.crash(mode)
                seen.add((disk.read_file(A), done))
    assert seen == {(b"old", False), (b"new" * 300, False), (b"new" * 300, True)}


def test_failed_sync_drops_its_data_and_the_next_one_succeeds() -> None:
    disk = disk_with(b"old")
    file = disk.open(A)
    file.pwritev([b"new"], 0)
    disk.fail("sync", errno.EIO, suffix="a")
    with pytest.raises(OSError, match="Input/output"):
        file.sync()
    file.sync()
    assert file.pread(3, 0) == b"new"
    disk.crash("all")
    assert disk.read_file(A) == b"old"


def test_quota_stops_a_write_in_the_middle() -> None:
    disk = disk_with(b"old")
    disk.options = DiskOptions(quota_bytes=10)
    assert disk.free_bytes("/d") == 7
    with pytest.raises(OSError) as caught:
        disk.open(A).pwritev([b"x" * 20], 3)
    assert caught.value.errno == errno.ENOSPC
    assert disk.read_file(A) == b"old" + b"x" * 7
    disk.open(A).pwritev([b"y" * 10], 0)  # overwriting needs no space


def test_rot_is_lasting_and_a_flipped_read_is_not() -> None:
    disk = disk_with(b"old")
    disk.fail("read", None)
    file = disk.open(A)
    assert file.pread(3, 0) != b"old"
    assert file.pread(3, 0) == b"old"
    disk.flip_bit(A, 1, 0)
    disk.crash("none")
    assert disk.read_file(A) == b"omd"


def test_fault_may_wait_for_its_turn_and_its_file() -> None:
    disk = disk_with(b"old")
    disk.fail("write", errno.EIO, suffix="/a", skip=1)
    disk.open("/d/other", create=True).pwritev([b"x"], 0)
    file = disk.open(A)
    file.pwritev([b"1"], 0)
    with pytest.raises(OSError, match="Input/output"):
        file.pwritev([b"2"], 0)
    file.pwritev([b"3"], 0)


def test_everything_of_an_earlier_boot_is_dead() -> None:
    disk = disk_with(b"old")
    mount, file = disk.mount(), disk.open(A)
    disk.kill()
    for use in (
        lambda: file.pread(1, 0),
        lambda: file.pwritev([b"x"], 0),
        lambda: file.truncate(0),
        file.sync,
        file.size,
        lambda: mount.open(A),
        lambda: mount.unlink(A),
        lambda: mount.listdir("/d"),
    ):
        with pytest.raises(PowerCut):
            use()
    file.close()
    assert disk.mount().open(A).pread(3, 0) == b"old"


def test_nothing_works_between_the_power_cut_and_the_next_boot() -> None:
    disk = disk_with(b"old")
    file = disk.open(A)
    disk.crash_at_op(2)
    file.pwritev([b"1"], 0)
    with pytest.raises(PowerCut):
        file.pwritev([b"2"], 1)
    for use in (file.sync, lambda: file.pread(1, 0), lambda: disk.open(A), lambda: disk.exists(A)):
        with pytest.raises(PowerCut):
            use()
    disk.crash("all")
    assert disk.read_file(A) == b"12d"


def test_kill_loses_nothing_visible_and_makes_nothing_durable() -> None:
    disk = disk_with(b"old")
    disk.open(A).pwritev([b"new"], 0)
    disk.kill()
    assert disk.read_file(A) == b"new"
    disk.crash("none")
    assert disk.read_file(A) == b"old"


def test_snapshot_has_its_own_future() -> None:
    disk = disk_with(b"old")
    disk.open(A).pwritev([b"new"], 0)
    disk.open("/d/b", create=True)
    twin = disk.snapshot(random.Random(1))
    twin.crash("none")
    assert (twin.read_file(A), twin.listdir("/d")) == (b"old", ["a"])
    assert (disk.read_file(A), disk.listdir("/d")) == (b"new", ["a", "b"])
    disk.sync_dir("/d")
    disk.crash("all")
    assert (disk.read_file(A), disk.listdir("/d")) == (b"new", ["a", "b"])


def test_equal_seeds_crash_equally() -> None:
    def run() -> bytes:
        disk = disk_with(b"old", seed=7)
        for n in range(20):
            disk.open(A).pwritev([bytes([n]) * 700], n * 300)
        disk.crash("subset")
        return disk.read_file(A)

    assert run() == run()


def test_missing_names_raise_as_the_system_does() -> None:
    disk = disk_with()
    for use in (
        lambda: disk.open("/d/x"),
        lambda: disk.unlink("/d/x"),
        lambda: disk.rename("/d/x", "/d/y"),
        lambda: disk.listdir("/x"),
        lambda: disk.open("/x/y", create=True),
        lambda: disk.sync_dir("/x"),
    ):
        with pytest.raises(FileNotFoundError):
            use()
