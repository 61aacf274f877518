"""``docs/reference/cli.md``, made from the commands' own help, so that it cannot go stale.

``python -m paceline.cli.reference`` prints it, ``--write FILE`` writes it; a test
compares the file with what the commands say now.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from paceline.cli.main import cli

__all__ = ["reference"]

_INTRODUCTION = """\
# Command line

<!-- made by `python -m paceline.cli.reference --write docs/reference/cli.md`; do not edit -->

`paceline` and `python -m paceline` are the same program. Exit codes: 0 done; 1 the cluster, a node or a
file is not as it should be; 2 the command line or the configuration is wrong; 130 interrupted.
Errors are one line on standard error, with a hint; `PACELINE_DEBUG=1` shows the traceback instead.

Commands that speak to a cluster find it by `--dir`, `--connect`, `PACELINE_CONNECT`, `PACELINE_DIR`, or
`./paceline-data`, in this order.
"""


def _paths(group: click.Group, context: click.Context) -> Iterator[tuple[click.Context, click.Command]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        own = click.Context(command, info_name=name, parent=context, max_content_width=90, terminal_width=90)
        yield own, command
        if isinstance(command, click.Group):
            yield from _paths(command, own)


def _paragraphs(text: str) -> str:
    """The help text as Markdown: what click calls a verbatim block becomes a code block."""
    parts = []
    for part in inspect.cleandoc(text).split("\n\n"):
        if part.startswith("\b"):
            parts.append("```text\n" + part.removeprefix("\b").strip("\n") + "\n```")
        else:
            parts.append(part)
    return "\n\n".join(parts)


def _options(context: click.Context, command: click.Command) -> list[tuple[str, str]]:
    records = (parameter.get_help_record(context) for parameter in command.get_params(context))
    return [record for record in records if record is not None and "--help" not in record[0] and record[1]]


def _section(context: click.Context, command: click.Command) -> str:
    level = "##" if context.parent and context.parent.parent is None else "###"
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    parts = [f"{level} {context.command_path}", f"```text\n{usage}\n```", _paragraphs(command.help or "")]
    options = _options(context, command)
    if options:
        rows = [f"| `{name.replace('|', '¦')}` | {text} |" for name, text in options]
        parts.append("\n".join(["| option | meaning |", "| --- | --- |", *rows]))
    return "\n\n".join(parts)


def reference() -> str:
    """The whole page."""
    root = click.Context(cli, info_name="paceline", max_content_width=90, terminal_width=90)
    sections = [_section(context, command) for context, command in _paths(cli, root)]
    return "\n\n".join([_INTRODUCTION.rstrip(), *sections]) + "\n"


def main() -> None:
    if sys.argv[1:2] == ["--write"] and len(sys.argv) == 3:
        Path(sys.argv[2]).write_text(reference(), encoding="utf-8")
    else:
        sys.stdout.write(reference())


if __name__ == "__main__":
    main()
