from __future__ import annotations

import os
import struct

import apsw
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.engines.sqlite.walformat import (
    IndexHeader,
    block_of,
    checksum,
    checksum_frames,
    first_frame_of,
    lock_page,
    wal_header,
    wal_header_salts,
)


@pytest.mark.parametrize("page_size", [512, 1024, 4096, 65536])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_checksum_of_a_batch_equals_the_plain_loop(page_size: int, big_endian: bool, count: int) -> None:
    raw = bytes(24 + page_size) and os.urandom(count * (24 + page_size))
    frames = np.frombuffer(raw, dtype="<u4").reshape(count, -1)
    state = (0xFFFFFFFF, 0xFFFFFFFE)
    expected = []
    for at in range(0, len(raw), 24 + page_size):
        state = checksum(raw[at : at + 8], state, big_endian=big_endian)
        state = checksum(raw[at + 24 : at + 24 + page_size], state, big_endian=big_endian)
        expected.append(state)
    assert checksum_frames(frames, page_size, (0xFFFFFFFF, 0xFFFFFFFE), big_endian=big_endian) == expected


def test_checksum_wraps_at_32_bits() -> None:
    frames = np.full((3, 6 + 128), 0xFFFFFFFF, dtype=np.uint32)
    state = (1, 2)
    for _ in range(3):
        state = checksum(b"\xff" * 8, state)
        state = checksum(b"\xff" * 512, state)
    assert checksum_frames(frames, 512, (1, 2), big_endian=False)[-1] == state


@given(
    st.integers(0, 2**32 - 1),
    st.booleans(),
    st.sampled_from([512 << shift for shift in range(8)]),
    st.integers(0, 2**32 - 1),
    st.binary(min_size=8, max_size=8),
)
def test_index_header_survives_its_encoding(
    change: int, big: bool, page_size: int, frames: int, salts: bytes
) -> None:
    header = IndexHeader(
        change=change,
        big_endian=big,
        page_size=page_size,
        frames=frames,
        page_count=frames ^ 5,
        checksum=(change, frames),
        salts=salts,
    )
    raw = header.encode()
    assert len(raw) == 48
    assert IndexHeader.decode(raw) == header
    assert IndexHeader.decode(raw[:16] + bytes((raw[16] ^ 1,)) + raw[17:]) is None


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_headers_are_the_ones_that_sqlite_writes(tmp_path: object, page_size: int) -> None:
    path = f"{tmp_path}/a.db"
    connection = apsw.Connection(path)
    connection.pragma("page_size", page_size)
    connection.pragma("journal_mode", "wal")
    connection.execute("CREATE TABLE t(x); INSERT INTO t VALUES (1)")
    with open(path + "-wal", "rb") as file:
        raw = file.read(32)
    with open(path + "-shm", "rb") as file:
        shm = file.read(96)
    salts = wal_header_salts(raw)
    assert salts == raw[16:24]
    ours, _ = wal_header(page_size, struct.unpack(">I", raw[12:16])[0], salts)
    assert ours == raw
    header = IndexHeader.decode(shm[:48])
    assert header is not None and header.encode() == shm[:48] == shm[48:]
    assert header.page_size == page_size and header.salts == salts
    connection.close()


def test_damaged_log_header_is_not_taken() -> None:
    raw, _ = wal_header(4096, 1, b"saltsalt")
    assert wal_header_salts(raw) == b"saltsalt"
    for at in (0, 5, 9, 17, 25, 31):
        assert wal_header_salts(raw[:at] + bytes((raw[at] ^ 0x10,)) + raw[at + 1 :]) is None
    assert wal_header_salts(raw[:31]) is None


def test_blocks_begin_at_sqlites_frames() -> None:
    assert [block_of(frame) for frame in (1, 4062, 4063, 8158, 8159)] == [0, 0, 1, 1, 2]
    assert [first_frame_of(block) for block in (0, 1, 2)] == [1, 4063, 8159]


def test_lock_page_is_the_one_at_one_gibibyte() -> None:
    assert lock_page(4096) == 262145
    assert lock_page(65536) == 16385
