"""Arguments: what may be bound to a statement, and how a bad one is named.

Bound as they are: None, int (64 bit, signed; bool counts as int), float (NaN
becomes NULL, as SQLite has it), str, bytes.  ``bytearray`` and ``memoryview``
become bytes.  Everything else is refused with the statement and the argument
named.  The common case costs one set operation per statement; the search for
the culprit runs only when something was wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from paceline.engines.base import Value
from paceline.errors import TooLarge, UsageError
from paceline.limits import ARGS_MAX

__all__ = ["Args", "check_args", "name_bad_argument"]

Args = list[Value] | dict[str, Value]

_plain: Final = frozenset((type(None), int, float, str, bytes)).issuperset
_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**63 - 1


def check_args(args: Args, statement: int) -> Args:
    """``args`` with every value of a plain type; raises ``UsageError``."""
    if type(args) is list and len(args) <= ARGS_MAX and _plain(map(type, args)):
        return args
    if isinstance(args, dict):
        if not all(isinstance(name, str) for name in args):
            raise UsageError(f"statement {statement}: the names of named arguments must be text")
        if _plain(map(type, args.values())) and not any(name[:1] in _MARKS for name in args):
            return args
        return {
            name.lstrip(_MARKS): _convert(value, statement, f"argument {name!r}")
            for name, value in args.items()
        }
    if not isinstance(args, list | tuple):
        raise UsageError(
            f"statement {statement}: arguments must be a list or a dict, not {type(args).__name__}"
        )
    if len(args) > ARGS_MAX:
        raise TooLarge(f"statement {statement} has {len(args)} arguments, the limit is {ARGS_MAX}")
    if _plain(map(type, args)):
        return args
    return [_convert(value, statement, f"argument {place}") for place, value in enumerate(args, 1)]


_MARKS: Final = ":@$"


def _convert(value: Any, statement: int, name: str) -> Value:
    if value is None:
        return None
    # Subclasses such as bool and IntEnum are bound as what they stand for.
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise UsageError(
        f"statement {statement}, {name}: {type(value).__name__} is not a value that SQLite stores",
        hint="use null, integer, float, text or bytes",
    )


def name_bad_argument(args: Args, statement: int, error: Exception) -> UsageError:
    """The ``UsageError`` for arguments that APSW could not bind."""
    items: Iterable[tuple[str, Value]]
    if isinstance(args, dict):
        items = ((f"argument {name!r}", value) for name, value in args.items())
    else:
        items = ((f"argument {place}", value) for place, value in enumerate(args, 1))
    for name, value in items:
        if isinstance(value, int) and not _INT_MIN <= value <= _INT_MAX:
            return UsageError(f"statement {statement}, {name}: {value} does not fit into 64 bits")
        if isinstance(value, str) and not _is_text(value):
            return UsageError(
                f"statement {statement}, {name}: the text holds a lone surrogate, which is no character"
            )
    if isinstance(error, KeyError):
        return UsageError(f"statement {statement}: no value for the named argument {error}")
    return UsageError(f"statement {statement}: {' '.join(str(error).split())}")


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
