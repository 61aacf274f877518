"""``paceline serve``: one node in this process."""

from __future__ import annotations

import click

from paceline.cli.linux import require_linux

__all__ = ["command"]


@click.command("serve")
@click.option(
    "--config",
    "path",
    metavar="FILE",
    help="TOML file of this node. [PACELINE_CONFIG]",
    envvar="PACELINE_CONFIG",
)
@click.option("--name", metavar="NAME", help="Name of this node.")
@click.option("--data", metavar="DIR", help="Data directory.")
@click.option("--listen", metavar="HOST:PORT", help="Address for native clients.")
@click.option("--http", metavar="HOST:PORT", help="Address of the HTTP API.")
@click.option("--peer", metavar="HOST:PORT", help="Address for the other nodes.")
@click.option(
    "--join", metavar="HOST:PORT", multiple=True, help="Peer address of a running cluster; may be repeated."
)
@click.option(
    "--leader",
    metavar="NAME",
    help="Who founds the cluster and leads first; alone, and of this name: a cluster of one.",
)
@click.option("--durability", metavar="LEVEL", help="What writes wait for by default.")
@click.option("--insecure", is_flag=True, default=None, help="Allow clear text beyond loopback addresses.")
def command(
    path: str | None,
    name: str | None,
    data: str | None,
    listen: str | None,
    http: str | None,
    peer: str | None,
    join: tuple[str, ...],
    leader: str | None,
    durability: str | None,
    insecure: bool | None,
) -> None:
    """Run one node until SIGINT or SIGTERM.

    Settings come from the file, then from PACELINE_* variables, then from the
    options here; the last one wins.

    \b
    Examples:
      paceline serve --config n1.toml
      paceline serve --name n4 --data /srv/n4 --listen 127.0.0.1:4031 \\
        --http 127.0.0.1:4032 --peer 127.0.0.1:4033 --join 127.0.0.1:4003
    """
    require_linux("serve")
    from paceline.config.load import load
    from paceline.core.durability import parse_durability

    config = load(
        path,
        {
            "name": name,
            "data": data,
            "listen": listen,
            "http": http,
            "peer": peer,
            "cluster.join": list(join) or None,
            "cluster.leader": leader,
            "settings.durability": durability,
            "insecure": insecure,
        },
    )
    parse_durability(config.settings.durability)
    from paceline.server.main import serve

    def ready() -> None:
        click.echo(
            f"{config.name} listens on {config.listen} (clients), {config.http} (HTTP), {config.peer} (nodes)"
        )

    raise click.exceptions.Exit(serve(config, on_ready=ready))
