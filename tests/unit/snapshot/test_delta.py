import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from snapshot_fakes import some_units

from paceline.engines.base import unit_hash
from paceline.errors import HashMismatch, ProtocolError
from paceline.snapshot.delta import decode_units, encode_units


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_exactly_the_differing_units_travel(differs: list[bool]) -> None:
    mine = some_units(len(differs), seed=1)
    theirs = [b"?" * 64 if d else unit for d, unit in zip(differs, mine, strict=True)]
    which, blob = encode_units(mine, b"".join(map(unit_hash, mine)), b"".join(map(unit_hash, theirs)))
    units = decode_units(11, len(differs), 64, which, blob)
    assert units == [(11 + n, mine[n]) for n, d in enumerate(differs) if d]


def test_without_hashes_every_unit_travels() -> None:
    mine = some_units(9)
    which, blob = encode_units(mine, b"".join(map(unit_hash, mine)), b"")
    assert decode_units(1, 9, 64, which, blob) == list(enumerate(mine, 1))


def test_bitmap_that_does_not_fit_its_range_is_refused() -> None:
    which, blob = encode_units(some_units(3), bytes(48), b"")
    for bad in (which + b"\0", b"", b"\xff", b"\0", b"\xc0"):
        with pytest.raises(ProtocolError):
            decode_units(1, 3, 64, bad, blob)


def test_claimed_size_is_checked_before_anything_is_allocated() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(50_000_000))
    with pytest.raises(ProtocolError):
        decode_units(1, 3, 64, b"\xe0", bomb)


def test_any_flipped_byte_of_the_blob_is_noticed() -> None:
    which, blob = encode_units(some_units(3), bytes(48), b"")
    for at in range(len(blob)):
        bad = bytearray(blob)
        bad[at] ^= 0x10
        try:
            units = decode_units(1, 3, 64, which, bytes(bad))
        except (HashMismatch, ProtocolError):
            continue
        assert units == list(enumerate(some_units(3), 1)), f"byte {at}"
