"""The page body is a value: encode and decode are inverse, hostile bytes are refused, merging checks hashes."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from paceline.core.entry import EntryFlags
from paceline.engines.sqlite.formats.page import PageDelta, decode, encode, merge
from paceline.engines.sqlite.pagesource import page_hash
from paceline.errors import BadEntry, HashMismatch

SIZE = 512


def image(seed: int) -> bytes:
    return bytes((seed * 7 + at) & 0xFF for at in range(SIZE))


def delta(
    changes: dict[int, tuple[bytes | None, bytes | None]], before: int, after: int, last: bool = True
) -> PageDelta:
    """From images: page -> (before, after), None where the page is absent."""
    pages = sorted(changes)
    pairs = [changes[page] for page in pages]
    zero = bytes(SIZE)
    xor = [bytes(a ^ b for a, b in zip(old or zero, new or zero, strict=True)) for old, new in pairs]
    return PageDelta(
        page_size=SIZE,
        page_count_before=before,
        page_count_after=after,
        pages=np.array(pages, np.uint32),
        before=np.array([page_hash(old) if old else 0 for old, _ in pairs], np.uint64),
        after=np.array([page_hash(new) if new else 0 for _, new in pairs], np.uint64),
        xor=np.frombuffer(b"".join(xor), np.uint8).reshape(len(pages), SIZE),
        last=last,
    )


def same(left: PageDelta, right: PageDelta) -> bool:
    return (
        (left.page_size, left.page_count_before, left.page_count_after, left.last)
        == (right.page_size, right.page_count_before, right.page_count_after, right.last)
        and left.pages.tolist() == right.pages.tolist()
        and left.before.tolist() == right.before.tolist()
        and left.after.tolist() == right.after.tolist()
        and left.xor.tobytes() == right.xor.tobytes()
    )


GROWTH = delta({2: (image(1), image(2)), 4: (None, image(3)), 5: (None, image(4))}, 3, 5)
SHRINK = delta({1: (image(0), image(9)), 3: (image(3), None)}, 3, 2)


@pytest.mark.parametrize("made", [GROWTH, SHRINK])
@pytest.mark.parametrize("requests", [b"", b"r", b"list of requests" * 9])
def test_decode_takes_back_encode(made: PageDelta, requests: bytes) -> None:
    body, flags = encode(made, requests)
    opened = decode(body, flags)
    assert same(opened, made)
    assert bytes(opened.requests) == requests
    inside = decode(memoryview(b"x" * 56 + body)[56:], flags)
    assert same(inside, made)


def test_body_that_does_not_shrink_stays_raw() -> None:
    noise = np.random.default_rng(1).bytes(SIZE)
    body, flags = encode(delta({1: (image(1), noise)}, 1, 1))
    assert flags is EntryFlags.NONE
    packed, flags = encode(delta({1: (image(1), image(1)[:-1] + b"x")}, 1, 1))
    assert flags is EntryFlags.ZSTD and len(packed) < 80 < len(body)


@given(st.data())
def test_damaged_body_is_refused_or_decodes_to_something_checked(data: st.DataObject) -> None:
    body, _ = encode(data.draw(st.sampled_from([GROWTH, SHRINK])), b"list")
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)))
    for candidate in (bytes(damaged), body[:cut], body + b"\0"):
        for flag in EntryFlags.NONE, EntryFlags.ZSTD:
            try:
                opened = decode(candidate, flag)
            except BadEntry:
                continue
            assert opened.xor.shape == (len(opened), opened.page_size)


def raw_of(made: PageDelta) -> bytearray:
    body, flags = encode(made)
    return bytearray(zstandard.decompress(body) if flags else body)


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (0, b"\x02", "version"),
        (1, b"\x02", "version"),
        (4, struct.pack("<I", 1000), "page size"),
        (4, struct.pack("<I", 256), "page size"),
        (12, struct.pack("<I", 0), "without pages"),
        (16, struct.pack("<I", 2**32 - 1), "does not hold"),
        (20, struct.pack("<I", 2**32 - 1), "does not hold"),
        (24, bytes(8), "contradict"),
        (24 + 48, struct.pack("<III", 2, 2, 5), "rise"),
        (24 + 48, struct.pack("<I", 0), "names pages"),
        (24 + 48 + 8, struct.pack("<I", 6), "names pages"),
    ],
)
def test_each_wrong_field_is_named(offset: int, value: bytes, reason: str) -> None:
    raw = raw_of(GROWTH)
    raw[offset : offset + len(value)] = value
    with pytest.raises(BadEntry, match=reason):
        decode(bytes(raw), EntryFlags.NONE)


def test_lock_page_in_a_body_is_refused() -> None:
    lock = (1 << 30) // SIZE + 1
    made = delta({lock: (image(1), image(2))}, lock + 1, lock + 1)
    with pytest.raises(BadEntry, match="lock page"):
        decode(*encode(made))


def test_decompression_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(64 * 1024 * 1024))
    assert len(bomb) < 10_000
    with pytest.raises(BadEntry, match="claims"):
        decode(bomb, EntryFlags.ZSTD)
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64 * 1024 * 1024))
    with pytest.raises(BadEntry, match="claims"):
        decode(unsized, EntryFlags.ZSTD)


def test_merged_deltas_equal_the_whole_change() -> None:
    one = delta({1: (image(1), image(2)), 2: (image(3), image(4))}, 2, 2)
    two = delta({1: (image(2), image(5)), 3: (None, image(6))}, 2, 3)
    three = delta({1: (image(5), image(7)), 3: (image(6), None)}, 3, 2)
    four = delta({1: (image(7), image(8)), 3: (None, image(9))}, 2, 3)
    expected = delta({1: (image(1), image(8)), 2: (image(3), image(4)), 3: (None, image(9))}, 2, 3)
    assert same(merge([one, two, three, four]), expected)
    assert same(merge([one]), one)


def test_merge_refuses_deltas_that_do_not_follow() -> None:
    one = delta({1: (image(1), image(2))}, 1, 1)
    with pytest.raises(HashMismatch, match="page 1"):
        merge([one, delta({1: (image(3), image(4))}, 1, 1)])
    with pytest.raises(HashMismatch, match="pages"):
        merge([one, delta({1: (image(2), image(4))}, 2, 2)])


def test_parts_of_one_transaction_have_its_sizes() -> None:
    one = delta({1: (image(1), image(2))}, 1, 3, last=False)
    two = delta({2: (None, image(4)), 3: (None, image(5))}, 1, 3)
    whole = merge([one, two])
    assert (whole.page_count_before, whole.page_count_after, whole.last) == (1, 3, True)
    with pytest.raises(HashMismatch):
        merge([one, delta({2: (None, image(4))}, 1, 2)])
    with pytest.raises(AssertionError):
        encode(one, b"requests in a part that is not the last")
