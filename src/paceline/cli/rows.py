"""Rows of a query as a table, CSV or JSON.

A table is for eyes: NULL is shown as such, numbers stand right, long cells are
cut when the output is a terminal.  CSV and JSON are for programs: nothing is
cut.  JSON writes a BLOB as ``{"base64": "..."}`` and infinities as texts; CSV
writes NULL as an empty field and a BLOB as ``x'..'``.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from collections.abc import Sequence
from typing import Any, Final, Literal

__all__ = ["Mode", "render", "to_json_value"]

Mode = Literal["table", "csv", "json"]

CELL_WIDTH_MAX: Final = 60


def to_json_value(value: Any) -> Any:
    """``value`` as JSON can hold it."""
    if isinstance(value, bytes | bytearray | memoryview):
        return {"base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    return value


def _blob(value: Any) -> str:
    return f"x'{bytes(value).hex()}'"


def _cell(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bytes | bytearray | memoryview):
        return _blob(value)
    if isinstance(value, float):
        return repr(value)
    # A table has one line a row, and a terminal must not obey what a cell says.
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))


def _fit(text: str, width: int) -> str:
    from rich.cells import cell_len, set_cell_size

    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]], width_max: int | None) -> str:
    from rich.cells import cell_len

    cells = [[_cell(value) for value in row] for row in rows]
    heads = [_cell(column) for column in columns]
    if width_max is not None:
        cells = [[_fit(text, width_max) for text in row] for row in cells]
    numeric = [
        all(isinstance(row[i], int | float) or row[i] is None for row in rows) and bool(rows)
        for i in range(len(columns))
    ]
    widths = [max([cell_len(heads[i]), *(cell_len(row[i]) for row in cells)]) for i in range(len(columns))]

    def line(texts: Sequence[str]) -> str:
        padded = []
        for text, width, right in zip(texts, widths, numeric, strict=True):
            space = " " * (width - cell_len(text))
            padded.append(space + text if right else text + space)
        return "  ".join(padded).rstrip()

    return "\n".join([line(heads), "  ".join("─" * width for width in widths), *map(line, cells)])


def _csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_blob(v) if isinstance(v, bytes | bytearray | memoryview) else v for v in row])
    return out.getvalue().rstrip("\n")


def render(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], mode: Mode, *, width_max: int | None = None
) -> str:
    """Text without a final line break.  ``width_max`` cuts cells (table only; None: never)."""
    match mode:
        case "table":
            return _table(columns, rows, width_max)
        case "csv":
            return _csv(columns, rows)
        case "json":
            # Objects, one a line; of columns with equal names the last one stands.
            return "\n".join(
                json.dumps(
                    {c: to_json_value(v) for c, v in zip(columns, row, strict=True)}, ensure_ascii=False
                )
                for row in rows
            )
