"""One way to run SQL for `sql` and `shell`: reads go to a node, writes to the leader.

Several statements that only read run one after the other; as soon as one of
them writes, all run as one transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from paceline.cli.sqltext import is_read, split_statements
from paceline.cli.text import plural, short_position
from paceline.errors import UsageError

if TYPE_CHECKING:
    from paceline.client import Client
    from paceline.client.results import Receipt, StatementResult

__all__ = ["Answer", "receipt_line", "run_sql"]


class Answer(NamedTuple):
    """What came back for one statement.  ``columns`` is None when it returned no rows.

    A write's ``receipt`` stands with the last answer of its transaction.
    """

    columns: list[str] | None
    rows: list[list[Any]]
    rows_affected: int
    position: str | None
    node: str | None
    receipt: Receipt | None


def receipt_line(receipt: Receipt) -> str:
    """The durability reached and where, for people."""
    durable = ", ".join(receipt.durable_on) or "no node yet"
    line = f"{receipt.durability} at {short_position(receipt.position)}"
    if receipt.asked is not None:
        line += f" (asked for {receipt.asked}: degraded)"
    line += f", durable on {durable}"
    if receipt.applied_on:
        line += f", applied on {', '.join(receipt.applied_on)}"
    return line


def _write(result: StatementResult, receipt: Receipt | None) -> Answer:
    position = receipt.position if receipt else None
    return Answer(result.columns, result.rows or [], result.rows_affected, position, None, receipt)


def run_sql(
    client: Client,
    sql: str,
    args: Sequence[Any] = (),
    *,
    read: str = "local",
    token: str | None = None,
    durability: str | None = None,
    timeout_ms: int | None = None,
) -> list[Answer]:
    """Run the statements of ``sql``; raises :class:`UsageError` when there is none."""
    statements = split_statements(sql)
    if not statements:
        raise UsageError("there is no SQL statement in the text")
    if args and len(statements) > 1:
        raise UsageError(f"arguments need one statement, not {plural(len(statements), 'statement')}")
    if all(is_read(statement) for statement in statements):
        return [_query(client, statement, args, read, token) for statement in statements]
    done = client.execute(
        [(statement, list(args)) for statement in statements], durability=durability, timeout_ms=timeout_ms
    )
    results = done.results or []
    last = len(results) - 1
    return [_write(result, done.receipt if i == last else None) for i, result in enumerate(results)]


def _query(client: Client, sql: str, args: Sequence[Any], read: str, token: str | None) -> Answer:
    found = client.query(sql, list(args), read=read, token=token)
    return Answer(found.columns, found.rows, 0, found.position, found.node, None)
