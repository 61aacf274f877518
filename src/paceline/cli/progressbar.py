"""A progress bar on standard error; one plain line at the end where that is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from paceline.cli.tables import console
from paceline.cli.text import human_bytes, human_count

__all__ = ["Advance", "progress_bar"]

Advance = Callable[[int, int], None]
"""Called with (done, total)."""

Unit = Literal["bytes", "pages"]


@contextmanager
def progress_bar(title: str, unit: Unit) -> Iterator[Advance]:
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    show = human_bytes if unit == "bytes" else human_count
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("{task.fields[amount]}", style="dim"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=screen, transient=True) as progress:
        task = progress.add_task(title, total=None, amount="", visible=False)

        def advance(done: int, total: int) -> None:
            amount = f"{show(done)} of {show(total)}" + ("" if unit == "bytes" else f" {unit}")
            progress.update(task, completed=done, total=total or None, amount=amount, visible=True)

        yield advance
