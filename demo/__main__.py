"""``make demo``: tell the story in a fresh folder, and leave nothing behind."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from bench.cluster import CommandFailed
from demo.processes import Failed
from demo.story import Story

__all__ = ["main"]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m demo", description="Paceline on real data, in two minutes."
    )
    parser.add_argument("--clients", type=int, default=32, help="writing clients (default: 32)")
    parser.add_argument(
        "--dir", type=Path, default=Path("demo-data"), help="where the data goes (default: demo-data)"
    )
    parser.add_argument("--keep", action="store_true", help="keep the data, to look at it")
    options = parser.parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=options.dir.resolve()))
    # Into a file or a pipe the lines may be longer than the 80 columns that rich would assume.
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)
    story = Story(folder, options.clients, console)
    try:
        try:
            story.run()
        finally:
            story.cluster.down()
    except (Failed, CommandFailed) as error:
        console.print(f"\n[bold red]FAILED[/] {escape(str(error))}")
        console.print(f"The data and the nodes' logs (node.log) are in {folder}")
        return 1
    if options.keep:
        console.print(f"The data is in {folder}; paceline up --dir {story.cluster.path} starts it again.")
    else:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
