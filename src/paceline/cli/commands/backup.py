"""``paceline backup``: a consistent copy of a running cluster's database."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from paceline.cli.context import json_option, open_client, resolve, target_options
from paceline.cli.text import human_bytes
from paceline.errors import PacelineError, UsageError

if TYPE_CHECKING:
    from paceline.cli.progressbar import Advance
    from paceline.snapshot.pace import Progress

__all__ = ["command"]


async def _copy(file: str, address: str, cluster: str, advance: Advance) -> str:
    from paceline.files import RealFiles
    from paceline.runtime.peers import anonymous_hello, open_snapshot
    from paceline.runtime.transfer import backup
    from paceline.snapshot.backup import BackupFile

    def show(progress: Progress) -> None:
        advance(progress.units_done, progress.units_total)
        if progress.trouble:
            click.echo(f"interrupted ({progress.trouble}); trying again", err=True)

    target = BackupFile(RealFiles(), file, companions=("-wal", "-shm", "-journal"))
    return str(await backup(lambda: open_snapshot(address, anonymous_hello(cluster)), target, show))


def _source(addresses: list[str], wanted: str | None) -> tuple[dict[str, Any], str, str]:
    """Status, and name and peer address of the node to copy from: the one asked for, else a follower."""
    client = open_client(addresses)
    try:
        status = dict(client.status())
    finally:
        client.close()
    members = {m["name"]: m for m in status["members"]}
    if wanted is not None:
        if wanted not in members:
            raise UsageError(f"no node {wanted!r}", hint=f"nodes: {', '.join(members)}")
        return status, wanted, str(members[wanted]["peer"])
    well = [m for m in members.values() if m.get("reachable") and m.get("health") == "ok"]
    well.sort(key=lambda m: (m["role"] == "leader", m["name"]))
    if not well:
        raise PacelineError(
            "no node is well enough to copy from", hint="see paceline status; --node chooses one"
        )
    return status, str(well[0]["name"]), str(well[0]["peer"])


@click.command("backup")
@click.argument("file", type=click.Path(path_type=Path))
@target_options
@click.option("--node", metavar="NAME", help="Copy from this node (default: a healthy follower).")
@click.option("--force", is_flag=True, help="Replace FILE when it exists.")
@json_option
def command(
    file: Path, directory: str | None, connect: str | None, node: str | None, force: bool, as_json: bool
) -> None:
    """Copy the database of a running cluster to FILE, at one position.

    Writers are not delayed. FILE is an ordinary SQLite file, which also
    remembers its position: `paceline node add --from FILE` continues there.
    """
    status, name, address = _source(resolve(directory, connect).addresses, node)
    from paceline.cli.progressbar import progress_bar

    with progress_bar(f"copying from {name}", "pages") as advance:
        # An old backup goes only when the new one is whole.
        place = file.with_name(file.name + ".new") if force and file.exists() else file
        position = asyncio.run(_copy(str(place.absolute()), address, str(status["cluster"]), advance))
        os.replace(place, file)
    size = file.stat().st_size
    if as_json:
        from msgspec import json

        click.echo(json.encode({"file": str(file), "bytes": size, "position": position, "node": name}))
    else:
        click.echo(f"{file}: {human_bytes(size)} from {name} at {position}")
