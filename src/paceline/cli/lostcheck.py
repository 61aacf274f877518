"""Lost writes against the database of today, and applied again: ``paceline lost check`` and ``lost apply``.

Check.  A lost write found rows (``before``) and left others (``after``).  What does the same key hold today?

    today holds                verdict
    -------------------------  ---------
    the row as it was before   same      applying again meets what the write met
    the row as it was after    applied   somebody has brought it back already
    no row, and before had one gone
    anything else              changed

Apply.  The SQL runs again with its bindings, one request after the other, each under a request id of its own that is
made of the place of the lost write: whoever repeats the command, after whatever went wrong, applies nothing twice.
(While ids are remembered: see ``engines/sqlite/dedup.py``.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from paceline.client.blocking import Client
from paceline.client.results import Value
from paceline.errors import OutcomeUnknown, PacelineError, SqlError, UsageError
from paceline.server.json_values import JsonArgs, args_from_json, rows_to_json

__all__ = ["apply", "check", "check_lines", "chosen", "refusals", "request_id"]

VERDICTS = ("same", "applied", "changed", "gone", "unchecked")
_CONFLICTS = ("changed", "gone", "unchecked")


def chosen(requests: Sequence[dict[str, Any]], numbers: Sequence[int]) -> list[tuple[int, dict[str, Any]]]:
    """The requests of these numbers (as ``lost show`` counts them), in order; all when there are none."""
    for number in numbers:
        if not 1 <= number <= len(requests):
            raise UsageError(
                f"there is no request {number}: the range has {len(requests)}", hint="see paceline lost show"
            )
    wanted = sorted(set(numbers)) or range(1, len(requests) + 1)
    return [(number, requests[number - 1]) for number in wanted]


# -- check ---------------------------------------------------------------------


def check(database: Client, shape: dict[str, Any]) -> dict[str, Any]:
    """``shape``: a range with its ``rows``, as ``lost show`` answers."""
    counts = dict.fromkeys(VERDICTS, 0)
    tables, position = [], None
    for table in _merged(shape["rows"] or []):
        checked, seen = _table(database, table)
        position = seen or position
        tables.append(checked)
        for row in checked["rows"]:
            counts[row["verdict"]] += 1
    return {
        "id": shape["id"],
        "node": shape["node"],
        "position": position,
        "tables": tables,
        "counts": counts,
        "conflicts": sum(counts[verdict] for verdict in _CONFLICTS),
        "complete": shape["rows"] is not None and not any(table["more"] for table in tables),
        "rows_problem": shape["rows_problem"],
    }


def _merged(tables: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One item per table: what several entries did to one row is from the first ``before`` to the last ``after``."""
    found: dict[str, dict[str, Any]] = {}
    for table in tables:
        whole = found.setdefault(table["table"], {**table, "changes": {}, "more": False})
        whole["more"] |= table["more"]
        if "schema" in table:
            whole["schema"] = table["schema"]
        for number, change in enumerate(table["changes"]):
            place = _exact(change["key"]) if change["key"] is not None else b"%d" % number
            first = whole["changes"].setdefault(place, dict(change))
            first["after"] = change["after"]
    for table in found.values():
        yield table | {"changes": list(table["changes"].values())}


def _exact(value: Any) -> bytes:
    return msgspec.json.encode(value)


def _table(database: Client, table: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    rows = [{**change, "today": None, "verdict": "unchecked"} for change in table["changes"]]
    checked = {
        "table": table["table"],
        "key": table["key"],
        "columns": table["columns"],
        "rows": rows,
        "more": table["more"],
        "problem": None,
    }
    if "schema" in table:
        checked["problem"] = "the lost writes changed the table itself: compare it by hand"
        return checked, None
    try:
        today, position = _today(database, table)
    except SqlError as error:
        checked["problem"] = f"the table is another one today: {error.message}"
        return checked, None
    for row in rows:
        row["today"] = today.get(_exact(row["key"]))
        row["verdict"] = _verdict(row)
    return checked, position


def _verdict(row: dict[str, Any]) -> str:
    today = _exact(row["today"])
    if today == _exact(row["before"]):
        return "same"
    if today == _exact(row["after"]):
        return "applied"
    return "gone" if row["today"] is None else "changed"


def _today(database: Client, table: dict[str, Any]) -> tuple[dict[bytes, Any], str | None]:
    keys = [args_from_json(msgspec.convert(c["key"], JsonArgs), "key") for c in table["changes"]]
    key = ", ".join(name if name == "rowid" else _quoted(name) for name in table["key"])
    columns = ", ".join(map(_quoted, table["columns"]))
    one = "(" + ", ".join("?" * len(table["key"])) + ")"
    found = database.query(
        f"SELECT {key}, {columns} FROM {_quoted(table['table'])}"
        f" WHERE ({key}) IN (VALUES {', '.join([one] * len(keys))})",
        [value for values in keys for value in values],
        read="leader",
    )
    width = len(table["key"])
    rows = rows_to_json(found.rows)
    return {_exact(row[:width]): row[width:] for row in rows}, found.position


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def check_lines(report: dict[str, Any]) -> Iterator[str]:
    """For people."""
    if report["rows_problem"]:
        yield f"rows: not computed: {report['rows_problem']}"
        return
    for table in report["tables"]:
        yield f"{table['table']} ({', '.join(table['columns'])})"
        if table["problem"]:
            yield f"  {table['problem']}"
        for row in table["rows"]:
            yield f"  {row['verdict']}"
            for label in ("before", "after", "today"):
                if label != "today" or row["verdict"] in ("changed", "gone"):
                    yield f"    {label:<7} {_text(row[label])}"
        if table["more"]:
            yield "  … and more rows, which were not compared"
    counts = ", ".join(f"{count} {verdict}" for verdict, count in report["counts"].items() if count)
    yield f"rows: {counts or 'none changed'}"


def _text(row: Any) -> str:
    return "no row" if row is None else _exact(row).decode()


# -- apply ---------------------------------------------------------------------


def refusals(requests: Sequence[tuple[int, dict[str, Any]]]) -> list[str]:
    """Why these cannot be run again."""
    found = []
    for number, request in requests:
        if not request["sql"]:
            found.append(f"request {number} has no SQL ({request['problem'] or 'it was not kept'})")
        elif request["cut"]:
            found.append(f"long values of request {number} were cut when it was logged")
    return found


def request_id(range_id: str, requests: Sequence[dict[str, Any]], number: int) -> bytes:
    """Of the lost request's place: chain hash of the range, index of the entry, which of its requests."""
    index = requests[number - 1]["index"]
    nth = sum(request["index"] == index for request in requests[: number - 1])
    return f"lost-{range_id.rpartition('-')[2]}-{index}-{nth}".encode()


def apply(
    database: Client,
    shape: dict[str, Any],
    wanted: Sequence[tuple[int, dict[str, Any]]],
    durability: str | None,
) -> Iterator[dict[str, Any]]:
    """Run them, one report each.  After the first that does not succeed the others are not tried: they may need it."""
    failed = False
    for number, request in wanted:
        identity = request_id(shape["id"], shape["requests"], number)
        report: dict[str, Any] = {
            "number": number,
            "lost_request_id": request["request_id"],
            "request_id": identity.decode(),
            "outcome": "not tried",
            "error": None,
            "position": None,
            "rows_affected": None,
        }
        if not failed:
            _run(database, _statements(request), durability, identity, report)
            failed = report["outcome"] not in ("applied", "repeated")
        yield report


def _statements(request: dict[str, Any]) -> list[tuple[str, list[Value] | dict[str, Value]]]:
    return [
        (item["sql"], args_from_json(msgspec.convert(item["args"], JsonArgs), "args"))
        for item in request["sql"]
    ]


def _run(
    database: Client, statements: Any, durability: str | None, identity: bytes, report: dict[str, Any]
) -> None:
    try:
        done = database.execute(statements, durability=durability, request_id=identity)
    except PacelineError as error:
        report["outcome"] = "unknown" if isinstance(error, OutcomeUnknown) else "failed"
        report["error"] = error.message
        return
    report["outcome"] = "applied" if done.repeated_at is None else "repeated"
    report["position"] = done.receipt.position if done.receipt else None
    report["rows_affected"] = sum(result.rows_affected for result in done.results or ())
