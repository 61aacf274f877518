"""The prompt: history, colours, several lines until ``;``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from prompt_toolkit import PromptSession
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import HTML
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import PygmentsLexer
from pygments.lexers.sql import SqlLexer

from paceline.cli.shell.completion import SqlCompleter
from paceline.cli.shell.session import Quit, Session
from paceline.cli.sqltext import is_complete
from paceline.cli.text import sql_error
from paceline.errors import PacelineError, SqlError

if TYPE_CHECKING:
    from prompt_toolkit.formatted_text import AnyFormattedText

__all__ = ["converse"]


def _history() -> History:
    path = Path.home() / ".paceline_history"
    try:
        path.touch(mode=0o600, exist_ok=True)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))


def _keys(prompt: list[PromptSession[str]]) -> KeyBindings:
    keys = KeyBindings()

    @Condition
    def finished() -> bool:
        text = prompt[0].default_buffer.text
        return not text.strip() or text.lstrip().startswith(".") or is_complete(text)

    @keys.add("enter", filter=finished)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    return keys


def say_error(error: PacelineError) -> None:
    message = sql_error(error) if isinstance(error, SqlError) else error.message
    click.echo(click.style("error: ", fg="red") + " ".join(message.split()), err=True)
    if error.hint:
        click.echo(f"  hint: {error.hint}", err=True)


def converse(session: Session, name: str) -> None:
    """Ask and answer until the user leaves.  An error ends a statement, not the shell."""

    def toolbar() -> AnyFormattedText:
        return HTML(" {}   <b>.help</b>").format(session.summary)

    holder: list[PromptSession[str]] = []
    holder.append(
        PromptSession(
            history=_history(),
            lexer=PygmentsLexer(SqlLexer),
            completer=SqlCompleter(session),
            complete_in_thread=True,
            multiline=True,
            key_bindings=_keys(holder),
            bottom_toolbar=toolbar,
            prompt_continuation=lambda width, _line, _wrap: "> ".rjust(width),
        )
    )
    while True:
        try:
            text = holder[0].prompt(f"{name}> ").strip()
            if text:
                session.handle(text)
        except KeyboardInterrupt:
            continue
        except (EOFError, Quit):
            return
        except PacelineError as error:
            say_error(error)
