"""The documentation is true as far as a program can tell: links lead somewhere, commands exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from repository import ROOT, SOURCE, tracked

from paceline.cli.main import COMMANDS, cli

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_SHELL = {"", "sh", "bash", "console"}


def _pages() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".md" and SOURCE not in path.parents]


def _commands(text: str, program: str) -> Iterator[list[str]]:
    """Words of each line in a shell block that runs ``program``."""
    for language, block in _FENCE.findall(text):
        if language not in _SHELL:
            continue
        for line in block.replace("\\\n", " ").splitlines():
            words = line.strip().removeprefix("$ ")
            if words.startswith(program + " "):
                yield shlex.split(words, comments=True)


def _walk(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from _walk(below, (*path, name))


def _all_commands() -> dict[tuple[str, ...], click.Command]:
    return dict(_walk(cli, ()))


def _options(command: click.Command) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {
        "--help"
    }


def wrong_usage(words: list[str]) -> str | None:
    """Why ``words`` (after ``paceline``) cannot be typed; None when they can."""
    commands = _all_commands()
    path: tuple[str, ...] = ()
    while len(path) < len(words) and (*path, words[len(path)]) in commands:
        path = (*path, words[len(path)])
    command = commands[path]
    if isinstance(command, click.Group) and not any(word.startswith("-") for word in words[len(path) :]):
        return f"no such command: {' '.join(words)}"
    for word in words[len(path) :]:
        option = word.partition("=")[0]
        if option.startswith("--") and option not in _options(command):
            return f"{' '.join(path)} has no option {option}"
    return None


def test_links_between_pages_lead_to_files() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in _pages()
        for target in _LINK.findall(page.read_text())
        if "://" not in target
        and not target.startswith("#")
        and not (page.parent / target.partition("#")[0]).exists()
    ]
    assert not broken


def test_every_page_can_be_reached_from_the_index() -> None:
    start = ROOT / "docs" / "index.md"
    seen, todo = {start}, [start]
    while todo:
        page = todo.pop()
        for target in _LINK.findall(page.read_text()):
            below = (page.parent / target.partition("#")[0]).resolve()
            if below.suffix == ".md" and below.is_file() and below not in seen:
                seen.add(below)
                todo.append(below)
    docs = {path for path in _pages() if (ROOT / "docs") in path.parents}
    assert not sorted(str(page.relative_to(ROOT)) for page in docs - seen)


def test_commands_shown_in_the_documentation_can_be_typed() -> None:
    shown = [(page, words) for page in _pages() for words in _commands(page.read_text(), "paceline")]
    assert len(shown) > 20
    wrong = [f"{page.relative_to(ROOT)}: {why}" for page, words in shown if (why := wrong_usage(words[1:]))]
    assert not wrong


@pytest.mark.parametrize("line", ["nod add n4", "node ad n4", "up --nods 3"])
def test_the_check_of_commands_sees_a_wrong_one(line: str) -> None:
    assert wrong_usage(line.split())


def test_make_targets_shown_in_the_documentation_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*##", makefile, re.M))
    shown = {words[1] for page in _pages() for words in _commands(page.read_text(), "make")}
    assert {"demo", "test"} <= shown
    assert shown <= targets


def test_every_make_target_says_what_it_does() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.M)
    assert set(phony.split()) == set(re.findall(r"^([a-z-]+):.*## \S", makefile, re.M))


def test_every_command_is_documented() -> None:
    """Each has a help text, and a place in the documentation."""
    texts = "\n".join(page.read_text() for page in _pages())
    undocumented = [
        " ".join(path)
        for path, command in _all_commands().items()
        if path and (not command.help or not re.search(rf"\b{re.escape(' '.join(path))}\b", texts))
    ]
    assert not undocumented
    assert {path[0] for path in _all_commands() if path} == set(COMMANDS)


def test_every_option_of_every_command_has_help() -> None:
    silent = [
        f"{' '.join(path)} {parameter.opts[0]}"
        for path, command in _all_commands().items()
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.help
    ]
    assert not silent
