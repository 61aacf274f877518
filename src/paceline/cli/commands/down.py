"""``paceline down``: stop what ``up`` runs."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import click

from paceline.cli.cluster import Cluster
from paceline.cli.context import DEFAULT_DIR, dir_option
from paceline.errors import TimedOut

__all__ = ["command"]

_PATIENCE_SECONDS = 40.0


@click.command("down")
@dir_option
def command(directory: str | None) -> None:
    """Stop the cluster that `up` runs; the data stays."""
    cluster = Cluster.load(Path(directory or os.environ.get("PACELINE_DIR") or DEFAULT_DIR))
    pid = cluster.supervisor()
    if pid is None:
        click.echo(f"{cluster.path} is not running")
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while cluster.supervisor() is not None:
        if time.monotonic() > deadline:
            raise TimedOut(f"process {pid} is still stopping", hint=f"wait, or end it with: kill -9 {pid}")
        time.sleep(0.05)
    click.echo(f"stopped; the data stays in {cluster.path}")
