"""Which units of a range differ, and their encoding: the bitmap and the zstd blob of ``RangeUnits``.

Decoding trusts nothing: sizes are checked before anything is allocated, and
the frame's own checksum is verified.  Both functions are plain CPU work for a
worker thread; compressor and decompressor are made per call (microseconds
beside megabytes) because they must not be shared between threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import zstandard

from paceline.engines.base import UNIT_HASH_BYTES
from paceline.errors import HashMismatch, ProtocolError

__all__ = ["decode_units", "encode_units"]

_LEVEL: Final = 1


def encode_units(units: Sequence[bytes], mine: bytes, theirs: bytes) -> tuple[bytes, bytes]:
    """``(which, blob)``: the units whose hash in ``mine`` differs from ``theirs`` (empty: all of them)."""
    if mine == theirs:
        return b"", b""
    count = len(units)
    chosen: Sequence[bytes] = units
    bits = (1 << count) - 1
    if theirs:
        size = UNIT_HASH_BYTES
        differing = [
            n for n in range(count) if mine[n * size : n * size + size] != theirs[n * size : n * size + size]
        ]
        chosen = [units[n] for n in differing]
        bits = sum(1 << (count - 1 - n) for n in differing)
    padding = -count % 8
    which = (bits << padding).to_bytes((count + padding) // 8, "big")
    blob = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compress(b"".join(chosen))
    return which, blob


def decode_units(
    first: int, count: int, unit_bytes: int, which: bytes, blob: bytes
) -> list[tuple[int, bytes]]:
    """The (number, unit) pairs of a ``RangeUnits``; raises ``ProtocolError`` or ``HashMismatch``."""
    if not which and not blob:
        return []
    padding = -count % 8
    bits = int.from_bytes(which, "big")
    if len(which) != (count + padding) // 8 or bits & ((1 << padding) - 1) or not bits:
        raise ProtocolError(f"the bitmap of units {first}.. does not fit its range of {count}")
    bits >>= padding
    size = bits.bit_count() * unit_bytes
    try:
        # The size in the header is what the decompressor allocates: check it first.
        if zstandard.frame_content_size(blob) != size:
            raise ProtocolError(f"units {first}.. do not have the {size} bytes that their bitmap says")
        raw = zstandard.ZstdDecompressor().decompress(blob)
    except zstandard.ZstdError as error:
        raise HashMismatch(
            f"units {first}.. arrived damaged: {error}", hint="the transfer may be repeated"
        ) from None
    units: list[tuple[int, bytes]] = []
    offset = 0
    for n in range(count):
        if bits >> (count - 1 - n) & 1:
            units.append((first + n, raw[offset : offset + unit_bytes]))
            offset += unit_bytes
    return units
