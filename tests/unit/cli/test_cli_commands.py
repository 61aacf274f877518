"""Commands against a fake cluster: what they ask for, what they print, how they exit."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from clifakes import POSITION, FakeClient, member, run, status

from paceline.cli.cluster import Cluster, LocalNode, Source, node_addresses
from paceline.cli.commands import node
from paceline.cli.context import Target
from paceline.cli.members import Overview
from paceline.errors import PacelineError, TimedOut


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A local cluster's directory, never started."""
    nodes = [LocalNode(name=f"n{n + 1}", **node_addresses("127.0.0.1", 4001 + 10 * n)) for n in range(3)]
    Cluster(tmp_path, "main", nodes, None).save()
    return tmp_path


# -- sql -------------------------------------------------------------------------


def test_sql_reads_by_query_and_prints_a_table(fake: FakeClient) -> None:
    fake.rows = (["id", "name"], [[1, "Ada"], [10, None]])
    result = run(["sql", "SELECT * FROM t WHERE id > ?", "--read", "leader", "0"])
    assert result.exit_code == 0, result.output
    assert fake.calls == [("query", "SELECT * FROM t WHERE id > ?", [0], "leader", None)]
    assert result.stdout == "id  name\n──  ────\n 1  Ada\n10  NULL\n"
    assert fake.closed == 1


def test_sql_writes_by_execute_and_prints_the_receipt(fake: FakeClient) -> None:
    result = run(["sql", "--durability", "any 1", "--timeout", "500", "INSERT INTO t VALUES (?)", "x'00ff'"])
    assert fake.calls == [("execute", [("INSERT INTO t VALUES (?)", [b"\x00\xff"])], "any 1", 500)]
    assert result.stdout == ""
    assert result.stderr == "1 row affected\nany 1 at 1/42, durable on n1, n2, applied on n1\n"


def test_sql_with_a_write_in_it_is_one_transaction(fake: FakeClient) -> None:
    run(["sql", "SELECT 1; INSERT INTO t VALUES (1); SELECT ';'"])
    assert [call[0] for call in fake.calls] == ["execute"]
    assert [sql for sql, _ in fake.calls[0][1]] == ["SELECT 1", "INSERT INTO t VALUES (1)", "SELECT ';'"]


def test_sql_from_standard_input(fake: FakeClient) -> None:
    run(["sql", "-"], input="SELECT 1;\nSELECT 2;\n")
    assert [call[1] for call in fake.calls] == ["SELECT 1", "SELECT 2"]


def test_sql_json_has_results_and_receipt(fake: FakeClient) -> None:
    fake.returning = (["id", "b"], [[1, b"\x01"]])
    shape = json.loads(run(["sql", "--json", "INSERT INTO t VALUES (1) RETURNING id, b"]).stdout)
    assert shape["results"] == [{"columns": ["id", "b"], "rows": [[1, {"base64": "AQ=="}]]}]
    assert shape["receipt"]["position"] == POSITION and shape["receipt"]["durable_on"] == ["n1", "n2"]


def test_sql_json_of_a_read_has_a_position(fake: FakeClient) -> None:
    shape = json.loads(run(["sql", "--json", "SELECT 1"]).stdout)
    assert shape["results"][0]["position"] == POSITION and shape["receipt"] is None


def test_sql_csv_can_be_read_back(fake: FakeClient) -> None:
    fake.rows = (["a", "b"], [['say "hi", you', None], ["two\nlines", 1.5]])
    rows = list(csv.reader(io.StringIO(run(["sql", "--csv", "SELECT 1"]).stdout)))
    assert rows == [["a", "b"], ['say "hi", you', ""], ["two\nlines", "1.5"]]


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["  -- nothing\n"], "no SQL statement"),
        (["SELECT 1; SELECT 2", "3"], "arguments need one statement, not 2 statements"),
        (["--json", "--csv", "SELECT 1"], "exclude each other"),
        (["SELECT ?", "99999999999999999999"], "does not fit in 64 bits"),
    ],
)
def test_sql_refuses_with_a_reason(fake: FakeClient, args: list[str], text: str) -> None:
    result = run(["sql", *args])
    assert result.exit_code == 2 and text in result.output
    assert fake.calls == []


# -- status ----------------------------------------------------------------------


def test_status_shows_every_member(fake: FakeClient) -> None:
    result = run(["status"])
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["n1", "leader", "voter", "1", "1/42", "0", "ok"] in lines
    assert ["n3", "follower", "voter", "1", "1/42", "0", "ok"] in lines
    assert "cluster main   leader n1   term 1   durability quorum   writes on" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_status_still_shows_a_node_that_is_down(fake: FakeClient) -> None:
    del fake.statuses["127.0.0.1:4011"]
    result = run(["status"])
    assert result.exit_code == 1
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("n2")]
    assert line.split()[6] == "down"
    assert "127.0.0.1:4011: connection refused" in result.stderr


def test_status_of_a_dead_cluster_knows_its_nodes_from_the_directory(
    fake: FakeClient, directory: Path
) -> None:
    fake.statuses.clear()
    result = run(["status", "--dir", str(directory)])
    assert result.exit_code == 1 and "no node answers" in result.stdout
    assert [line.split()[0] for line in result.stdout.splitlines() if " down " in line] == ["n1", "n2", "n3"]


def test_status_asks_members_that_were_not_named(fake: FakeClient) -> None:
    shape = json.loads(run(["status", "--json", "--connect", "127.0.0.1:4021"]).stdout)
    assert shape["status"]["node"] == "n1", "the leader's view counts"
    assert [row["up"] for row in shape["members"]] == [True, True, True]
    assert shape["healthy"] is True and shape["unreachable"] == {}


def test_status_believes_the_leader_of_the_higher_term(fake: FakeClient) -> None:
    members = next(iter(fake.statuses.values()))["members"]
    fake.statuses["127.0.0.1:4011"] = status("n2", members, role="leader", term=2, leader="n2")
    assert json.loads(run(["status", "--json"]).stdout)["status"]["term"] == 2


def test_status_shows_what_the_leader_says_about_a_lagging_follower(fake: FakeClient) -> None:
    members = [member("n1", 4001), member("n2", 4011, lag_entries=1234, lag_ms=56.0, health="catching up")]
    fake.statuses = {m["address"]: status(m["name"], members) for m in members}
    result = run(["status"])
    assert result.exit_code == 1
    assert "1,234 (56 ms)" in result.stdout and "catching up" in result.stdout


# -- writes, verify, node ------------------------------------------------------------


SETTINGS: dict[str, Any] = {
    "cluster": "main",
    "leader": "n1",
    "term": 1,
    "members": ["n1", "n2", "n3"],
    "voters": 3,
    "settings": {
        "authority": "auto",
        "durability": "all",
        "unreached": "degrade",
        "degrade_after_ms": 500,
        "writes": "on",
    },
    "degraded": ["all"],
    "levels": [
        {
            "durability": "all",
            "default": True,
            "applied": True,
            "survives": "the loss of any 2 disks",
            "reachable": False,
            "why": "'all' needs 2 followers, 1 answer (silent: n3)",
        }
    ],
    "notes": [],
}


def test_cluster_show_states_settings_and_what_each_level_survives(fake: FakeClient) -> None:
    fake.admin_answers = {"settings": [SETTINGS, SETTINGS]}
    text = run(["cluster", "show"]).stdout
    assert "unreached: degrade (500 ms)" in text and "degraded: all" in text
    assert "all *" in text and "any 2 disks" in text and "silent: n3" in text
    assert json.loads(run(["cluster", "show", "--json"]).stdout) == SETTINGS


def test_cluster_set_sends_all_changes_in_one_operation(fake: FakeClient) -> None:
    fake.admin_answers = {"settings": [SETTINGS]}
    result = run(["cluster", "set", "durability=first 1 (n1, n2)", "degrade_after_ms=500"])
    assert result.exit_code == 0, result.output
    wanted = {"durability": "first 1 (n1, n2)", "degrade_after_ms": 500}
    assert fake.calls == [("admin", "settings", wanted)]


@pytest.mark.parametrize("pair", ["durability", "=quorum", "durability="])
def test_cluster_set_wants_key_and_value(fake: FakeClient, pair: str) -> None:
    result = run(["cluster", "set", pair])
    assert result.exit_code == 2 and "KEY=VALUE" in result.stderr and not fake.calls


def test_status_shows_the_policy_and_degraded_levels(fake: FakeClient) -> None:
    assert "unreached: -" in run(["status"]).stdout, "a node of an older release"
    leader = next(iter(fake.statuses.values()))
    leader |= {"unreached": "degrade", "degrade_after_ms": 500, "degraded": ["all"]}
    text = run(["status"]).stdout
    assert "unreached: degrade (500 ms)" in text and "degraded: all" in text


def test_receipt_of_a_degraded_write_says_what_was_asked_for() -> None:
    from clifakes import receipt

    from paceline.cli.running_sql import receipt_line

    found = receipt("local")
    found.asked = "all"
    assert receipt_line(found) == (
        "local at 1/42 (asked for all: degraded), durable on n1, n2, applied on n1"
    )


def test_sql_reads_at_a_bounded_level(fake: FakeClient) -> None:
    assert run(["sql", "--read", "bounded 500", "SELECT 1"]).exit_code == 0
    assert fake.calls[-1][3] == "bounded 500"
    refused = run(["sql", "--read", "fresh", "SELECT 1"])
    assert refused.exit_code == 2 and "bounded MS" in refused.stderr


def test_writes_stop_and_start_are_admin_operations(fake: FakeClient) -> None:
    assert run(["writes", "stop"]).stdout == "writes are stopped\n"
    assert run(["writes", "start"]).stdout == "writes are on\n"
    assert [call[1] for call in fake.calls] == ["writes_stop", "writes_start"]


def test_node_remove_edits_the_membership_then_the_directory(fake: FakeClient, directory: Path) -> None:
    result = run(["node", "remove", "n3", "--dir", str(directory)])
    assert result.exit_code == 0, result.output
    assert fake.calls == [("admin", "node_remove", {"name": "n3"})]
    assert [node.name for node in Cluster.load(directory).nodes] == ["n1", "n2"]


def test_node_remove_that_is_refused_changes_nothing(fake: FakeClient, directory: Path) -> None:
    from paceline.errors import UsageError

    fake.error = UsageError("n1 is the leader")
    result = run(["node", "remove", "n1", "--dir", str(directory)])
    assert result.exit_code == 2 and "n1 is the leader" in result.output
    assert [node.name for node in Cluster.load(directory).nodes] == ["n1", "n2", "n3"]


def test_node_list_as_json(fake: FakeClient) -> None:
    rows = json.loads(run(["node", "list", "--json"]).stdout)
    assert [row["name"] for row in rows] == ["n1", "n2", "n3"]
    assert rows[0]["database"] == "/d/n1/db/main.db"


def test_node_add_needs_a_directory(fake: FakeClient) -> None:
    result = run(["node", "add", "n4"])
    assert result.exit_code == 2 and "paceline serve --join" in result.output


def test_node_add_refuses_a_bad_name(fake: FakeClient, directory: Path) -> None:
    result = run(["node", "add", "n 4", "--dir", str(directory)])
    assert result.exit_code == 2 and "bad node name" in result.output


# -- context -----------------------------------------------------------------------


def test_dir_and_connect_exclude_each_other(fake: FakeClient, directory: Path) -> None:
    result = run(["status", "--dir", str(directory), "--connect", "127.0.0.1:1"])
    assert result.exit_code == 2 and "exclude each other" in result.output


def test_address_without_port_is_named(fake: FakeClient) -> None:
    result = run(["status", "--connect", "somewhere"])
    assert result.exit_code == 2 and "--connect: 'somewhere' is not host:port" in result.output


def test_directory_that_is_no_cluster_is_named(fake: FakeClient, tmp_path: Path) -> None:
    result = run(["status", "--dir", str(tmp_path)])
    assert result.exit_code == 2 and "has no cluster.json" in result.output


def test_damaged_cluster_file_is_named(fake: FakeClient, directory: Path) -> None:
    (directory / "cluster.json").write_text("{")
    result = run(["status", "--dir", str(directory)])
    assert result.exit_code == 2 and "cluster.json" in result.output


def test_up_with_another_file_is_refused(fake: FakeClient, directory: Path) -> None:
    file = directory / "a.db"
    file.touch()
    result = run(["up", str(file), "--dir", str(directory)])
    assert result.exit_code == 2 and "holds a cluster already (started empty)" in result.output
    cluster = Cluster.load(directory)
    other = directory / "b.db"
    other.touch()
    cluster.source = Source.of(other)
    cluster.save()
    result = run(["up", str(file), "--dir", str(directory)])
    assert result.exit_code == 2 and f"started from {other}" in result.output


@pytest.mark.parametrize("option", [["--nodes", "5"], ["--port", "9000"], ["--durability", "all"]])
def test_up_refuses_options_that_would_have_no_effect(
    fake: FakeClient, directory: Path, option: list[str]
) -> None:
    result = run(["up", "--dir", str(directory), *option])
    assert result.exit_code == 2 and f"{option[0]} has no effect" in result.output


def test_down_says_when_nothing_runs(fake: FakeClient, directory: Path) -> None:
    result = run(["down", "--dir", str(directory)])
    assert result.exit_code == 0 and "is not running" in result.stdout


def test_sim_seeds_are_checked() -> None:
    for args, text in (
        (["--seeds", "9..1"], "A <= B"),
        ([], "either"),
        (["--seed", "1", "--seeds", "1..2"], "either"),
    ):
        result = run(["sim", *args])
        assert result.exit_code == 2 and text in result.output


# -- verify ------------------------------------------------------------------------


def digests(**states: str) -> dict[str, object]:
    """A ``verify_result``: node -> digest, or one of the states without one."""
    nodes = [
        {"name": name, "state": state, "position": POSITION}
        if state in ("waiting", "running", "failed", "unreachable")
        else {"name": name, "state": "done", "position": POSITION, "digest": state}
        for name, state in states.items()
    ]
    return {"id": "k", "leader": "n1", "position": POSITION, "nodes": nodes}


def test_verify_waits_for_all_digests_and_compares_with_the_leader(fake: FakeClient) -> None:
    fake.admin_answers["verify"] = [{"id": "k"}]
    fake.admin_answers["verify_result"] = [digests(n1="aa", n2="running"), digests(n1="aa", n2="aa")]
    result = run(["verify"])
    assert result.exit_code == 0 and "all equal" in result.stdout, result.output
    assert fake.calls[1:] == [("admin", "verify_result", {"id": "k"})] * 2


def test_verify_fails_when_one_differs(fake: FakeClient) -> None:
    fake.admin_answers["verify"] = [{"id": "k"}]
    fake.admin_answers["verify_result"] = [digests(n1="aa", n2="bb", n3="aa")]
    result = run(["verify", "--json"])
    assert result.exit_code == 1
    shape = json.loads(result.stdout)
    assert shape["equal"] is False
    assert [node["equal"] for node in shape["nodes"]] == [True, False, True]


def test_verify_does_not_call_a_missing_digest_equal(fake: FakeClient) -> None:
    fake.admin_answers["verify"] = [{"id": "k"}]
    fake.admin_answers["verify_result"] = [digests(n1="aa", n2="failed")]
    result = run(["verify"])
    assert result.exit_code == 1 and "nothing from n2" in result.stdout


def test_verify_gives_up_after_its_patience(fake: FakeClient) -> None:
    fake.admin_answers["verify"] = [{"id": "k"}]
    fake.admin_answers["verify_result"] = [digests(n1="aa", n2="running")] * 100
    result = run(["verify", "--timeout", "1"])
    assert result.exit_code == 1 and "no digest within 1 s from n2" in result.output


# -- bench -------------------------------------------------------------------------


class FakeAsyncClient:
    """Counts the rows it was given; every answer comes at once."""

    statements: list[str] = []  # noqa: RUF012 (shared on purpose: one list for all clients)

    def __init__(self, addresses: list[str]) -> None:
        pass

    async def status(self) -> dict[str, object]:
        return {}

    async def execute(
        self, statements: list[tuple[str, list[object]]], durability: str | None = None
    ) -> None:
        import asyncio

        self.statements += [f"{durability}: {sql}" for sql, _ in statements]
        await asyncio.sleep(0)

    async def close(self) -> None:
        pass


def test_bench_measures_every_number_of_clients_and_tidies_up(
    fake: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    import paceline.client

    monkeypatch.setattr(paceline.client, "AsyncClient", FakeAsyncClient)
    FakeAsyncClient.statements = []
    result = run(["bench", "--clients", "1,3", "--seconds", "0.1", "--durability", "any  1", "--json"])
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["clients"] for row in rows] == [1, 3]
    inserts = [sql for sql in FakeAsyncClient.statements if "INSERT" in sql]
    assert sum(row["transactions"] for row in rows) == len(inserts)
    assert all(sql.startswith("any 1: ") for sql in inserts)
    assert FakeAsyncClient.statements[-1] == "None: DROP TABLE IF EXISTS bench_paceline"
    assert all(row["p50_ms"] <= row["p99_ms"] <= row["max_ms"] for row in rows)


@pytest.mark.parametrize("clients", ["0", "1,x", "", "1,,2"])
def test_bench_refuses_bad_numbers_of_clients(fake: FakeClient, clients: str) -> None:
    result = run(["bench", "--clients", clients])
    assert result.exit_code == 2 and "expected numbers from 1 to 1024" in result.output


# -- backup ------------------------------------------------------------------------


def test_backup_overwrites_nothing_unasked(fake: FakeClient, tmp_path: Path) -> None:
    file = tmp_path / "b.db"
    file.write_text("precious")
    result = run(["backup", str(file)])
    assert result.exit_code == 2 and "exists" in result.output
    assert file.read_text() == "precious"


def test_backup_comes_from_a_healthy_follower(fake: FakeClient) -> None:
    from paceline.cli.commands.backup import _source

    members = next(iter(fake.statuses.values()))["members"]
    assert _source(["127.0.0.1:4001"], None)[1:] == ("n2", "127.0.0.1:4013")
    members[1]["health"] = "catching up"
    assert _source(["127.0.0.1:4001"], None)[1] == "n3"
    members[2]["reachable"] = False
    assert _source(["127.0.0.1:4001"], None)[1] == "n1", "the leader when nobody else can"
    assert _source(["127.0.0.1:4001"], "n2")[1] == "n2"


def test_forced_backup_that_fails_keeps_the_old_one(
    fake: FakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paceline.cli.commands import backup
    from paceline.errors import Corruption

    file = tmp_path / "b.db"
    file.write_text("old")

    async def fails(path: str, *_rest: object) -> str:
        raise Corruption("bad digest")

    async def works(path: str, *_rest: object) -> str:
        Path(path).write_text("new")  # noqa: ASYNC240
        return POSITION

    monkeypatch.setattr(backup, "_copy", fails)
    assert run(["backup", str(file), "--force"]).exit_code == 1
    assert file.read_text() == "old"
    monkeypatch.setattr(backup, "_copy", works)
    shape = json.loads(run(["backup", str(file), "--force", "--json"]).stdout)
    assert file.read_text() == "new" and shape["bytes"] == 3 and shape["position"] == POSITION


def test_node_add_gives_up_on_a_node_that_never_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(tmp_path, "main", [], None)
    cluster.node_dir("n4").mkdir()
    target = Target([], cluster)
    monkeypatch.setattr(node, "look", lambda _target: Overview(None, [], {}))
    error = "paceline: no room\n  hint: make some\n"
    cluster.log_path("n4").write_text(error * 2)
    with pytest.raises(TimedOut):
        node._follow_join(target, cluster, "n4", 0.0)
    cluster.log_path("n4").write_text(error * 3)
    with pytest.raises(PacelineError, match=r"n4 does not start: no room \(make some\).*node remove n4"):
        node._follow_join(target, cluster, "n4", 60.0)
