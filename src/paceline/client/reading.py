"""Levels of reads as text, for clients, both protocols and the command line: the only reader of what people write.

    local             this node, now
    session           not older than a token
    leader            what the leader has committed
    linearizable      everything that was acknowledged before the read began
    bounded MS        any node whose state is at most so many milliseconds old (``bounded 500``)

``docs/concepts.md`` says what each promises.
"""

from __future__ import annotations

import re
from typing import Final

from paceline.errors import UsageError
from paceline.limits import TIMEOUT_MS_MAX

__all__ = ["READ_LEVELS", "any_member_answers", "bounded", "parse_read"]

READ_LEVELS: Final = ("local", "session", "leader", "linearizable", "bounded MS")
_PLAIN: Final = frozenset(READ_LEVELS[:-1])
_BOUNDED: Final = re.compile(r"^bounded\s*[\s(]\s*(\d{1,12})\s*(?:ms)?\s*\)?$")
_ANYWHERE: Final = ("local", "session", "bounded")


def parse_read(text: str) -> str:
    """The level as it goes over the wire; raises ``UsageError`` that names the levels."""
    if text in _PLAIN:
        return text
    plain = " ".join(text.split()).lower()
    if plain in _PLAIN:
        return plain
    if found := _BOUNDED.match(plain):
        return bounded(int(found[1]))
    if plain.startswith("bounded"):
        raise UsageError(
            f"read level {text[:60]!r}: how old may the state be?",
            hint="give whole milliseconds, for example: bounded 500",
        )
    raise UsageError(f"unknown read level {text[:60]!r}", hint=f"use one of: {', '.join(READ_LEVELS)}")


def bounded(lag_ms: int) -> str:
    """The level that allows a state so old; raises ``UsageError``."""
    if not 1 <= lag_ms <= TIMEOUT_MS_MAX:
        raise UsageError(
            f"a bound of {lag_ms} ms is not between 1 and {TIMEOUT_MS_MAX}",
            hint="for nothing older than the read itself use linearizable",
        )
    return f"bounded {lag_ms}"


def any_member_answers(level: str) -> bool:
    """Whether a client sends such a read to any member rather than to the leader."""
    return level.startswith(_ANYWHERE)
