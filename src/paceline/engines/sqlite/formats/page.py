"""The ``page`` body: which pages a transaction changed, as checked XOR deltas.

For each page: its number, the hash before, the hash after, and the XOR of both
images.  XOR makes one body serve both ways (apply and undo) and compresses to
almost nothing where little changed.  Columns rather than rows: NumPy reads a
column without a copy, and zeros lie together for the compressor.

A page that the transaction adds has hash before 0 and the zero image before; a
page that it drops (VACUUM) has hash after 0 and the zero image after, so its
content is in the body and undo can bring it back.  docs/formats/page.md has the
bytes; the numbers are little endian because whole columns are used in place.

Nothing here reads a database: a body is a value.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import zstandard

from paceline.core.entry import EntryFlags
from paceline.errors import BadEntry, HashMismatch
from paceline.limits import PAGE_BODY_RAW_BYTES_MAX

__all__ = ["PageDelta", "decode", "encode", "merge"]

BODY_VERSION: Final = 1
_LAST: Final = 1
_HEADER: Final = struct.Struct("<BBHIIIII")
"""version, flags, zero, page size, pages before, pages after, changed pages, bytes of requests"""
_LOCK_BYTE: Final = 1 << 30
_FEW: Final = 32
_RAW_BELOW: Final = 64
"""Smaller bodies are not worth a compressor's frame."""

U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
U8 = npt.NDArray[np.uint8]

assert _HEADER.size == 24


@dataclass(frozen=True, slots=True, kw_only=True)
class PageDelta:
    """Changed pages of one transaction, of one part of it, or of several transactions merged.

    ``pages``: page numbers, strictly rising, shape (n,).  ``before``/``after``: hashes, shape (n,).
    ``xor``: shape (n, page_size).  ``page_count_before``/``_after``: size of the database around the *whole*
    transaction, equal in all its parts.  ``last``: this part completes its transaction.
    ``requests``: opaque bytes that travel in the last part.
    """

    page_size: int
    page_count_before: int
    page_count_after: int
    pages: U32
    before: U64
    after: U64
    xor: U8
    last: bool = True
    requests: bytes | memoryview = b""

    def __len__(self) -> int:
        return len(self.pages)

    def inverted(self, *, last: bool) -> PageDelta:
        """The delta that takes this one back; ``last``: it is the one that completes the way back."""
        return PageDelta(
            page_size=self.page_size,
            page_count_before=self.page_count_after,
            page_count_after=self.page_count_before,
            pages=self.pages,
            before=self.after,
            after=self.before,
            xor=self.xor,
            last=last,
        )


_local = threading.local()


def _compressor() -> zstandard.ZstdCompressor:
    compressor: zstandard.ZstdCompressor | None = getattr(_local, "compressor", None)
    if compressor is None:
        compressor = _local.compressor = zstandard.ZstdCompressor(level=1)
    return compressor


def _decompressor() -> zstandard.ZstdDecompressor:
    decompressor: zstandard.ZstdDecompressor | None = getattr(_local, "decompressor", None)
    if decompressor is None:
        decompressor = _local.decompressor = zstandard.ZstdDecompressor()
    return decompressor


def encode(delta: PageDelta, requests: bytes = b"") -> tuple[bytes, EntryFlags]:
    """The body and the flag that says whether it is compressed."""
    count = len(delta.pages)
    assert delta.xor.shape == (count, delta.page_size)
    assert delta.last or not requests, "requests travel in the last part"
    raw = b"".join(
        (
            _HEADER.pack(
                BODY_VERSION,
                _LAST if delta.last else 0,
                0,
                delta.page_size,
                delta.page_count_before,
                delta.page_count_after,
                count,
                len(requests),
            ),
            delta.before.tobytes(),
            delta.after.tobytes(),
            delta.pages.tobytes(),
            bytes(4 * (count & 1)),
            np.ascontiguousarray(delta.xor).data,
            requests,
        )
    )
    assert len(raw) <= PAGE_BODY_RAW_BYTES_MAX, "split before encoding"
    if len(raw) >= _RAW_BELOW:
        packed = _compressor().compress(raw)
        if len(packed) < len(raw):
            return packed, EntryFlags.ZSTD
    return raw, EntryFlags.NONE


def decode(body: bytes | memoryview, flags: EntryFlags) -> PageDelta:
    """Check and open a body; the arrays are views of it.  Raises :class:`BadEntry`."""
    raw = _inflate(body) if flags & EntryFlags.ZSTD else body
    if len(raw) < _HEADER.size:
        raise BadEntry("page body is shorter than its header")
    version, marks, zero, page_size, size_before, size_after, count, requests = _HEADER.unpack_from(raw)
    if version != BODY_VERSION or zero or marks & ~_LAST:
        raise BadEntry(
            f"page body version {version} is not known here",
            hint="a newer Paceline wrote it; upgrade this node",
        )
    if not 512 <= page_size <= 65536 or page_size & (page_size - 1):
        raise BadEntry(f"page body has page size {page_size}")
    hashes_at = _HEADER.size
    pages_at = hashes_at + 16 * count
    xor_at = pages_at + 4 * (count + (count & 1))
    requests_at = xor_at + count * page_size
    if requests_at + requests != len(raw):
        raise BadEntry(f"page body of {len(raw)} bytes does not hold {count} pages of {page_size}")
    hashes = np.frombuffer(raw, np.uint64, 2 * count, hashes_at)
    delta = PageDelta(
        page_size=page_size,
        page_count_before=size_before,
        page_count_after=size_after,
        pages=np.frombuffer(raw, np.uint32, count, pages_at),
        before=hashes[:count],
        after=hashes[count:],
        xor=np.frombuffer(raw, np.uint8, count * page_size, xor_at).reshape(count, page_size),
        last=bool(marks & _LAST),
        requests=memoryview(raw)[requests_at:],
    )
    _check_pages(delta)
    return delta


def _inflate(body: bytes | memoryview) -> bytes:
    """Decompress within the limit; the size is looked at before anything is allocated."""
    try:
        size = zstandard.frame_content_size(body)
        if not 0 < size <= PAGE_BODY_RAW_BYTES_MAX:
            raise BadEntry(f"page body claims {size} bytes, at most {PAGE_BODY_RAW_BYTES_MAX} are allowed")
        raw = _decompressor().decompress(body, max_output_size=PAGE_BODY_RAW_BYTES_MAX)
    except zstandard.ZstdError as error:
        raise BadEntry(f"page body does not decompress: {error}") from None
    if len(raw) != size:
        raise BadEntry(f"page body of {len(raw)} bytes claimed {size}")
    return raw


def _is_sound(delta: PageDelta) -> bool:
    """The rules of ``_check_pages`` for a few pages, where arrays cost more than a loop."""
    size_before, size_after = delta.page_count_before, delta.page_count_after
    size_max = max(size_before, size_after)
    lock = _LOCK_BYTE // delta.page_size + 1
    previous = 0
    for page, before, after in zip(
        delta.pages.tolist(), delta.before.tolist(), delta.after.tolist(), strict=True
    ):
        if not previous < page <= size_max or page == lock:
            return False
        if (before == 0) != (page > size_before) or (after == 0) != (page > size_after):
            return False
        previous = page
    return size_after > 0


def _check_pages(delta: PageDelta) -> None:
    """Page numbers rise, lie in the database, and are absent exactly where the sizes say so."""
    if len(delta) <= _FEW and _is_sound(delta):
        return
    size_before, size_after = delta.page_count_before, delta.page_count_after
    if not size_after:
        raise BadEntry("page body leaves a database without pages")
    if not len(delta.pages):
        return
    if (delta.pages[1:] <= delta.pages[:-1]).any():
        raise BadEntry("page numbers of a page body do not rise")
    first, last = int(delta.pages[0]), int(delta.pages[-1])
    if first < 1 or last > max(size_before, size_after):
        raise BadEntry(f"page body names pages {first}..{last} of {max(size_before, size_after)}")
    lock = _LOCK_BYTE // delta.page_size + 1
    if first <= lock <= last and (delta.pages == lock).any():
        raise BadEntry(f"page body names the lock page {lock}")
    if ((delta.before == 0) != (delta.pages > size_before)).any() or (
        (delta.after == 0) != (delta.pages > size_after)
    ).any():
        raise BadEntry("page body has hashes that contradict its database sizes")


def merge(deltas: Sequence[PageDelta]) -> PageDelta:
    """One delta with the effect of ``deltas``, which follow one another.

    Checked by comparing hashes only: each page's hash after must be its hash before where it changes next;
    :class:`HashMismatch` otherwise.
    """
    assert deltas
    check_sequence(deltas)
    first, last = deltas[0], deltas[-1]
    if len(deltas) == 1:
        return first
    numbers = np.concatenate([delta.pages for delta in deltas])
    order = np.argsort(numbers, kind="stable")
    pages = numbers[order]
    before = np.concatenate([delta.before for delta in deltas])[order]
    after = np.concatenate([delta.after for delta in deltas])[order]
    again = pages[1:] == pages[:-1]
    broken = again & (after[:-1] != before[1:])
    if broken.any():
        at = int(np.argmax(broken))
        raise HashMismatch(f"page {pages[at]}: a transaction does not continue the one before it")
    starts = np.flatnonzero(np.concatenate(([True], ~again))) if len(pages) else np.empty(0, np.intp)
    ends = np.append(starts[1:], len(pages)) - 1
    return PageDelta(
        page_size=first.page_size,
        page_count_before=first.page_count_before,
        page_count_after=last.page_count_after,
        pages=pages[starts],
        before=before[starts],
        after=after[ends],
        xor=_combine(deltas, order, starts),
        last=last.last,
    )


def check_sequence(deltas: Sequence[PageDelta]) -> None:
    """Sizes of the database continue, within a transaction and from one to the next."""
    for left, right in pairwise(deltas):
        if left.page_size != right.page_size:
            raise HashMismatch(f"page size {right.page_size} follows page size {left.page_size}")
        expected = left.page_count_after if left.last else left.page_count_before
        if right.page_count_before != expected or (
            not left.last and right.page_count_after != left.page_count_after
        ):
            raise HashMismatch(
                f"a transaction from {right.page_count_before} pages follows a database of {expected}"
            )


def _combine(deltas: Sequence[PageDelta], order: npt.NDArray[np.intp], starts: npt.NDArray[np.intp]) -> U8:
    """XOR of all rows of each page, without gathering them first."""
    page_size = deltas[0].page_size
    rows = [row for delta in deltas for row in delta.xor.view(np.uint64)]
    combined = np.empty((len(starts), page_size // 8), dtype=np.uint64)
    places = order.tolist()
    bounds = [*starts.tolist(), len(places)]
    for target, begin, end in zip(combined, bounds, bounds[1:], strict=False):
        if end == begin + 1:
            target[:] = rows[places[begin]]
            continue
        np.bitwise_xor(rows[places[begin]], rows[places[begin + 1]], out=target)
        for place in places[begin + 2 : end]:
            np.bitwise_xor(target, rows[place], out=target)
    return combined.view(np.uint8)
