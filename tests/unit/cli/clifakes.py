"""A cluster that exists only in memory, and the command line run against it."""

from __future__ import annotations

from typing import Any

import click
from click.testing import CliRunner, Result

from paceline.cli.main import _verdict, cli
from paceline.client.results import ExecuteResult, QueryResult, Receipt, StatementResult

POSITION = "00000001-00000000000042-" + "ab" * 16


def run(args: list[str], input: str | None = None, env: dict[str, str] | None = None) -> Result:
    """As the program does it: errors become text and an exit code."""

    @click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
    @click.argument("rest", nargs=-1, type=click.UNPROCESSED)
    def program(rest: tuple[str, ...]) -> None:
        try:
            code = cli.main(args=list(rest), prog_name="paceline", standalone_mode=False)
        except Exception as error:
            code = _verdict(error)
        raise click.exceptions.Exit(code if isinstance(code, int) else 0)

    return CliRunner().invoke(program, ["--", *args], input=input, env=env)


def receipt(durability: str = "quorum") -> Receipt:
    return Receipt(
        position=POSITION,
        term=1,
        index=42,
        durability=durability,
        durable_on=["n1", "n2"],
        applied_on=["n1"],
        leader="n1",
    )


def member(name: str, port: int, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "role": "leader" if name == "n1" else "follower",
        "voting": "voter",
        "address": f"127.0.0.1:{port}",
        "http": f"127.0.0.1:{port + 1}",
        "peer": f"127.0.0.1:{port + 2}",
        "reachable": True,
        "durable": 42,
        "applied": 42,
        "position": POSITION,
        "lag_entries": 0,
        "lag_ms": 0.0,
        "health": "ok",
        "progress": None,
    } | changes


def status(node: str, members: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return {
        "cluster": "main",
        "cluster_id": "00" * 16,
        "node": node,
        "role": "leader" if node == "n1" else "follower",
        "term": 1,
        "leader": "n1",
        "authority": "designated",
        "durability": "quorum",
        "writes": "on",
        "version": "0.1.0",
        "format": "page",
        "position": POSITION,
        "commit": 42,
        "applied": 42,
        "uptime_s": 125.0,
        "health": "ok",
        "members": members,
        "log": {"first": 1, "last": 42, "durable": 42, "bytes": 123_456, "segments": 1},
        "database": {"path": f"/d/{node}/db/main.db", "bytes": 1_400_000, "wal_bytes": 0, "page_size": 4096},
        "counters": {},
        "pid": 1,
    } | changes


def three_nodes() -> dict[str, dict[str, Any]]:
    """Address -> status of three healthy nodes."""
    members = [member(f"n{n + 1}", 4001 + 10 * n) for n in range(3)]
    return {m["address"]: status(m["name"], members) for m in members}


class FakeClient:
    """Answers from a script; ``calls`` has what was asked."""

    def __init__(self, statuses: dict[str, dict[str, Any]]) -> None:
        self.statuses = statuses
        self.calls: list[tuple[Any, ...]] = []
        self.rows: tuple[list[str], list[list[Any]]] = (["x"], [[1]])
        self.returning: tuple[list[str], list[list[Any]]] | None = None
        self.admin_answers: dict[str, list[dict[str, Any]]] = {}
        self.error: Exception | None = None
        self.closed = 0

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.closed += 1

    def _call(self, *call: Any) -> None:
        self.calls.append(call)
        if self.error is not None:
            raise self.error

    def status(self) -> dict[str, Any]:
        return next(iter(self.statuses.values()))

    def query(self, sql: str, args: Any = (), read: str = "local", token: str | None = None) -> QueryResult:
        self._call("query", sql, list(args), read, token)
        columns, rows = self.rows
        return QueryResult(columns, [None] * len(columns), rows, POSITION, "n1", 1, "n2")

    def execute(
        self,
        statements: Any,
        durability: str | None = None,
        timeout_ms: int | None = None,
        request_id: bytes | None = None,
    ) -> ExecuteResult:
        self._call("execute", list(statements), durability, timeout_ms)
        columns, rows = self.returning or (None, None)
        results = [StatementResult(rows_affected=1, columns=columns, rows=rows) for _ in statements]
        return ExecuteResult(results, receipt(durability or "quorum"))

    def admin(self, op: str, **params: Any) -> dict[str, Any]:
        self._call("admin", op, params)
        answers = self.admin_answers.get(op)
        return answers.pop(0) if answers else {}

    ask = admin
