"""``paceline restore``: a new cluster from a backup."""

from __future__ import annotations

from pathlib import Path

import click

from paceline.cli.cluster import Cluster
from paceline.cli.linux import require_linux
from paceline.errors import UsageError

__all__ = ["command"]


@click.command("restore")
@click.argument("backup", type=click.Path(path_type=Path))
@click.option("--dir", "directory", metavar="DIR", required=True, help="Directory of the new cluster.")
@click.option(
    "--nodes", metavar="N", type=click.IntRange(1, 9), default=3, show_default=True, help="How many nodes."
)
@click.option(
    "--port",
    metavar="PORT",
    type=click.IntRange(1, 65_000),
    default=4001,
    show_default=True,
    help="First port.",
)
def command(backup: Path, directory: str, nodes: int, port: int) -> None:
    """Make a new cluster directory from BACKUP, which stays untouched.

    Any SQLite file will do. The new cluster starts a history of its own: it
    is not the cluster that the backup came from. Start it with
    `paceline up --dir DIR`.
    """
    require_linux("restore")
    from paceline.cli.running import make
    from paceline.config.shape import Settings

    path = Path(directory)
    if Cluster.exists(path):
        raise UsageError(f"{path} holds a cluster already", hint="choose another --dir")
    make(path, file=backup, count=nodes, port=port, settings=Settings())
    click.echo(f"restored to {path}; start it with: paceline up --dir {path}")
