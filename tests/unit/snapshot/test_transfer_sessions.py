"""Sender and receiver against each other, without a network."""

import errno
import random
from pathlib import Path

import msgspec
import pytest
from snapshot_fakes import COMPANIONS, FakePin, Talk, content, layout, put, some_units

from paceline.errors import Corruption, DiskFull, PacelineError, ProtocolError, UsageError
from paceline.files import RealFiles
from paceline.limits import SNAPSHOT_RANGES_INFLIGHT
from paceline.sim.disk import DiskOptions, SimDisk
from paceline.snapshot.backup import BackupFile
from paceline.snapshot.imagefile import ImageFile
from paceline.snapshot.messages import RangeHashes, SnapshotRequest
from paceline.snapshot.staging import Staging
from paceline.snapshot.unitsfile import read_units

FILES = RealFiles()
JOIN = SnapshotRequest(1, "join", None, 0, 0)


def changed(units: list[bytes], *numbers: int) -> list[bytes]:
    return [b"new!" * 16 if n in numbers else unit for n, unit in enumerate(units, 1)]


@pytest.mark.parametrize("count", [0, 1, 1024, 1025, 5000])
def test_empty_receiver_gets_the_whole_image(tmp_path: Path, count: int) -> None:
    pin = FakePin(some_units(count))
    target = ImageFile(FILES, str(tmp_path / "incoming.db"))
    digest = Talk(JOIN, pin, target).run()
    assert digest == pin.digest()
    assert content(FILES, target.path) == b"".join(pin.units)


def test_broken_transfer_sends_only_the_rest_even_of_a_newer_image(tmp_path: Path) -> None:
    old = some_units(5000)
    path = str(tmp_path / "incoming.db")
    first = Talk(JOIN, FakePin(old), ImageFile(FILES, path))
    first.ranges(limit=3)
    newer = FakePin(changed(old, 7, 4000))
    target = ImageFile(FILES, path)
    second = Talk(JOIN, newer, target)
    second.run()
    assert content(FILES, path) == b"".join(newer.units)
    assert second.receiver.units_received == 5000 - 3 * 1024 + 1


def test_smaller_newer_image_leaves_nothing_of_the_larger_one(tmp_path: Path) -> None:
    path = str(tmp_path / "incoming.db")
    Talk(JOIN, FakePin(some_units(3000)), ImageFile(FILES, path)).run()
    small = FakePin(some_units(1500))
    Talk(JOIN, small, ImageFile(FILES, path)).run()
    assert content(FILES, path) == b"".join(small.units)


def test_other_unit_size_in_the_second_try_is_no_matter(tmp_path: Path) -> None:
    path = str(tmp_path / "incoming.db")
    Talk(JOIN, FakePin(some_units(100)), ImageFile(FILES, path)).run()
    other = FakePin(some_units(90, 96, seed=2), 96)
    Talk(JOIN, other, ImageFile(FILES, path)).run()
    assert content(FILES, path) == b"".join(other.units)


def staged_resync(tmp_path: Path, local: FakePin) -> Staging:
    place = layout(str(tmp_path))
    FILES.mkdir(place.database_directory)
    if not FILES.exists(place.database):
        put(FILES, place.database, b"a database")
    return Staging(FILES, place, local)


def test_resync_stages_only_what_differs(tmp_path: Path) -> None:
    old = some_units(3000)
    new = FakePin(changed(old, 2, 1024, 1025, 3000))
    staging = staged_resync(tmp_path, FakePin(old))
    talk = Talk(staging.request(), new, staging.target)
    digest = talk.run()
    staging.close()
    assert digest == new.digest()
    units = dict(read_units(FILES, layout(str(tmp_path)).units, talk.receiver.shape))
    assert units == {n: new.units[n - 1] for n in (2, 1024, 1025, 3000)}


@pytest.mark.parametrize("counts", [(10, 2500), (2500, 10), (10, 0), (0, 10)])
def test_resync_follows_a_database_that_grew_or_shrank(tmp_path: Path, counts: tuple[int, int]) -> None:
    local, new = FakePin(some_units(counts[0])), FakePin(some_units(counts[1]))
    staging = staged_resync(tmp_path, local)
    talk = Talk(staging.request(), new, staging.target)
    assert talk.run() == new.digest()
    assert talk.receiver.units_received == max(0, counts[1] - counts[0])
    staging.close()


def test_resync_across_unit_sizes_sends_everything(tmp_path: Path) -> None:
    new = FakePin(some_units(50, 128, seed=4), 128)
    staging = staged_resync(tmp_path, FakePin(some_units(100)))
    talk = Talk(staging.request(), new, staging.target)
    assert talk.run() == new.digest()
    assert talk.receiver.units_received == 50
    staging.close()


@pytest.mark.parametrize("damage", range(30))
def test_resync_resumes_over_torn_records(tmp_path: Path, damage: int) -> None:
    rng = random.Random(damage)
    local = FakePin(some_units(3000, seed=1))
    staging = staged_resync(tmp_path, local)
    Talk(staging.request(), FakePin(some_units(3000, seed=2)), staging.target).ranges(limit=2)
    staging.close()
    path = layout(str(tmp_path)).units
    file = FILES.open(path)
    for _ in range(rng.randrange(6)):
        file.pwritev([rng.randbytes(rng.randrange(1, 200))], rng.randrange(file.size()))
    file.truncate(rng.randrange(file.size()))
    file.close()
    new = FakePin(changed(some_units(rng.choice([900, 2100, 3100]), seed=2), 1, 500))
    staging = staged_resync(tmp_path, local)
    talk = Talk(staging.request(), new, staging.target)
    assert talk.run() == new.digest()
    staging.close()
    image = dict(enumerate(local.units, 1))
    image.update(read_units(FILES, path, talk.receiver.shape))
    assert [image[n] for n in range(1, new.unit_count + 1)] == new.units


def test_staged_file_with_a_flipped_byte_is_never_installed(tmp_path: Path) -> None:
    staging = staged_resync(tmp_path, FakePin(some_units(10, seed=1)))
    talk = Talk(staging.request(), FakePin(some_units(10, seed=2)), staging.target)
    talk.run()
    staging.close()
    path = layout(str(tmp_path)).units
    whole = content(FILES, path)
    for at in (0, 5, 13, 17, 25, 40, len(whole) - 1):
        put(FILES, path, whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :])
        with pytest.raises(Corruption):
            list(read_units(FILES, path, talk.receiver.shape))


def test_wrong_unit_fails_the_digest_and_the_next_try_repairs_it(tmp_path: Path) -> None:
    from paceline.snapshot.delta import encode_units

    pin = FakePin(some_units(2000))
    path = str(tmp_path / "incoming.db")
    talk = Talk(JOIN, pin, ImageFile(FILES, path))

    def spoil(units):  # a sender whose memory is bad: a well-formed answer with one wrong unit
        if units.first != 1:
            return units
        which, blob = encode_units(changed(pin.units[:1024], 5), b"", bytes(16 * 1024))
        return msgspec.structs.replace(units, which=which, blob=blob)

    talk.change = spoil
    with pytest.raises(Corruption, match="digest"):
        talk.run()
    again = Talk(JOIN, pin, ImageFile(FILES, path))
    assert again.run() == pin.digest()
    assert again.receiver.units_received == 1


def test_disk_that_rots_under_the_transfer_is_noticed_at_the_end(tmp_path: Path) -> None:
    path = str(tmp_path / "incoming.db")
    talk = Talk(JOIN, FakePin(some_units(100)), ImageFile(FILES, path))
    talk.ranges()
    file = FILES.open(path)
    file.pwritev([b"rot"], 777)
    file.close()
    with pytest.raises(Corruption):
        talk.finish()


def test_questions_in_flight_are_bounded(tmp_path: Path) -> None:
    talk = Talk(JOIN, FakePin(some_units(20_000, 4)[:], 4), ImageFile(FILES, str(tmp_path / "i")))
    asked = 0
    while talk.receiver.may_ask:
        talk.receiver.ask()
        asked += 1
    assert asked == SNAPSHOT_RANGES_INFLIGHT


def test_full_disk_is_known_before_the_transfer_and_during_it() -> None:
    disk = SimDisk(random.Random(1), options=DiskOptions(quota_bytes=10_000))
    files = disk.mount()
    files.mkdir("/d")
    with pytest.raises(DiskFull):
        Talk(JOIN, FakePin(some_units(1000)), ImageFile(files, "/d/incoming.db"))


def test_units_not_asked_for_are_refused(tmp_path: Path) -> None:
    talk = Talk(JOIN, FakePin(some_units(3000)), ImageFile(FILES, str(tmp_path / "i")))
    answer = talk.sender.answer(talk.receiver.ask())
    talk.receiver.take(answer)
    with pytest.raises(ProtocolError):
        talk.receiver.take(answer)


@pytest.mark.parametrize(
    "change",
    [{"version": 9}, {"position": "here"}, {"unit_bytes": 0}, {"unit_count": -1}, {"unit_bytes": 2**40}],
)
def test_impossible_offer_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    from paceline.snapshot.receiver import ReceivingSession

    offer = Talk(JOIN, FakePin([]), ImageFile(FILES, str(tmp_path / "i"))).offer
    with pytest.raises(PacelineError):
        ReceivingSession(msgspec.structs.replace(offer, **change), ImageFile(FILES, str(tmp_path / "i")))


def test_backup_overwrites_nothing_and_needs_no_stale_wal(tmp_path: Path) -> None:
    for name in ("b.db", "b.db-wal"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(UsageError):
            BackupFile(FILES, str(tmp_path / "b.db"), companions=COMPANIONS)
        (tmp_path / name).unlink()


def test_backup_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    pin = FakePin(some_units(2000))
    file = BackupFile(FILES, str(tmp_path / "b.db"), companions=COMPANIONS)
    talk = Talk(file.request(), pin, file.target)
    talk.run()
    assert [p.name for p in tmp_path.iterdir()] == ["b.db.partial"]
    file.publish()
    assert [p.name for p in tmp_path.iterdir()] == ["b.db"]
    assert (tmp_path / "b.db").read_bytes() == b"".join(pin.units)


def test_staging_never_replaces_a_database(tmp_path: Path) -> None:
    place = layout(str(tmp_path))
    FILES.mkdir(place.database_directory)
    put(FILES, place.database, b"a database")
    with pytest.raises(UsageError):
        Staging(FILES, place, None)


@pytest.mark.parametrize("asked", [(1025, 1024), (1, 1023), (1, 0), (0, 1024)])
def test_sender_refuses_any_range_but_the_next(tmp_path: Path, asked: tuple[int, int]) -> None:
    talk = Talk(JOIN, FakePin(some_units(3000)), ImageFile(FILES, str(tmp_path / "i")))
    with pytest.raises(ProtocolError):
        talk.sender.answer(RangeHashes(*asked, b""))


def test_failed_sync_discards_what_was_staged() -> None:
    disk = SimDisk(random.Random(1))
    files = disk.mount()
    files.mkdir("/d")
    talk = Talk(JOIN, FakePin(some_units(100)), ImageFile(files, "/d/incoming.db"))
    talk.ranges()
    disk.fail("sync", errno.EIO)
    with pytest.raises(OSError):
        talk.finish()
    assert not files.exists("/d/incoming.db")


@pytest.mark.parametrize("size", [1, 15, 16 * 1023, 16 * 1025])
def test_sender_refuses_hashes_that_do_not_cover_the_range(tmp_path: Path, size: int) -> None:
    talk = Talk(JOIN, FakePin(some_units(3000)), ImageFile(FILES, str(tmp_path / "i")))
    with pytest.raises(ProtocolError):
        talk.sender.answer(RangeHashes(1, 1024, bytes(size)))


def test_unit_staged_twice_is_installed_once_and_right(tmp_path: Path) -> None:
    """A lost overwrite of a reused slot can bring back an older record of a unit that has a newer one."""
    local, new = FakePin(some_units(10, seed=1)), FakePin(some_units(10, seed=2))
    staging = staged_resync(tmp_path, local)
    Talk(staging.request(), FakePin(some_units(10, seed=3)), staging.target).run()
    staging.close()
    path = layout(str(tmp_path)).units
    whole = content(FILES, path)
    record = 12 + 64
    put(FILES, path, whole[: 16 + record] + whole[16 : 16 + record] + whole[16 + 2 * record :])
    staging = staged_resync(tmp_path, local)
    talk = Talk(staging.request(), new, staging.target)
    talk.run()
    staging.close()
    units = list(read_units(FILES, path, talk.receiver.shape))
    assert sorted(units) == list(enumerate(new.units, 1))
