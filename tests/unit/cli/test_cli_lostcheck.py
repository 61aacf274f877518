"""``lost check``, ``apply``, ``discard``: verdicts, order, refusals, and what is sent."""

from __future__ import annotations

import json
from typing import Any, cast

import apsw
import pytest
from clifakes import FakeClient, receipt, run
from test_cli_lost import ID, item, request

from paceline.cli import lostcheck
from paceline.client.blocking import Client
from paceline.client.results import ExecuteResult, QueryResult, StatementResult
from paceline.errors import SqlError, UsageError


class Today:
    """The database of today, by real SQLite."""

    def __init__(self, script: str) -> None:
        self.connection = apsw.Connection(":memory:")
        self.connection.execute(script)
        self.levels: list[str] = []
        self.seen: dict[bytes, int] = {}
        self.ran: list[tuple[Any, str | None, bytes]] = []

    def query(self, sql: str, args: Any = (), *, read: str = "local") -> QueryResult:
        self.levels.append(read)
        try:
            cursor = self.connection.execute(sql, args)
            rows = [list(row) for row in cursor]
        except apsw.SQLError as error:
            raise SqlError(str(error), code=1, extended=1, name="SQLITE_ERROR", statement=1) from None
        return QueryResult([], [], rows, "P", "n1", 1, "n1")

    def execute(self, statements: Any, *, durability: str | None, request_id: bytes) -> ExecuteResult:
        if any("fail" in sql for sql, _ in statements):
            raise SqlError("it fails", code=1, extended=1, name="SQLITE_ERROR", statement=1)
        self.ran.append((statements, durability, request_id))
        again = self.seen.get(request_id)
        self.seen[request_id] = 7
        return ExecuteResult([StatementResult(0, 2)], receipt(), again)


def table(name: str, key: list[str], columns: list[str], *changes: Any, **more: Any) -> dict[str, Any]:
    rows = [{"key": k, "before": b, "after": a} for k, b, a in changes]
    return {"table": name, "key": key, "columns": columns, "changes": rows, "more": False} | more


def check(today: Today, *tables: dict[str, Any]) -> dict[str, Any]:
    shape = item(rows=list(tables), rows_problem=None)
    return lostcheck.check(cast(Client, today), shape)


def verdicts(report: dict[str, Any]) -> list[list[str]]:
    return [[row["verdict"] for row in t["rows"]] for t in report["tables"]]


def test_each_row_has_its_verdict_by_a_read_of_the_leader() -> None:
    today = Today(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, x); INSERT INTO t VALUES (1,'a'),(2,'B'),(3,'z'),(5,1.0)"
    )
    report = check(
        today,
        table(
            "t",
            ["rowid"],
            ["id", "x"],
            ([1], [1, "a"], [1, "b"]),
            ([2], [2, "A"], [2, "B"]),
            ([3], [3, "c"], [3, "d"]),
            ([4], [4, "e"], [4, "f"]),
            ([5], [5, 1], [5, 2]),
            ([6], None, [6, "new"]),
            ([3], None, [3, "other"]),
            ([7], [7, "old"], None),
        ),
    )
    # the two changes of row 3 are one: from the first before to the last after
    assert verdicts(report) == [["same", "applied", "changed", "gone", "changed", "same", "applied"]]
    assert report["conflicts"] == 3 and today.levels == ["leader"]
    assert report["tables"][0]["rows"][2]["today"] == [3, "z"]


def test_keys_of_several_columns_blobs_and_quoted_names() -> None:
    today = Today(
        'CREATE TABLE "a ""b"(k, n, v, PRIMARY KEY(k, n)) WITHOUT ROWID; INSERT INTO "a ""b" VALUES (x\'00\', 1, 5)'
    )
    blob = {"base64": "AA=="}
    report = check(
        today,
        table(
            'a "b',
            ["k", "n"],
            ["k", "n", "v"],
            ([blob, 1], [blob, 1, 5], None),
            ([blob, 2], None, [blob, 2, 6]),
        ),
    )
    assert verdicts(report) == [["same", "same"]]


def test_what_several_entries_did_to_a_row_is_one_change() -> None:
    today = Today("CREATE TABLE t(id INTEGER PRIMARY KEY, x); INSERT INTO t VALUES (1, 'a')")
    first = table("t", ["rowid"], ["id", "x"], ([1], [1, "a"], [1, "b"]), index=18)
    second = table("t", ["rowid"], ["id", "x"], ([1], [1, "b"], [1, "c"]), index=19)
    report = check(today, first, second)
    assert verdicts(report) == [["same"]]
    assert report["tables"][0]["rows"][0]["after"] == [1, "c"]


@pytest.mark.parametrize("more", [{}, {"schema": {"before": None, "after": "CREATE TABLE t(x)"}}])
def test_table_that_is_another_one_is_not_compared(more: dict[str, Any]) -> None:
    report = check(Today("CREATE TABLE other(x)"), table("t", ["rowid"], ["id"], ([1], None, [1]), **more))
    assert verdicts(report) == [["unchecked"]] and report["conflicts"] == 1
    assert report["tables"][0]["problem"]


def apply(today: Today, requests: list[dict[str, Any]], *numbers: int) -> list[dict[str, Any]]:
    shape = item(requests=requests)
    wanted = lostcheck.chosen(requests, numbers)
    return list(lostcheck.apply(cast(Client, today), shape, wanted, "all"))


def test_requests_run_in_order_under_ids_of_their_place_and_never_twice() -> None:
    requests = [
        request(sql=[{"sql": "INSERT INTO t VALUES (?)", "args": [{"base64": "AP8="}]}]),
        request(sql=[{"sql": "two", "args": {"a": 1}}]),
        request(index=19, sql=[{"sql": "three", "args": []}]),
    ]
    today = Today("")
    assert [r["outcome"] for r in apply(today, requests)] == ["applied"] * 3
    assert today.ran[0] == (
        [("INSERT INTO t VALUES (?)", [b"\x00\xff"])],
        "all",
        b"lost-d9a1010dbb623221-18-0",
    )
    assert [identity for _, _, identity in today.ran[1:]] == [
        b"lost-d9a1010dbb623221-18-1",
        b"lost-d9a1010dbb623221-19-0",
    ]
    assert [r["outcome"] for r in apply(today, requests, 3, 2)] == ["repeated"] * 2


def test_after_a_failure_the_rest_is_not_tried() -> None:
    requests = [request(sql=[{"sql": sql, "args": []}]) for sql in ("one", "fail", "three")]
    today = Today("")
    assert [r["outcome"] for r in apply(today, requests)] == ["applied", "failed", "not tried"]
    assert len(today.ran) == 1


def test_requests_without_sql_or_with_cut_values_are_refused() -> None:
    requests = [request(), request(cut=True), request(sql=None, problem="never logged")]
    assert lostcheck.refusals(lostcheck.chosen(requests, [1])) == []
    assert len(lostcheck.refusals(lostcheck.chosen(requests, []))) == 2
    with pytest.raises(UsageError, match="no request 4"):
        lostcheck.chosen(requests, [4])


@pytest.fixture
def lost(fake: FakeClient) -> FakeClient:
    nodes = [{"name": "n2", "state": "ok"}]
    fake.admin_answers["lost_list"] = [{"lost": [item()], "nodes": nodes} for _ in range(3)]
    rows = [table("t", ["rowid"], ["id", "x"], ([1], None, [1, "a"]))]
    whole = item(requests=[request(problem=None), request(cut=True)], rows=rows, rows_problem=None)
    fake.admin_answers["lost_show"] = [whole, whole]
    return fake


def test_check_tells_conflicts_by_its_exit_code(lost: FakeClient) -> None:
    lost.rows = (["rowid", "id", "x"], [[1, 1, "z"]])
    result = run(["lost", "check", "18", "--request", "1"])
    assert result.exit_code == 1 and "changed" in result.output and '[1,"z"]' in result.output
    assert ("admin", "lost_show", {"id": ID, "node": "n2", "entries": [18]}) in lost.calls


@pytest.mark.parametrize("changes", [{"rows": None, "rows_problem": "too large"}, {"more": True}])
def test_check_that_is_not_complete_is_no_success(lost: FakeClient, changes: dict[str, Any]) -> None:
    lost.rows = (["rowid", "id", "x"], [])
    whole = lost.admin_answers["lost_show"][0]
    if "more" in changes:
        whole["rows"][0]["more"] = True
    else:
        whole |= changes
    result = run(["lost", "check", "18"])
    assert result.exit_code == 1 and ("too large" in result.output or "more rows" in result.output)


def test_ids_tells_tables_whose_ids_may_come_again(fake: FakeClient) -> None:
    fake.rows = (
        ["name", "sql", "keys"],
        [
            ["plain", "CREATE TABLE plain(id INTEGER PRIMARY KEY)", "integer"],
            ["safe", "CREATE TABLE safe(id INTEGER PRIMARY KEY AUTOINCREMENT)", "integer"],
            ["text", "CREATE TABLE text(id TEXT PRIMARY KEY)", "text"],
        ],
    )
    output = run(["lost", "ids"]).output
    assert "plain: ids of lost writes may come again" in output and "safe: never again" in output
    assert "text" not in output
    told = json.loads(run(["lost", "ids", "--json"]).stdout)
    assert told == {"tables": [{"table": "plain", "reused": True}, {"table": "safe", "reused": False}]}


def test_check_without_conflict_as_json(lost: FakeClient) -> None:
    lost.rows = (["rowid", "id", "x"], [])
    result = run(["lost", "check", "18", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["counts"]["same"] == 1


def test_apply_refuses_as_a_whole_and_applies_what_is_chosen(lost: FakeClient) -> None:
    refused = run(["lost", "apply", "18"])
    assert refused.exit_code == 2 and "nothing was applied" in refused.output and "were cut" in refused.output
    assert not any(call[0] == "execute" for call in lost.calls)
    result = run(["lost", "apply", "18", "--request", "1", "--json"])
    assert result.exit_code == 0, result.output
    (report,) = json.loads(result.stdout)["requests"]
    assert report["outcome"] == "applied" and report["lost_request_id"] == "order-1"


def test_discard_asks_the_node_that_keeps_it(lost: FakeClient) -> None:
    lost.admin_answers["lost_discard"] = [{"node": "n2", "id": ID, "discarded": True}]
    result = run(["lost", "discard", "18"])
    assert result.exit_code == 0 and "is discarded" in result.output
    assert ("admin", "lost_discard", {"id": ID, "node": "n2"}) in lost.calls
    run(["lost", "list", "--all"])
    assert ("admin", "lost_list", {"all": True}) in lost.calls
