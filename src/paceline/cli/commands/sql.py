"""``paceline sql``: run SQL and print the result."""

from __future__ import annotations

import sys
from typing import Any

import click

from paceline.cli.context import json_option, open_client, resolve, target_options
from paceline.cli.rows import Mode, render, to_json_value
from paceline.cli.running_sql import Answer, receipt_line, run_sql
from paceline.cli.sqltext import parse_argument
from paceline.cli.text import plural
from paceline.errors import UsageError

__all__ = ["command"]


def _print(answer: Answer, mode: Mode) -> None:
    if answer.columns is not None:
        width = 60 if mode == "table" and sys.stdout.isatty() else None
        click.echo(render(answer.columns, answer.rows, mode, width_max=width))
    if answer.receipt is not None:
        if answer.columns is None:
            click.echo(f"{plural(answer.rows_affected, 'row')} affected", err=True)
        click.echo(receipt_line(answer.receipt), err=True)


def _as_json(answers: list[Answer]) -> dict[str, Any]:
    from msgspec import to_builtins

    results = []
    for answer in answers:
        shape: dict[str, Any] = {"rows_affected": answer.rows_affected}
        if answer.columns is not None:
            rows = [[to_json_value(value) for value in row] for row in answer.rows]
            shape = {"columns": answer.columns, "rows": rows}
        if answer.receipt is None:
            shape |= {"position": answer.position, "node": answer.node}
        results.append(shape)
    receipt = answers[-1].receipt
    return {"results": results, "receipt": to_builtins(receipt) if receipt else None}


@click.command("sql", context_settings={"ignore_unknown_options": False})
@click.argument("sql")
@click.argument("args", nargs=-1)
@target_options
@click.option(
    "--read",
    metavar="LEVEL",
    help="Level of reads: local, session, leader, linearizable, 'bounded MS'.  "
    "[default: session with --token, else local]",
)
@click.option("--token", metavar="POSITION", help="See at least this position.")
@click.option(
    "--durability", metavar="LEVEL", help="What a write waits for, e.g. local, 'any 1', quorum, all+applied."
)
@click.option("--timeout", "timeout_ms", metavar="MS", type=click.IntRange(1), help="Time limit of a write.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV with a header.")
@json_option
def command(
    sql: str,
    args: tuple[str, ...],
    directory: str | None,
    connect: str | None,
    read: str | None,
    token: str | None,
    durability: str | None,
    timeout_ms: int | None,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Run SQL and print the result; `-` reads the SQL from standard input.

    Statements that only read run on the node that answers; others run on the
    leader, all of them as one transaction, and its receipt is printed.

    ARGS replace the question marks: 42 and 1.5 are numbers, null is NULL,
    x'0aff' is a BLOB, '42' in quotes and everything else is text. Put -- before
    ARGS that start with a dash.

    \b
    Examples:
      paceline sql "SELECT * FROM t WHERE id = ?" 7
      paceline sql --durability all "INSERT INTO t(x) VALUES (?)" hello
      paceline sql --read "bounded 500" "SELECT count(*) FROM t"
    """
    if as_csv and as_json:
        raise UsageError("--csv and --json exclude each other")
    from paceline.client.reading import parse_read

    level = parse_read(read or ("session" if token else "local"))
    target = resolve(directory, connect)
    text = sys.stdin.read() if sql == "-" else sql
    values = [parse_argument(argument) for argument in args]
    client = open_client(target.addresses)
    try:
        answers = run_sql(
            client,
            text,
            values,
            read=level,
            token=token,
            durability=durability,
            timeout_ms=timeout_ms,
        )
    finally:
        client.close()
    if as_json:
        from msgspec import json

        click.echo(json.encode(_as_json(answers)))
        return
    for answer in answers:
        _print(answer, "csv" if as_csv else "table")
