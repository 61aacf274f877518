"""Lost writes are compared with today, applied again, and put aside; 'was my write lost?' in all its forms."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any
from urllib.parse import quote

import pytest
from cluster import Cluster, Node, eventually
from conftest import MakeCluster
from test_rewind import elected
from web import get

from paceline.client.results import ExecuteResult


def lost(cluster: Cluster, *words: str) -> tuple[int, Any]:
    via = next(node for node in cluster.nodes.values() if node.running)
    command = [sys.executable, "-m", "paceline", "lost", *words, "--json", "--connect", via.listen]
    done = subprocess.run(command, capture_output=True, text=True, timeout=40)
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


def accounts(node: Node) -> dict[str, int]:
    return {str(k): int(v) for k, v in node.query("SELECT name, value FROM accounts", read="linearizable")}


WRITES = (
    ("a", "UPDATE accounts SET value = value + ? WHERE name = 'a'", [5]),
    ("b", "UPDATE accounts SET value = value + ? WHERE name = 'b'", [7]),
    ("c", "INSERT INTO accounts VALUES ('c', ?)", [1]),
    ("d", "DELETE FROM accounts WHERE name = ?", ["d"]),
)


def lose(cluster: Cluster, old: Node, rest: list[Node]) -> dict[str, ExecuteResult]:
    """Async writes, one entry each, that the rest never hears of."""
    term = old.status()["term"]
    cluster.proxy.isolate(old.name, cluster.nodes)
    done = {}
    with old.client(timeout_ms=2_000) as client:
        for name, sql, args in WRITES:
            done[name] = client.execute([(sql, args)], durability="async", request_id=f"w-{name}".encode())
    new = cluster.wait_for_leader(among=rest, after=term)
    with new.client() as client:  # today differs from what the lost writes found
        client.execute("UPDATE accounts SET value = 100 WHERE name = 'b'", request_id=b"theirs")
        client.execute("DELETE FROM accounts WHERE name = 'd'")
    cluster.proxy.heal()
    cluster.wait_ready()
    eventually("it is in custody", lambda: old.status()["lost"]["entries"] >= len(WRITES))
    return done


@pytest.mark.slow
def test_lost_writes_are_checked_applied_and_discarded(make_cluster: MakeCluster) -> None:
    cluster, old, rest = elected(make_cluster, proxied=True)
    with old.client() as client:
        client.execute(
            [
                "CREATE TABLE accounts (name TEXT PRIMARY KEY, value INTEGER)",
                "INSERT INTO accounts VALUES ('a', 1), ('b', 1), ('d', 1)",
            ],
            durability="all",
        )
    done = lose(cluster, old, rest)
    _, listed = lost(cluster, "list")
    (item,) = listed["lost"]
    _, shown = lost(cluster, "show", item["id"])
    number = {r["request_id"]: n for n, r in enumerate(shown["requests"], 1) if r["request_id"]}

    asked = {
        form: get(rest[0], f"/api/v1/lost/{quote(form)}").json
        for form in (item["id"], "w-a", "theirs", "nobody", done["a"].receipt.position)  # type: ignore[union-attr]
    }
    assert asked[item["id"]]["requests"] == shown["requests"]
    for form in ("w-a", done["a"].receipt.position):  # type: ignore[union-attr]
        assert asked[form]["lost"] is True and asked[form]["kept"] is True, asked[form]
        assert asked[form]["custody"] == {"node": old.name, "id": item["id"]}
    assert asked["w-a"]["request"]["sql"][0]["args"] == [5]
    assert (asked["theirs"]["lost"], asked["theirs"]["outcome"]) == (False, "committed")
    assert (asked["nobody"]["lost"], asked["nobody"]["outcome"]) == (None, "unknown")

    code, whole = lost(cluster, "check", item["id"])
    (table,) = (t for t in whole["tables"] if t["table"] == "accounts")
    verdict = {(row["before"] or row["after"])[0]: row["verdict"] for row in table["rows"]}
    assert verdict == {"a": "same", "b": "changed", "c": "same", "d": "applied"} and code == 1
    code, one = lost(cluster, "check", item["id"], "--request", str(number["w-a"]))
    assert code == 0 and one["conflicts"] == 0 and one["counts"]["same"] == 1

    for outcome in ("applied", "repeated"):
        code, report = lost(
            cluster, "apply", item["id"], "--request", str(number["w-a"]), "--request", str(number["w-c"])
        )
        assert code == 0 and [r["outcome"] for r in report["requests"]] == [outcome] * 2
        assert accounts(cluster.leader) == {"a": 6, "b": 100, "c": 1}

    code, answer = lost(cluster, "discard", item["id"])
    assert code == 0 and answer["discarded"] is True
    assert lost(cluster, "list")[1]["lost"] == []
    (aside,) = lost(cluster, "list", "--all")[1]["lost"]
    assert aside["discarded"] and aside["id"] == item["id"]
    eventually("status forgets it", lambda: old.status()["lost"]["entries"] == 0)
    old.kill()
    old.start()
    cluster.wait_ready()
    assert old.status()["lost"]["entries"] == 0
    assert get(rest[0], "/api/v1/lost/w-a").json["lost"] is True, "it was, whatever was done about it"
    cluster.assert_equal()
