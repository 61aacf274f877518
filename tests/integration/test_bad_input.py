"""Garbage, oversized frames and wrong requests: one clear error each, and the node goes on."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from typing import Any

import pytest
from cluster import Cluster, Node
from web import get, post

from paceline.client.blocking import Client
from paceline.errors import Forbidden, PacelineError, SqlError, TooLarge, UsageError


@pytest.fixture(scope="module")
def cluster(shared: Cluster) -> Cluster:
    with shared.leader.client() as client:
        client.execute(["CREATE TABLE t (id INTEGER PRIMARY KEY, x UNIQUE)", "INSERT INTO t VALUES (1, 1)"])
    shared.wait_level()
    return shared


def say(address: str, data: bytes) -> bytes:
    """Send, stop sending, and read what comes until the other side closes."""
    host, port = address.rsplit(":", 1)
    answer = b""
    with socket.create_connection((host, int(port)), 10) as connection:
        try:
            connection.sendall(data)
            with suppress(OSError):  # it may be closed already
                connection.shutdown(socket.SHUT_WR)
            while more := connection.recv(65536):
                answer += more
        except ConnectionError:
            pass
    return answer


GARBAGE = {
    "random": os.urandom(4096),
    "zeros": bytes(4096),
    "all ones": b"\xff" * 4096,
    "half a frame": struct.pack(">I", 100) + b"x" * 10,
    "4 GiB frame": b"\xff\xff\xff\xff",
    "256 MiB frame": struct.pack(">I", 1 << 28) + b"x" * 1000,
    "HTTP on it": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(500),
    "endless header": b"GET /" + b"a" * 200_000,
    "broken chunk": b"POST /api/v1/execute HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "negative length": b"POST /api/v1/execute HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    "huge length": b"POST /api/v1/execute HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("port", ["listen", "http", "peer"])
@pytest.mark.parametrize("node", ["n1", "n2"])
def test_garbage_on_any_port_changes_nothing(cluster: Cluster, node: str, port: str) -> None:
    victim = cluster[node]
    before = victim.memory_peak_bytes()
    for data in GARBAGE.values():
        say(getattr(victim, port), data)
    assert victim.memory_peak_bytes() - before < 64 << 20
    assert victim.status()["ready"]
    assert "Traceback" not in victim.output


def test_garbage_after_a_valid_greeting_between_nodes_changes_nothing(cluster: Cluster) -> None:
    import msgspec

    from paceline.runtime.greeting import Hello

    members = {m["name"]: m for m in cluster.leader.status()["members"]}
    hello = Hello(
        purpose="peer",
        cluster=cluster.leader.status()["cluster_id"],
        cluster_name="main",
        name="n2",
        incarnation=members["n2"]["incarnation"],
        boot="00",
    )
    greeting = msgspec.msgpack.encode(hello)
    framed = struct.pack(">I", len(greeting)) + greeting
    for data in GARBAGE.values():
        say(cluster.leader.peer, framed + data)
        say(cluster.leader.peer, framed + struct.pack(">I", len(data)) + data)
    with cluster.client() as client:
        client.execute("INSERT INTO t (x) VALUES ('after garbage')", durability="all")
    cluster.assert_equal()


def test_native_client_on_the_wrong_port_is_told(cluster: Cluster) -> None:
    for address in (cluster.leader.http, cluster.leader.peer):
        with Client([address], timeout_ms=1500) as client, pytest.raises(PacelineError) as caught:
            client.query("SELECT 1")
        assert address in str(caught.value)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty|truncated|JSON"),
        (b"{", "JSON|truncated"),
        (b"[]", "object"),
        (b'{"statements": "SELECT 1"}', "array"),
        (b'{"statements": []}', "at least one statement"),
        (b'{"statements": [["SELECT ?", [true]]]}', "statements"),
        (b'{"statements": [["SELECT ?", [[1]]]]}', "statements"),
        (b'{"statements": [["SELECT ?", [9223372036854775808]]]}', "64-bit|statements"),
        (b'{"statements": [["SELECT ?", [{"base64": "%%%"}]]]}', "base64"),
        (b'{"statements": ["SELECT 1"], "timeout_ms": -1}', "timeout_ms"),
        (b'{"statements": ["SELECT 1"], "surprise": 1}', "surprise"),
        (b'{"statements": ["SELECT 1"], "durability": "most"}', "durability|most"),
        (b'{"statements": ["SELECT 1"], "request_id": ""}', "request_id"),
        (b'\xff\xfe{"statements": []}', "JSON|UTF-8|malformed"),
    ],
)
def test_wrong_body_is_refused_with_the_place(cluster: Cluster, body: bytes, words: str) -> None:
    answer = post(cluster["n2"], "/api/v1/execute", body)
    assert answer.status == 400, answer.json
    text = str(answer.error)
    assert any(word.lower() in text.lower() for word in words.split("|")), text


def test_unknown_paths_and_methods_name_the_known_ones(cluster: Cluster) -> None:
    missing = get(cluster.leader, "/api/v1/nonsense")
    assert missing.status == 404 and "/api/v1/execute" in str(missing.error)
    assert get(cluster.leader, "/api/v1/execute").status == 405
    unknown = post(cluster.leader, "/api/v1/admin/explode", {})
    assert unknown.status == 400 and "node_remove" in str(unknown.error)


def refusal(node: Node, *statements: Any) -> PacelineError:
    with node.client() as client, pytest.raises(PacelineError) as caught:
        client.execute(list(statements))
    return caught.value


@pytest.mark.parametrize(
    ("sql", "kind", "words"),
    [
        ("SELEC 1", SqlError, "syntax error"),
        ("INSERT INTO missing VALUES (1)", SqlError, "no such table: missing"),
        ("INSERT INTO t VALUES (2, 1)", SqlError, "UNIQUE"),
        ("INSERT INTO t (x) VALUES (7); INSERT INTO t (x) VALUES (8)", PacelineError, "one statement"),
        ("INSERT INTO t (x) VALUES (7); -- and more\nDROP TABLE t", PacelineError, "one statement"),
        ("BEGIN", Forbidden, "transaction"),
        ("COMMIT", Forbidden, "transaction"),
        ("SAVEPOINT s", Forbidden, "transaction"),
        ("ATTACH 'other.db' AS other", Forbidden, "ATTACH"),
        ("DETACH main", Forbidden, "DETACH|ATTACH"),
        ("VACUUM INTO 'copy.db'", PacelineError, "VACUUM INTO|INTO"),
        ("PRAGMA journal_mode = DELETE", Forbidden, "journal_mode"),
        ("PRAGMA synchronous = OFF", Forbidden, "synchronous"),
        ("PRAGMA writable_schema = ON", Forbidden, "writable_schema"),
        ("PRAGMA wal_checkpoint(TRUNCATE)", Forbidden, "wal_checkpoint"),
        ("PRAGMA locking_mode = EXCLUSIVE", Forbidden, "locking_mode"),
        ("PRAGMA page_size = 512", PacelineError, "page_size"),
        ("CREATE TEMP TABLE x (a)", Forbidden, "temporary"),
        ("CREATE TABLE _paceline_mine (a)", Forbidden, "_paceline"),
        ("DELETE FROM _paceline_position", Forbidden, "_paceline"),
        ("DROP TABLE _paceline_position", Forbidden, "_paceline"),
        ("SELECT load_extension('x')", PacelineError, "load_extension"),
        ("", PacelineError, "empty|statement"),
        ("-- nothing", PacelineError, "empty|statement"),
    ],
)
@pytest.mark.parametrize("through", ["n1", "n3"])
def test_bad_sql_is_refused_and_nothing_changes(
    cluster: Cluster, through: str, sql: str, kind: type[PacelineError], words: str
) -> None:
    before = cluster.leader.query("SELECT count(*), max(id) FROM t", read="leader")
    error = refusal(cluster[through], "INSERT INTO t (x) VALUES ('with it')", sql)
    assert isinstance(error, kind), repr(error)
    assert any(word.lower() in str(error).lower() for word in words.split("|")), str(error)
    assert cluster.leader.query("SELECT count(*), max(id) FROM t", read="leader") == before


@pytest.mark.parametrize("sql", ["INSERT INTO t (x) VALUES (9)", "DROP TABLE t", "PRAGMA user_version = 9"])
@pytest.mark.parametrize("through", ["n1", "n2"])
def test_query_cannot_write(cluster: Cluster, through: str, sql: str) -> None:
    with pytest.raises(PacelineError):
        cluster[through].query(sql)
    assert cluster[through].query("SELECT count(*) FROM t WHERE x = 9") == [[0]]


def test_oversized_requests_are_refused_by_their_limit(cluster: Cluster) -> None:
    assert isinstance(refusal(cluster.leader, "SELECT '" + "x" * (1 << 20) + "'"), TooLarge)
    assert isinstance(refusal(cluster.leader, *(["SELECT 1"] * 10_001)), TooLarge)
    too_many = refusal(cluster.leader, ("SELECT 1", [0] * 40_000))
    assert isinstance(too_many, TooLarge) and "32766" in str(too_many).replace(",", "")


def test_endless_statements_stop_at_their_time_limit(cluster: Cluster) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
    with cluster.leader.client() as client:
        with pytest.raises(PacelineError):
            client.execute([endless + "INSERT INTO t (x) SELECT 'e' || i FROM n"], timeout_ms=400)
        with pytest.raises(PacelineError):
            client.query(endless + "SELECT count(*) FROM n", timeout_ms=400)
        client.execute("INSERT INTO t (x) VALUES ('still there')")
        assert client.query("SELECT count(*) FROM t WHERE x LIKE 'e%'", read="leader").rows == [[0]]


def test_wrong_number_of_arguments_is_named(cluster: Cluster) -> None:
    with cluster["n2"].client() as client:
        with pytest.raises(PacelineError) as caught:
            client.execute([("INSERT INTO t (x) VALUES (?)", [])])
        assert "argument" in str(caught.value) or "binding" in str(caught.value), str(caught.value)
        with pytest.raises((PacelineError, TypeError)):
            client.execute([("INSERT INTO t (x) VALUES (?)", [object()])])
        with pytest.raises(UsageError):
            client.execute([("INSERT INTO t (x) VALUES (?)", [2**63])])


def test_the_cluster_is_still_whole(cluster: Cluster) -> None:
    with cluster.client() as client:
        client.execute("INSERT INTO t (x) VALUES ('last')", durability="all")
    cluster.assert_equal()
