"""The shared-memory index of a write-ahead log: mapping it, reading it, extending it.

What lives here: everything that touches ``-shm``.  What must never be known
here: the content of pages.

Mapping.  Python's ``mmap`` duplicates the descriptor and closes the copy with
the map; closing it drops every lock that SQLite holds in this process (see
``plainfile``).  So the C library's ``mmap`` is called directly: the map holds
the file without a descriptor, and unmapping it closes nothing.  Each 32 KiB
block is mapped on its own and never moved while the object is open.  Touching
a map beyond the end of its file is a fatal signal, so the file's size is looked
at first and the file is grown by writing zeros (a full disk is then an error
of ``write``).  The object may be used only while a connection of this process
is open: without one, another process may cut the file to nothing.

Order of publication, as SQLite's readers expect it: page numbers and hash
slots; barrier; second copy of the header; barrier; first copy.  A reader takes
a header only when both copies are equal and the checksum fits, so it sees the
old transaction or the new one.  x86-64 never reorders two stores, and the C
calls between them keep the compiler from it.  arm64 does reorder: there the
barrier is ``membarrier(2)``, during which the kernel runs a full barrier on the
calling thread (SQLite's readers have their own between the two copies).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import time
from array import array
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from paceline.engines.sqlite.plainfile import descriptor, pwrite_all
from paceline.engines.sqlite.walformat import (
    BLOCK_BYTES,
    HASH_SLOTS,
    INDEX_HEADER_BYTES,
    PAGE_NUMBERS_FIRST,
    PAGE_NUMBERS_OTHER,
    CheckpointInfo,
    IndexHeader,
    U32Array,
    block_of,
    first_frame_of,
    hash_slot,
)
from paceline.errors import Corruption, DiskFull

__all__ = ["WalIndex"]

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
]  # fmt: skip
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_PROT_READ_WRITE: Final = 3
_MAP_SHARED: Final = 1
_MAP_FAILED: Final = ctypes.c_void_p(-1).value

_MEMBARRIER_NUMBER: Final = {"aarch64": 283, "arm64": 283}.get(platform.machine())
_MEMBARRIER_PRIVATE_EXPEDITED: Final = 8
_MEMBARRIER_REGISTER_PRIVATE_EXPEDITED: Final = 16

if _MEMBARRIER_NUMBER is not None and _libc.syscall(
    _MEMBARRIER_NUMBER, _MEMBARRIER_REGISTER_PRIVATE_EXPEDITED, 0, 0
):
    raise ImportError("this kernel has no membarrier(2), which Paceline needs on arm64 (Linux 4.16 or newer)")

HEADER_WAIT_SECONDS: Final = 5.0
_HEADER: Final = 48


def _barrier() -> None:
    if _MEMBARRIER_NUMBER is not None and _libc.syscall(
        _MEMBARRIER_NUMBER, _MEMBARRIER_PRIVATE_EXPEDITED, 0, 0
    ):
        raise OSError(ctypes.get_errno(), "membarrier failed")


class _Block:
    """One mapped block: its page numbers and hash slots as memory."""

    __slots__ = ("address", "free", "page_numbers", "slots")

    def __init__(self, fd: int, number: int) -> None:
        address = _libc.mmap(None, BLOCK_BYTES, _PROT_READ_WRITE, _MAP_SHARED, fd, number * BLOCK_BYTES)
        if address is None or address == _MAP_FAILED:
            raise OSError(ctypes.get_errno(), "cannot map the index of the write-ahead log")
        self.address: int = address
        skipped = INDEX_HEADER_BYTES if number == 0 else 0
        count = PAGE_NUMBERS_FIRST if number == 0 else PAGE_NUMBERS_OTHER
        self.page_numbers = _memory(ctypes.c_uint32 * count, address + skipped, "I")
        self.slots = _memory(ctypes.c_uint16 * HASH_SLOTS, address + PAGE_NUMBERS_OTHER * 4, "H")
        self.free: _FreeSlots | None = None

    def clear_beyond(self, entries: int) -> None:
        """Forget all but the first ``entries`` frames (a writer that was killed leaves the others)."""
        numbers = np.frombuffer(self.page_numbers, dtype=np.uint32)
        slots = np.frombuffer(self.slots, dtype=np.uint16)
        slots[slots > entries] = 0
        numbers[entries:] = 0
        self.free = None

    def append(self, entry: int, pages: list[int]) -> None:
        """Entries ``entry`` .. hold ``pages``."""
        if self.free is None:
            self.free = _FreeSlots(np.frombuffer(self.slots, dtype=np.uint16))
        take, slots = self.free.take, self.slots
        self.page_numbers[entry - 1 : entry - 1 + len(pages)] = memoryview(array("I", pages))
        for number, page in enumerate(pages, entry):
            slots[take(hash_slot(page))] = number
        if entry + len(pages) > len(self.page_numbers):
            self.free = None

    def unmap(self) -> None:
        self.page_numbers.release()
        self.slots.release()
        _libc.munmap(self.address, BLOCK_BYTES)


class _FreeSlots:
    """The next free slot of a block's hash table, in nearly constant time.

    SQLite probes one slot after the other.  A page that is written again and again makes a run of thousands
    of taken slots, which Python cannot walk for each frame; so runs are shortened as they are walked.
    """

    __slots__ = ("_next",)

    def __init__(self, slots: npt.NDArray[np.uint16]) -> None:
        following = np.arange(HASH_SLOTS)
        taken = slots != 0
        following[taken] = (following[taken] + 1) % HASH_SLOTS
        self._next: list[int] = following.tolist()

    def take(self, at: int) -> int:
        """Take the first free slot from ``at`` on.  At most half of the slots are ever taken."""
        following = self._next
        while (step := following[at]) != at:
            following[at] = following[step]
            at = step
        following[at] = (at + 1) & (HASH_SLOTS - 1)
        return at


def _memory(kind: type[ctypes.Array[Any]], address: int, code: Literal["I", "H"]) -> memoryview:
    return memoryview(kind.from_address(address)).cast("B").cast(code)


class WalIndex:
    """The index of ``database``; see the module docstring for when it may be used."""

    def __init__(self, database: str) -> None:
        self._path = database + "-shm"
        self._fd = descriptor(self._path)
        self._blocks: list[_Block] = []
        self._header_memory = 0
        self._raw = b""
        self._header: IndexHeader | None = None
        """The header that ``_raw`` decodes to, so that it need not be decoded again."""

    def close(self) -> None:
        self._header_memory = 0
        while self._blocks:
            self._blocks.pop().unmap()

    # reading

    def try_header(self) -> IndexHeader | None:
        """The header when both copies agree, None while somebody is at work on it."""
        memory = self._header_address()
        first = ctypes.string_at(memory, _HEADER)
        _barrier()
        second = ctypes.string_at(memory + _HEADER, _HEADER)
        if first != second:
            return None
        if first != self._raw:
            header = IndexHeader.decode(first)
            if header is None:
                return None
            self._raw, self._header = first, header
        return self._header

    def header(self) -> IndexHeader:
        """The header; waits a little for a publication that is under way."""
        deadline = time.monotonic() + HEADER_WAIT_SECONDS
        while (header := self.try_header()) is None:
            if time.monotonic() > deadline:
                raise Corruption(
                    f"{self._path}: the two copies of its header stay different",
                    hint="open the database once with any SQLite tool, which rebuilds the file",
                )
            time.sleep(0.001)
        return header

    def checkpoint_info(self) -> CheckpointInfo:
        memory = self._header_address() + 2 * _HEADER
        return CheckpointInfo.decode(ctypes.string_at(memory, INDEX_HEADER_BYTES - 2 * _HEADER))

    def pages(self, after: int, last: int) -> U32Array:
        """Page numbers of the frames ``after + 1`` .. ``last``, a copy."""
        parts: list[U32Array] = []
        frame = after + 1
        while frame <= last:
            number = block_of(frame)
            first = first_frame_of(number)
            end = min(last + 1, first_frame_of(number + 1))
            block = self._block(number)
            parts.append(np.array(block.page_numbers[frame - first : end - first], dtype=np.uint32))
            frame = end
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint32)

    # writing (only under the guard)

    def clear_leftovers(self, frames: int) -> None:
        """Forget entries beyond the committed ``frames``; a later block is cleared by its first entry."""
        if frames:
            number = block_of(frames)
            self._block(number).clear_beyond(frames - first_frame_of(number) + 1)

    def reserve(self, frames: int) -> None:
        """Make room for ``frames`` frames, by writing; raises :class:`DiskFull` with nothing changed."""
        while len(self._blocks) <= block_of(frames):
            number = len(self._blocks)
            size = os.fstat(self._fd).st_size
            end = (number + 1) * BLOCK_BYTES
            if size < end:
                try:
                    pwrite_all(self._fd, bytes(end - size), size)
                except OSError as error:
                    with contextlib.suppress(OSError):
                        os.ftruncate(self._fd, size)
                    if error.errno in (errno.ENOSPC, errno.EDQUOT):
                        raise DiskFull(
                            f"no space to grow {self._path}", hint="free space on this disk"
                        ) from error
                    raise
            self._blocks.append(_Block(self._fd, number))

    def append(self, after: int, pages: list[int]) -> None:
        """Frames from ``after + 1`` hold ``pages``; nobody looks there before ``publish``."""
        frame = after + 1
        taken = 0
        while taken < len(pages):
            number = block_of(frame)
            block = self._block(number)
            entry = frame - first_frame_of(number) + 1
            if entry == 1:
                block.clear_beyond(0)
            count = min(len(pages) - taken, first_frame_of(number + 1) - frame)
            block.append(entry, pages[taken : taken + count])
            taken += count
            frame += count

    def publish(self, header: IndexHeader) -> None:
        """Let every reader see ``header``."""
        raw = header.encode()
        memory = self._header_address()
        _barrier()
        ctypes.memmove(memory + _HEADER, raw, _HEADER)
        _barrier()
        ctypes.memmove(memory, raw, _HEADER)
        _barrier()

    def _header_address(self) -> int:
        if not self._header_memory:
            self._header_memory = self._block(0).address
        return self._header_memory

    def _block(self, number: int) -> _Block:
        while len(self._blocks) <= number:
            end = (len(self._blocks) + 1) * BLOCK_BYTES
            if os.fstat(self._fd).st_size < end:
                raise Corruption(f"{self._path} ends before block {len(self._blocks)} of the index")
            self._blocks.append(_Block(self._fd, len(self._blocks)))
        return self._blocks[number]
