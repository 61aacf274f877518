"""Opening a listening socket, with an error that says what to do."""

from __future__ import annotations

import errno
import socket

from paceline.errors import UsageError

__all__ = ["address_of", "listen"]

_BACKLOG = 1024


def listen(host: str, port: int) -> socket.socket:
    """A bound, listening, non-blocking TCP socket; port 0 picks a free one.  Raises ``UsageError``."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError, OverflowError) as error:
        raise UsageError(
            f"cannot listen on {host}:{port}: {error}", hint="give an address of this machine"
        ) from None
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror or error}", hint=_ADVICE.get(error.errno or 0)
        ) from None
    return sock


_ADVICE = {
    errno.EADDRINUSE: "another process uses this port: stop it, or choose another port",
    errno.EADDRNOTAVAIL: "this machine does not have that address",
    errno.EACCES: "ports below 1024 need privileges: choose a higher one",
}


def address_of(sock: socket.socket) -> tuple[str, int]:
    """Host and port that a socket is really bound to."""
    host, port = sock.getsockname()[:2]
    return host, port
