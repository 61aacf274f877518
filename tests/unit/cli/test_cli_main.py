"""The program as a whole: help, errors, exit codes, reference."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from clifakes import FakeClient, run

from paceline.cli.main import COMMANDS, cli
from paceline.cli.reference import reference
from paceline.errors import NoQuorum, UsageError

REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "cli.md"


def _commands(
    group: click.Group = cli, path: tuple[str, ...] = ("paceline",)
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))


def test_every_command_has_help_and_every_option_too() -> None:
    paths = []
    for path, command in _commands():
        paths.append(path)
        assert command.help and len(command.help) > 20, path
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, (path, parameter.name)
        result = run([*path[1:], "--help"])
        assert result.exit_code == 0 and "Usage: paceline" in result.output, result.output
    assert len(paths) >= 22


def test_table_of_commands_says_what_the_commands_say() -> None:
    for name, line in COMMANDS.items():
        command = cli.get_command(click.Context(cli), name)
        assert command is not None and command.name == name
        assert command.help is not None
        first = " ".join(command.help.split("\n\n")[0].split())
        words = set(line.rstrip(".").lower().split())
        assert words & set(first.rstrip(".").lower().split()), (name, line, first)


def test_reference_page_is_what_the_commands_say() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == reference(), (
        "run: python -m paceline.cli.reference --write docs/reference/cli.md"
    )
    for path, _ in _commands():
        assert f" {' '.join(path)}\n" in reference()


def test_reporting_commands_have_json() -> None:
    reporting = {
        "status",
        "sql",
        "node list",
        "backup",
        "verify",
        "log ls",
        "log explain",
        "log verify",
        "bench",
    }
    reporting |= {"writes stop", "writes start", "version"}
    found = {
        " ".join(path[1:])
        for path, command in _commands()
        if any("--json" in p.opts for p in command.params if isinstance(p, click.Option))
    }
    assert reporting <= found


def test_unknown_command_offers_the_near_one() -> None:
    result = run(["statsu"])
    assert result.exit_code == 2
    assert result.output == "paceline: no command 'statsu'\n  hint: did you mean status?\n"


def test_wrong_option_is_a_usage_error_in_one_line() -> None:
    result = run(["status", "--interval", "x"])
    assert result.exit_code == 2
    assert result.output.startswith("paceline: Invalid value for '--interval'")
    assert "paceline status --help" in result.output


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UsageError("bad\nlevel", hint="use quorum"), 2, "paceline: bad level\n  hint: use quorum\n"),
        (NoQuorum("one of three"), 1, "paceline: one of three\n"),
        (FileNotFoundError(2, "No such file", "x.db"), 1, "paceline: x.db: No such file\n"),
        (
            ZeroDivisionError("oops"),
            1,
            "paceline: internal error: ZeroDivisionError: oops\n  hint: PACELINE_DEBUG=1",
        ),
        (KeyboardInterrupt(), 130, "\n"),
    ],
)
def test_errors_become_a_line_a_hint_and_an_exit_code(
    fake: FakeClient, error: BaseException, code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from paceline.cli.main import main

    fake.error = error  # type: ignore[assignment]
    with pytest.raises(SystemExit) as left:
        main(["sql", "SELECT 1"])
    assert left.value.code == code
    assert capsys.readouterr().err.startswith(text)


def test_debug_shows_the_traceback(fake: FakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from paceline.cli.main import main

    monkeypatch.setenv("PACELINE_DEBUG", "1")
    fake.error = ZeroDivisionError("oops")
    with pytest.raises(ZeroDivisionError):
        main(["sql", "SELECT 1"])


def test_unreachable_cluster_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACELINE_CONNECT", "127.0.0.1:1")
    started = time.monotonic()
    result = run(["sql", "SELECT 1"])
    assert result.exit_code == 1 and "no node answers (127.0.0.1:1: connection refused)" in result.output
    assert time.monotonic() - started < 5


def test_program_runs_as_a_module_and_starts_fast(capsys: pytest.CaptureFixture[str]) -> None:
    source = str(Path(__file__).parents[3] / "src")
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "paceline", "--help"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": source},
        check=True,
    )
    with capsys.disabled():
        print(f" [--help took {(time.perf_counter() - started) * 1000:.0f} ms]", end="")
    assert "Commands:" in done.stdout
    for heavy in ("rich", "numpy", "apsw", "asyncio", "prompt_toolkit", "msgspec"):
        assert f" {heavy}\n" not in done.stderr, f"--help imports {heavy}"
