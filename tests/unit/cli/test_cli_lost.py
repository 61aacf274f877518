"""``lost`` and ``failover``: what a person reads, and what programs get."""

from __future__ import annotations

import json
from typing import Any

import pytest
from clifakes import FakeClient, run

from paceline.cli.happenings import Happenings, sentence
from paceline.cli.lostwrites import matches, short_id
from paceline.errors import Unavailable, UsageError

ID = "00000000000018-00000000000020-d9a1010dbb623221"
OTHER = "00000000000031-00000000000031-aaaaaaaaaaaaaaaa"


def item(id: str = ID, node: str = "n2", **changes: Any) -> dict[str, Any]:
    return {
        "node": node,
        "id": id,
        "reason": "not in the leader's log",
        "time": "2026-11-26T07:39:22.621Z",
        "term_now": 9,
        "entries": 3,
        "first_index": 18,
        "last_index": 20,
        "bytes": 1700,
        "requests": 3,
        "acknowledged": 2,
        "problem": None,
    } | changes


def request(**changes: Any) -> dict[str, Any]:
    return {
        "index": 18,
        "durability": "async",
        "request_id": "order-1",
        "acknowledged": True,
        "cut": False,
        "sql": [{"sql": "INSERT INTO t\nVALUES (?)", "args": ["é"]}],
    } | changes


@pytest.fixture
def lost(fake: FakeClient) -> FakeClient:
    nodes = [{"name": name, "state": "ok"} for name in ("n1", "n2")]
    nodes.append({"name": "n3", "state": "unreachable", "error": "connection refused"})
    fake.admin_answers["lost_list"] = [
        {"lost": [item(), item(OTHER, "n1")], "nodes": nodes} for _ in range(3)
    ]
    rows = [
        {
            "table": "t",
            "columns": ["id", "x"],
            "more": False,
            "changes": [{"before": [1, "a"], "after": [1, "b"]}, {"before": None, "after": [2, "c"]}],
        }
    ]
    requests = [request(), request(acknowledged=None, request_id=None), request(acknowledged=False, cut=True)]
    requests.append(request(index=20, sql=None, acknowledged=None, problem="it was never logged"))
    fake.admin_answers["lost_show"] = [item(requests=requests, rows=rows, rows_problem=None)]
    return fake


def test_lost_list_shows_ranges_and_who_was_not_asked(lost: FakeClient) -> None:
    result = run(["lost", "list"])
    assert result.exit_code == 0
    assert "18-20-d9a1010d" in result.output and "31-31-aaaaaaaa" in result.output
    assert "n3 was not asked: connection refused" in result.output


def test_lost_list_of_one_node_and_as_json(lost: FakeClient) -> None:
    result = run(["lost", "list", "--node", "n2", "--json"])
    shape = json.loads(result.stdout)
    assert [entry["id"] for entry in shape["lost"]] == [ID]
    unknown = run(["lost", "list", "--node", "n9"])
    assert unknown.exit_code == 2 and "no member is called 'n9'" in unknown.output


def test_nothing_lost_is_said(fake: FakeClient) -> None:
    fake.admin_answers["lost_list"] = [{"lost": [], "nodes": [{"name": "n1", "state": "ok"}]}]
    assert "no lost writes are kept" in run(["lost", "list"]).output


@pytest.mark.parametrize("id", ["18-20", "18-20-d9a1010d", ID, "0000000000001"])
def test_lost_show_takes_the_beginning_of_an_id(lost: FakeClient, id: str) -> None:
    result = run(["lost", "show", id])
    assert result.exit_code == 0, result.output
    assert ("admin", "lost_show", {"id": ID, "node": "n2"}) in lost.calls
    for text in (
        "INSERT INTO t VALUES (?)",
        '["é"]',
        "durability async   acknowledged   id order-1",
        "acknowledged: unknown",
        "not acknowledged",
        "values were cut",
        "4: 1 acknowledged, 1 not acknowledged, 2 with acknowledgement unknown",
        "it was never logged",
        '- [1, "a"]',
        '+ [1, "b"]',
        '+ [2, "c"]',
    ):
        assert text in result.output, text


def test_lost_show_says_why_there_are_no_rows(lost: FakeClient) -> None:
    lost.admin_answers["lost_show"][0] |= {"rows": None, "rows_problem": "the log is gone"}
    assert "not computed: the log is gone" in run(["lost", "show", "18"]).output


@pytest.mark.parametrize(("id", "says"), [("99", "no lost writes are kept under"), ("", "no lost writes")])
def test_lost_show_of_an_unknown_id_names_who_was_not_asked(lost: FakeClient, id: str, says: str) -> None:
    result = run(["lost", "show", id])
    assert result.exit_code == 2 and says in result.output and "not asked: n3" in result.output


def test_lost_show_of_two_ranges_asks_for_more(lost: FakeClient) -> None:
    both = {"lost": [item(), item(node="n1")], "nodes": []}
    lost.admin_answers["lost_list"] = [both]
    result = run(["lost", "show", "18"])
    assert result.exit_code == 2 and "not one range but 2" in result.output


def test_short_ids_stand_for_long_ones() -> None:
    assert short_id(ID) == "18-20-d9a1010d"
    assert matches(ID, "18-20-d9") and matches(ID, ID[:20]) and not matches(ID, "1-")
    assert not matches(ID, "")


def test_failover_switch_tells_the_new_leader_and_the_pause(fake: FakeClient) -> None:
    fake.admin_answers["switch"] = [{"from": "n1", "to": "n2", "term": 5, "pause_ms": 38} for _ in range(2)]
    result = run(["failover", "switch", "n2", "--timeout", "3"])
    assert result.output.strip() == "n2 leads now (term 5); writes paused 38 ms"
    assert ("admin", "switch", {"node": "n2", "timeout_ms": 3000}) in fake.calls
    assert json.loads(run(["failover", "switch", "n2", "--json"]).stdout)["term"] == 5


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("n2 leads already"), 2),
        (Unavailable("n2 cannot be reached", hint="see paceline status"), 1),
    ],
)
def test_failover_switch_reports_refusals(fake: FakeClient, error: Exception, code: int) -> None:
    fake.error = error
    result = run(["failover", "switch", "n2"])
    assert result.exit_code == code and str(error.args[0]) in result.output


def test_status_shows_authority_voters_and_lost_writes(fake: FakeClient) -> None:
    for status in fake.statuses.values():
        status |= {"authority": "auto", "voters": {"count": 3, "reachable": 2, "away": ["n3"]}}
    fake.statuses["127.0.0.1:4011"]["lost"] = {"ranges": 1, "entries": 3, "requests": 3, "bytes": 1}
    result = run(["status"])
    assert "authority auto" in result.output and "voters reachable 2 of 3" in result.output
    assert "3 lost writes in custody of n2: paceline lost list" in result.output


def test_events_become_sentences_and_repeated_ones_are_shown_once() -> None:
    happenings = Happenings()
    for node in ("n1", "n2"):
        happenings.note({"event": "leader", "node": node, "leader": "n2", "term": 4})
        happenings.note({"event": "position", "node": node})
        happenings.note({"event": "lost", "node": node, "first": "1/18", "last": "1/20"})
    lines = [line.partition(" ")[2] for line in happenings.lines]
    assert lines == [
        "n2 leads term 4",
        "n1: entries 1/18 to 1/20 are lost and in custody",
        "n2: entries 1/18 to 1/20 are lost and in custody",
    ]
    assert sentence({"event": "leader", "leader": None, "term": 3}) is None
