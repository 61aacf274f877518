"""Which cluster a command speaks to, and the connection to it.

In this order: ``--connect host:port[,host:port...]``, ``--dir DIR`` (a
directory that ``paceline up`` made), ``PACELINE_CONNECT``, ``PACELINE_DIR``,
and ``./paceline-data`` when it is there.  A directory also tells where the
database and log files are; an address does not.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

from paceline.cli.cluster import Cluster
from paceline.config.keys import split_address
from paceline.errors import Unavailable, UsageError

if TYPE_CHECKING:
    from paceline.client import Client

__all__ = [
    "DEFAULT_DIR",
    "Target",
    "dir_option",
    "json_option",
    "open_client",
    "refusal",
    "resolve",
    "target_options",
]

DEFAULT_DIR: Final = "paceline-data"

F = TypeVar("F", bound=Callable[..., Any])


class Target(NamedTuple):
    """``addresses`` for native clients; ``cluster`` when a directory names it."""

    addresses: list[str]
    cluster: Cluster | None


def dir_option(function: F) -> F:
    return click.option(
        "--dir", "directory", metavar="DIR", help=f"Directory of a local cluster (default: ./{DEFAULT_DIR})."
    )(function)


def target_options(function: F) -> F:
    """``--dir`` and ``--connect``, for commands that speak to a running cluster."""
    option = click.option(
        "--connect", metavar="HOST:PORT", help="Address of any node; several with commas. [PACELINE_CONNECT]"
    )
    return option(dir_option(function))


def json_option(function: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(function)


def _addresses(text: str, source: str) -> list[str]:
    addresses = [part.strip() for part in text.split(",") if part.strip()]
    for address in addresses:
        try:
            split_address(address)
        except ValueError:
            raise UsageError(
                f"{source}: {address!r} is not host:port", hint="for example 127.0.0.1:4001"
            ) from None
    if not addresses:
        raise UsageError(f"{source} is empty", hint="give host:port of any node")
    return addresses


def resolve(directory: str | None, connect: str | None) -> Target:
    """Find the cluster; raises :class:`UsageError` that names the ways to tell it."""
    if directory and connect:
        raise UsageError("--dir and --connect exclude each other")
    if connect is None and directory is None:
        connect = os.environ.get("PACELINE_CONNECT")
        if connect is not None:
            return Target(_addresses(connect, "PACELINE_CONNECT"), None)
        directory = os.environ.get("PACELINE_DIR")
    if connect is not None:
        return Target(_addresses(connect, "--connect"), None)
    if directory is None:
        if not Cluster.exists(Path(DEFAULT_DIR)):
            raise UsageError(
                f"no cluster given, and there is no ./{DEFAULT_DIR} here",
                hint="--dir DIR, --connect HOST:PORT, or start one with: paceline up",
            )
        directory = DEFAULT_DIR
    cluster = Cluster.load(Path(directory))
    return Target([node.listen for node in cluster.nodes], cluster)


def refusal(address: str, seconds: float = 2.0) -> str | None:
    """Why nothing can be reached at ``address``, None when something listens there."""
    try:
        socket.create_connection(split_address(address), timeout=seconds).close()
    except TimeoutError:
        return "no answer"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return None


def open_client(addresses: list[str], *, timeout_ms: int | None = None) -> Client:
    """The native client; raises at once when nothing listens at any address (a client would keep trying)."""
    reasons: list[str] = []
    for address in addresses:
        reason = refusal(address)
        if reason is None:
            break
        reasons.append(f"{address}: {reason}")
    else:
        raise Unavailable(
            f"no node answers ({'; '.join(reasons)})",
            hint="is the cluster running? paceline up starts or resumes a local one",
        )
    from paceline.client import Client

    return Client(addresses, name="paceline-cli", timeout_ms=timeout_ms)
