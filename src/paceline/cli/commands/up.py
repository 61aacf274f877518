"""``paceline up``: make or resume a cluster on this machine, and keep it running."""

from __future__ import annotations

from pathlib import Path

import click

from paceline.cli.cluster import Cluster, Source
from paceline.cli.context import DEFAULT_DIR
from paceline.cli.linux import require_linux
from paceline.errors import UsageError

__all__ = ["command"]


def _check_same_file(cluster: Cluster, file: Path) -> None:
    """FILE.db was copied when the cluster was made; a second import would throw its data away."""
    old = cluster.source
    if old is None or Path(old.path) != file.resolve():
        origin = f"from {old.path}" if old else "empty"
        raise UsageError(
            f"{cluster.path} holds a cluster already (started {origin}); {file} cannot be imported into it",
            hint="leave FILE.db out to resume, or choose another --dir",
        )
    if file.exists() and Source.of(file) != old:
        click.echo(f"note: {file} has changed since it was copied; the cluster keeps its own data", err=True)


def _check_same_shape(cluster: Cluster, given: dict[str, object]) -> None:
    """Options that only count when a cluster is made."""
    ways = {
        "nodes": "change the number with: paceline node add, paceline node remove",
        "port": "the ports are part of the cluster's membership; choose another --dir for other ports",
        "durability": f"set it under [settings] in {cluster.path}/*/paceline.toml, or per request",
    }
    for name, hint in ways.items():
        if given[name] is not None:
            raise UsageError(
                f"{cluster.path} holds a cluster already: --{name} has no effect on it", hint=hint
            )


@click.command("up")
@click.argument("file", metavar="[FILE.db]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--nodes", metavar="N", type=click.IntRange(1, 9), help="How many nodes a new cluster has.  [default: 3]"
)
@click.option("--dir", "directory", metavar="DIR", help=f"Where the data lives.  [default: ./{DEFAULT_DIR}]")
@click.option(
    "--port",
    metavar="PORT",
    type=click.IntRange(1, 65_000),
    help="First port of a new cluster.  [default: 4001]",
)
@click.option("--durability", metavar="LEVEL", help="What writes wait for by default.  [default: quorum]")
@click.option("--foreground/--detach", default=True, help="Stay in this terminal, or run in the background.")
def command(
    file: Path | None,
    nodes: int | None,
    directory: str | None,
    port: int | None,
    durability: str | None,
    foreground: bool,
) -> None:
    """Run a cluster on this machine.

    A new cluster starts from a copy of FILE.db, which stays untouched, or
    empty. Run `up` again to resume. Ctrl-C or `paceline down` stop it; the
    data stays.

    Each node uses three ports: PORT for clients, PORT+1 for HTTP, PORT+2 for
    other nodes; the next node starts at PORT+10. Nodes that die are started
    again.

    \b
    Examples:
      paceline up app.db
      paceline up --nodes 5 --port 7001 --dir /srv/app
      paceline up --detach
    """
    require_linux("up")
    from paceline.cli.running import attach, detach, make
    from paceline.config.shape import Settings
    from paceline.core.durability import parse_durability

    path = Path(directory or DEFAULT_DIR)
    if Cluster.exists(path):
        cluster = Cluster.load(path)
        _check_same_shape(cluster, {"nodes": nodes, "port": port, "durability": durability})
        if file:
            _check_same_file(cluster, file)
    else:
        level = str(parse_durability(durability)) if durability else Settings().durability
        cluster = make(
            path, file=file, count=nodes or 3, port=port or 4001, settings=Settings(durability=level)
        )
    attach(cluster) if foreground else detach(cluster)
