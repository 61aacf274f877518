"""SQLite's values in JSON, both ways.

    NULL     null
    INTEGER  a JSON integer, all 64 bits
    REAL     a JSON number; infinities {"float": "Infinity"} and {"float": "-Infinity"}
    TEXT     a JSON string
    BLOB     {"base64": "..."}

Nothing else is a value: booleans, arrays, other objects and integers beyond 64
bits are refused with their place.  SQLite has no NaN (it stores NULL).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from itertools import chain
from math import inf, isinf
from typing import Annotated, Any, Final

import msgspec

from paceline.engines.base import StatementResult, Value
from paceline.errors import UsageError

__all__ = ["JsonArgs", "Wrapped", "args_from_json", "args_to_json", "result_to_json", "rows_to_json"]

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Wrapped(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An object that stands for a value."""

    base64: str | msgspec.UnsetType = msgspec.UNSET
    float: str | msgspec.UnsetType = msgspec.UNSET


JsonValue = None | Int64 | float | str | Wrapped
JsonArgs = list[JsonValue] | dict[str, JsonValue]

_INFINITIES: Final = {"Infinity": inf, "-Infinity": -inf}


def args_from_json(args: JsonArgs, place: str) -> list[Value] | dict[str, Value]:
    """SQLite's values; raises ``UsageError`` that names the place."""
    if isinstance(args, dict):
        return {name: _from_json(value, f"{place}.{name}") for name, value in args.items()}
    return [_from_json(value, f"{place}[{number}]") for number, value in enumerate(args)]


def _from_json(value: JsonValue, place: str) -> Value:
    if not isinstance(value, Wrapped):
        return value
    if isinstance(value.base64, str) and value.float is msgspec.UNSET:
        try:
            return base64.b64decode(value.base64, validate=True)
        except (binascii.Error, ValueError) as error:
            raise UsageError(f"{place}: not base64: {error}") from None
    if isinstance(value.float, str) and value.base64 is msgspec.UNSET and value.float in _INFINITIES:
        return _INFINITIES[value.float]
    raise UsageError(
        f"{place}: an object is not a value",
        hint='a BLOB is {"base64": "..."}, infinity {"float": "Infinity"}',
    )


def args_to_json(args: Any) -> Any:
    """Arguments as a client gave them, ready for the JSON encoder."""
    if isinstance(args, dict):
        return {name: _to_json(value) for name, value in args.items()}
    return [_to_json(value) for value in args]


def rows_to_json(rows: list[list[Value]]) -> list[Any]:
    """``rows`` ready for the JSON encoder; the same object when nothing needs wrapping."""
    kinds = set(map(type, chain.from_iterable(rows)))
    if bytes not in kinds and (float not in kinds or not _any_infinite(rows)):
        return rows
    return [[_to_json(value) for value in row] for row in rows]


def _any_infinite(rows: Sequence[Sequence[Value]]) -> bool:
    return any(type(value) is float and isinf(value) for row in rows for value in row)


def _to_json(value: Value) -> Any:
    if type(value) is bytes:
        return {"base64": base64.b64encode(value).decode("ascii")}
    if type(value) is float and isinf(value):
        return {"float": "Infinity" if value > 0 else "-Infinity"}
    return value


def result_to_json(result: StatementResult) -> dict[str, Any]:
    shape: dict[str, Any] = {
        "last_insert_rowid": result.last_insert_rowid,
        "rows_affected": result.rows_affected,
    }
    if result.columns is not None:
        shape["columns"] = result.columns
        shape["rows"] = rows_to_json(result.rows or [])
    return shape
