"""``paceline version``."""

from __future__ import annotations

import platform
import sys

import click

from paceline.cli.context import json_option

__all__ = ["command"]


@click.command("version")
@json_option
def command(as_json: bool) -> None:
    """Print the versions of Paceline, SQLite and Python."""
    from paceline import __version__ as own

    try:
        import apsw

        sqlite = apsw.sqlite_lib_version()
    except ImportError:
        sqlite = "-"
    found = {
        "paceline": own,
        "sqlite": sqlite,
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}",
    }
    if as_json:
        from msgspec import json

        click.echo(json.encode(found))
        return
    click.echo(
        f"paceline {found['paceline']} (SQLite {sqlite}, Python {found['python']}, {found['platform']})"
    )
