"""fdatasync without a thread: the kernel does it and the loop hears of its end.

The log's sync is on the way of every acknowledgement.  On the loop it would keep everything else waiting; on
a thread it costs two changes of thread and two waits for the interpreter, more than the sync itself.  Linux
can be asked for it (``io_submit`` with ``IOCB_CMD_FDSYNC``, since 4.18; see io_submit(2)) and says through an eventfd
when it is done.  Called through ``ctypes``, because no library of Python's offers it.

Where it is not to be had (another system, a container that forbids the calls) the constructor raises ``OSError``.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import platform
import sys
from collections.abc import Callable
from typing import Any, Final

__all__ = ["AsyncSync"]

_NUMBERS: Final = {
    # machine: io_setup, io_destroy, io_submit, io_getevents
    "x86_64": (206, 207, 209, 208),
    "aarch64": (0, 1, 2, 4),
}
_FDSYNC: Final = 3
_TELL_EVENTFD: Final = 1

Done = Callable[[OSError | None], None]


class _Request(ctypes.Structure):
    """``struct iocb`` of linux/aio_abi.h, little endian."""

    _fields_ = [
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_uint32),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("descriptor", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("eventfd", ctypes.c_uint32),
    ]


class _Event(ctypes.Structure):
    """``struct io_event``."""

    _fields_ = [
        ("data", ctypes.c_uint64),
        ("request", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("result2", ctypes.c_int64),
    ]


class AsyncSync:
    """One sync at a time; all methods belong to the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        numbers = _NUMBERS.get(platform.machine())
        if sys.platform != "linux" or numbers is None:
            raise OSError(errno.ENOSYS, "no asynchronous fdatasync on this system")
        self._syscall: Any = ctypes.CDLL(None, use_errno=True).syscall
        self._setup, self._destroy, self._submit, self._getevents = map(ctypes.c_long, numbers)
        self._context = ctypes.c_ulong(0)
        self._call(self._setup, 1, ctypes.byref(self._context))
        self._loop = loop
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._request = _Request(opcode=_FDSYNC, flags=_TELL_EVENTFD, eventfd=self._eventfd)
        self._requests = (ctypes.POINTER(_Request) * 1)(ctypes.pointer(self._request))
        self._event = _Event()
        self._done: Done | None = None
        loop.add_reader(self._eventfd, self._ended)

    def _call(self, number: ctypes.c_long, *arguments: Any) -> int:
        result = int(self._syscall(number, *arguments))
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return result

    def sync(self, descriptor: int, done: Done) -> None:
        """Start; ``done`` is called on the loop, with the error if it failed.  ``OSError`` when it did not start."""
        assert self._done is None, "one sync at a time"
        self._request.descriptor = descriptor
        if self._call(self._submit, self._context, ctypes.c_long(1), self._requests) != 1:
            raise OSError(errno.EAGAIN, "the sync was not taken")
        self._done = done

    def _ended(self) -> None:
        os.eventfd_read(self._eventfd)
        one = ctypes.c_long(1)
        self._call(self._getevents, self._context, one, one, ctypes.byref(self._event), None)
        done, self._done = self._done, None
        assert done is not None
        result = self._event.result
        done(OSError(-result, os.strerror(-result)) if result < 0 else None)

    def close(self) -> None:
        """Waits for what is under way (the kernel does), whose end nobody hears."""
        self._loop.remove_reader(self._eventfd)
        self._call(self._destroy, self._context)
        os.close(self._eventfd)
