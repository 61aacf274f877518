"""The HTTP API over real loopback sockets, spoken in plain bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from service_fake import FakeService
from wire import Answer, connect, http, parse_answer

from paceline.errors import Overloaded, TimedOut, UsageError
from paceline.server import asgi, events
from paceline.server.http import HttpServer
from paceline.server.http_api import HttpApi

pytestmark = pytest.mark.asyncio

EXECUTE = "/api/v1/execute"
QUERY = "/api/v1/query"


class Node:
    def __init__(self, service: FakeService, address: tuple[str, int]) -> None:
        self.service = service
        self.address = address

    async def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        return await http(self.address, "POST", path, body, headers)

    async def get(self, path: str) -> Answer:
        return await http(self.address, "GET", path)


@pytest_asyncio.fixture
async def node() -> AsyncIterator[Node]:
    service = FakeService()
    service.database.connection.execute("CREATE TABLE t (a)")
    server = HttpServer(service)
    yield Node(service, await server.start("127.0.0.1", 0))
    await server.close()


def names_the_leader(answer: Answer) -> bool:
    headers = answer.headers
    return [headers.get(f"paceline-{name}") for name in ("node", "leader", "term")] == ["n1", "n1", "1"]


# what is asked is answered


async def test_execute_answers_results_receipt_leader_and_term(node: Node) -> None:
    statements = ["INSERT INTO t VALUES (0)", ["INSERT INTO t VALUES (?) RETURNING a", [1]]]
    answer = await node.post(EXECUTE, {"statements": statements, "durability": "quorum", "request_id": "é-1"})
    assert answer.status == 200 and names_the_leader(answer)
    shape = answer.json
    assert shape["results"] == [
        {"last_insert_rowid": 1, "rows_affected": 1},
        {"last_insert_rowid": 2, "rows_affected": 0, "columns": ["a"], "rows": [[1]]},
    ]
    assert shape["receipt"]["durability"] == "quorum" and shape["receipt"]["durable_on"] == ["n1"]
    assert (shape["leader"], shape["term"]) == ("n1", 1)
    request = node.service.requests[0]
    assert request.request_id == "é-1".encode()
    assert request.client.startswith("http@127.0.0.1:")


async def test_a_receipt_says_what_was_asked_for_when_the_cluster_degraded(node: Node) -> None:
    body = {"statements": ["INSERT INTO t VALUES (0)"]}
    assert "asked" not in (await node.post(EXECUTE, body)).json["receipt"]
    node.service.asked = "all"
    assert (await node.post(EXECUTE, body)).json["receipt"]["asked"] == "all"


async def test_bounded_reads_by_level_or_by_the_lag_that_is_allowed(node: Node) -> None:
    assert (await node.post(QUERY, {"sql": "SELECT 1", "read": "bounded (500 ms)"})).status == 200
    assert (await node.post(QUERY, {"sql": "SELECT 1", "max_lag_ms": 500})).status == 200
    assert (await node.get(f"{QUERY}?sql=SELECT%201&max_lag_ms=500")).status == 200
    assert (await node.get(f"{QUERY}?sql=SELECT%201&read=bounded+500")).status == 200
    assert node.service.levels == ["bounded 500"] * 4
    for wrong in ({"max_lag_ms": 0}, {"max_lag_ms": 500, "read": "local"}, {"max_lag_ms": 5, "token": "t"}):
        answer = await node.post(QUERY, {"sql": "SELECT 1", **wrong})
        assert answer.status == 400 and answer.json["error"]["hint"], wrong
    assert (await node.get(f"{QUERY}?sql=SELECT%201&max_lag_ms={'9' * 5000}")).status == 400


async def test_a_repeated_request_says_where_it_was_applied(node: Node) -> None:
    body = {"statements": ["INSERT INTO t VALUES (0)"], "request_id": "x"}
    assert "repeated_at" not in (await node.post(EXECUTE, body)).json
    assert (await node.post(EXECUTE, body)).json["repeated_at"] == 1


async def test_query_by_post_and_by_url(node: Node) -> None:
    body = {"sql": "SELECT ? AS a, ? AS b", "args": [1, "x"], "read": "session", "token": "tok"}
    posted = await node.post(QUERY, body)
    assert posted.status == 200 and names_the_leader(posted)
    assert posted.json == {
        "columns": ["a", "b"], "types": [None, None], "rows": [[1, "x"]],
        "position": "tok", "leader": "n1", "term": 1, "node": "n1",
    }  # fmt: skip
    sql, args = quote("SELECT :v AS a"), quote('{"v": "é"}')
    by_url = await node.get(f"{QUERY}?sql={sql}&args={args}&read=leader&timeout_ms=50")
    assert by_url.json["rows"] == [["é"]]


VALUES = [
    None, 0, 2**63 - 1, -(2**63), 1.5, 1e300, "tëxt\0\"", {"base64": "AP8="}, {"base64": ""},
    {"float": "Infinity"}, {"float": "-Infinity"},
]  # fmt: skip


async def test_every_value_survives_both_ways(node: Node) -> None:
    marks = ", ".join("?" * len(VALUES))
    answer = await node.post(QUERY, {"sql": f"SELECT {marks}", "args": VALUES})
    assert answer.json["rows"] == [VALUES]
    answer = await node.post(EXECUTE, {"statements": [[f"SELECT {marks}", VALUES]]})
    assert answer.json["results"][0]["rows"] == [VALUES]


async def test_integers_are_json_integers_in_full(node: Node) -> None:
    answer = await node.post(QUERY, {"sql": "SELECT 9223372036854775807, -9223372036854775808, 1.0"})
    assert b"[[9223372036854775807,-9223372036854775808,1.0]]" in answer.body


async def test_status_leader_health_and_admin(node: Node) -> None:
    node.service.addresses["n1"] = {"address": "h:1", "http": "h:2"}
    assert (await node.get("/api/v1/status")).json["cluster"] == "c1"
    leader = (await node.get("/api/v1/leader")).json
    assert leader == {"leader": "n1", "term": 1, "address": "h:1", "http": "h:2", "node": "n1"}
    assert (await node.get("/healthz")).json == {"ok": True, "node": "n1"}
    assert (await node.post("/api/v1/admin/echo", {"a": [1]})).json == {"op": "echo", "a": [1]}
    assert (await node.post("/api/v1/admin/echo")).json == {"op": "echo"}
    assert (await node.post("/api/v1/admin/nonsense")).status == 400


async def test_ready_is_503_until_the_node_has_caught_up(node: Node) -> None:
    assert (await node.get("/readyz")).status == 200
    node.service.ready = False
    answer = await node.get("/readyz")
    assert answer.status == 503 and answer.json["ready"] is False


async def test_outcome_lost_writes_and_metrics_have_paths_of_their_own(node: Node) -> None:
    node.service.outcomes["POS"] = "lost"
    assert (await node.get("/api/v1/writes/POS")).json == {"outcome": "lost", "position": "POS", "node": "n1"}
    assert (await node.get("/api/v1/writes/nonsense")).status == 400
    assert (await node.get("/api/v1/lost")).json == {"op": "lost_list"}
    id = "00000000000018-00000000000020-d9a1010dbb623221"
    assert (await node.get(f"/api/v1/lost/{id}?node=n2")).json == {"op": "lost_show", "id": id, "node": "n2"}
    for write in ("order-4711", "00000008-00000000000018-0ec3e549b88e19c1c06b6218130158a0", "x'00ff'"):
        assert (await node.get(f"/api/v1/lost/{write}")).json == {"op": "lost_write", "write": write}
    metrics = await node.get("/metrics")
    assert metrics.status == 200 and b'paceline_ready{cluster="c1",node="n1"} 1\n' in metrics.body
    assert (await node.post("/api/v1/writes/POS")).status == 405
    assert (await node.get("/api/v1/nowhere/ID")).status == 404


async def test_head_has_the_headers_and_no_body(node: Node) -> None:
    answer = await http(node.address, "HEAD", "/healthz")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["content-length"]) > 0


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/x-www-form-urlencoded"])
async def test_the_content_type_does_not_matter(node: Node, kind: str) -> None:
    answer = await node.post(QUERY, {"sql": "SELECT 1"}, **{"content-type": kind})
    assert answer.status == 200


async def test_one_connection_serves_many_requests(node: Node) -> None:
    one = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    async with connect(node.address, hello=False) as wire:
        for _ in range(3):
            await wire.send(one)
            head = await asyncio.wait_for(wire.reader.readuntil(b"\r\n\r\n"), 5)
            length = int(parse_answer(head).headers["content-length"])
            assert json.loads(await wire.reader.readexactly(length))["ok"]


# errors


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        (EXECUTE, {}, "missing required field `statements`"),
        (EXECUTE, {"statements": []}, "at least one statement"),
        (EXECUTE, {"statements": [["A", [True]]]}, "$.statements[0][1][0]"),
        (EXECUTE, {"statements": ["A", ["B", [2**63]]]}, "$.statements[1][1][0]"),
        (EXECUTE, {"statements": [["A", [{"blob": "x"}]]]}, "$.statements[0][1][0]"),
        (EXECUTE, {"statements": [["A", [{"base64": "!"}]]]}, "$.statements[0][1][0]: not base64"),
        (EXECUTE, {"statements": [["A", {"x": {"float": "NaN"}}]]}, "$.statements[0][1].x"),
        (EXECUTE, {"statements": [["A", [], 3]]}, "at most length 2"),
        (EXECUTE, {"statements": ["A"], "durable": 1}, "unknown field `durable`"),
        (EXECUTE, {"statements": ["A"], "timeout_ms": 0}, "$.timeout_ms"),
        (EXECUTE, {"statements": ["A"], "request_id": ""}, "$.request_id"),
        (EXECUTE, {"statements": ["A"], "request_id": "é" * 33}, "$.request_id"),
        (QUERY, {"sql": "A", "read": "stale"}, "$.read"),
        (QUERY, {"sql": "A", "args": [[1]]}, "$.args[0]"),
        (QUERY, {"sql": "A", "args": [{}]}, "$.args[0]"),
        (QUERY, b'{"sql": ?}', "byte 8"),
        (QUERY, b"", "not JSON"),
        (QUERY, b'{"sql": "\xff"}', "utf-8"),
        (QUERY, b'{"sql": "x", "args": ' + b"[" * 100_000, "args"),
        ("/api/v1/admin/echo", b"[1]", "Expected `object`"),
    ],
)
async def test_a_bad_body_is_400_and_names_the_place(node: Node, path: str, body: Any, says: str) -> None:
    answer = await node.post(path, body)
    assert answer.status == 400 and names_the_leader(answer)
    error = answer.json["error"]
    assert error["kind"] == "UsageError" and says in error["message"]
    assert (answer.json["leader"], answer.json["term"]) == ("n1", 1)
    assert node.service.requests == [] and node.service.queries == 0


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?sql=A&read=stale",
        "?sql=A&args=%5B",
        "?sql=%FF",
        "?sql=A&timeout_ms=x",
        "?sql=A&x=1",
        "?a&" * 200,
    ],
)
async def test_a_bad_query_string_is_400(node: Node, query: str) -> None:
    assert (await node.get(QUERY + query)).status == 400


async def test_an_unknown_path_is_404_and_lists_the_paths(node: Node) -> None:
    answer = await node.get("/api/v2/execute")
    assert answer.status == 404 and names_the_leader(answer)
    assert "POST /api/v1/execute" in answer.json["error"]["hint"]


async def test_a_wrong_method_is_405_and_names_the_right_one(node: Node) -> None:
    answer = await http(node.address, "DELETE", QUERY)
    assert (answer.status, answer.headers["allow"]) == (405, "POST, GET")


@pytest.mark.parametrize(("error", "status"), [(Overloaded("full"), 429), (TimedOut("late"), 504)])
async def test_errors_of_the_service_have_their_status_and_shape(node: Node, error: Any, status: int) -> None:
    node.service.script = [error]
    answer = await node.post(EXECUTE, {"statements": ["A"]})
    assert answer.status == status
    assert answer.json["error"]["kind"] == type(error).__name__
    assert answer.json["error"]["retryable"] is True


async def test_failed_sql_is_400_with_sqlites_code(node: Node) -> None:
    answer = await node.post(EXECUTE, {"statements": ["NONSENSE"]})
    assert answer.status == 400
    assert answer.json["error"]["sqlite"]["name"] == "SQLITE_ERROR"


async def test_a_lost_token_is_409(node: Node) -> None:
    assert (await node.post(QUERY, {"sql": "SELECT 1", "token": "lost"})).status == 409


async def test_a_token_without_a_level_asks_for_its_session(node: Node) -> None:
    for more in ({}, {"token": "tok"}, {"token": "tok", "read": "local"}):
        await node.post(QUERY, {"sql": "SELECT 1", **more})
    await node.get(f"{QUERY}?sql=SELECT%201&token=tok")
    assert node.service.levels == ["local", "session", "local", "session"]


async def test_a_bug_is_500_without_a_traceback_and_reaches_the_loop(node: Node) -> None:
    seen: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: seen.append(context["exception"]))
    answer = await node.post("/api/v1/admin/crash")
    assert answer.status == 500 and b"a bug" not in answer.body
    assert isinstance(seen[0], RuntimeError)


async def test_an_announced_body_over_the_limit_is_refused_before_it_is_sent(node: Node) -> None:
    async with connect(node.address, hello=False) as wire:
        await wire.send(b"POST /api/v1/query HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n")
        head = await asyncio.wait_for(wire.reader.readuntil(b"\r\n\r\n"), 5)
        assert b" 413 " in head


async def test_a_streamed_body_is_stopped_at_the_limit(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "HTTP_BODY_BYTES_MAX", 200_000)
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    async with connect(node.address, hello=False) as wire:
        await wire.send(b"POST /api/v1/query HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        await wire.send(chunk * 8)
        head = await asyncio.wait_for(wire.reader.readuntil(b"\r\n\r\n"), 5)
        assert b" 413 " in head


# bytes that are not HTTP


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"\0\0\0\x0f\x94\x00\xa8paceline\x91\x01\xa1x",
        b"\xff" * 1000,
        b"GET /healthz HTTP/1.1\r\nx: " + b"y" * 70_000 + b"\r\n\r\n",
        b"GET /" + b"y" * 70_000 + b" HTTP/1.1\r\n\r\n",
    ],
)
async def test_garbage_gets_400_and_a_close(node: Node, data: bytes) -> None:
    async with connect(node.address, hello=False) as wire:
        await wire.send(data)
        assert b" 400 " in await wire.ends()
    assert (await node.get("/healthz")).status == 200


async def test_any_body_is_answered_without_a_bug() -> None:
    """Straight at the application, without sockets: whatever the bytes, one whole answer below 500."""
    api = HttpApi(FakeService())

    async def ask(path: str, body: bytes) -> int:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}
        await api(scope, receive, send)
        assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
        json.loads(sent[1]["body"])
        return int(sent[0]["status"])

    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["base64", "float"]), inner)
        ),
    )
    likely = st.builds(
        lambda s, a: json.dumps({"statements": [["SELECT 1", a]], **s}).encode(),
        st.dictionaries(st.sampled_from(["durability", "request_id", "timeout_ms"]), json_values, max_size=2),
        json_values,
    )

    loop = asyncio.get_running_loop()

    @settings(max_examples=100, suppress_health_check=list(HealthCheck), deadline=None)
    @given(st.sampled_from([EXECUTE, QUERY, "/api/v1/admin/echo"]), st.binary() | likely)
    def every(path: str, body: bytes) -> None:
        status = asyncio.run_coroutine_threadsafe(ask(path, body), loop).result(5)
        assert status < 500

    await asyncio.to_thread(every)


# events


async def test_events_stream_with_id_kind_and_data(node: Node) -> None:
    async with connect(node.address, hello=False) as wire:
        await wire.send(b"GET /api/v1/events HTTP/1.1\r\nhost: x\r\nlast-event-id: 7\r\n\r\n")
        async with asyncio.timeout(5):
            head = await wire.reader.readuntil(b"\r\n\r\n")
            assert b"text/event-stream" in head and b"paceline-leader: n1" in head
            await wire.reader.readuntil(b": paceline events\n\n")
            stream = node.service.streams[0]
            stream.queue.put_nowait({"event": "role", "role": "leader"})
            found = await wire.reader.readuntil(b"\n\n")
    assert found.endswith(b'id: 1\nevent: role\ndata: {"event":"role","role":"leader"}\n\n')
    await asyncio.wait_for(stream.closed.wait(), 5)


async def test_a_quiet_stream_has_a_heartbeat_and_loses_nothing() -> None:
    stream = FakeService().subscribe()
    chunks = events.event_chunks(stream, 0.01)
    assert [await anext(chunks) for _ in range(3)][1:] == [b": heartbeat\n\n"] * 2
    stream.queue.put_nowait({"event": "log"})  # type: ignore[attr-defined]
    assert b"event: log" in await anext(chunks)
    stream.queue.put_nowait(None)  # type: ignore[attr-defined]
    assert [chunk async for chunk in chunks] == []


async def test_the_stream_ends_when_the_service_ends_it(node: Node) -> None:
    asking = asyncio.create_task(node.get("/api/v1/events"))
    await node.service.subscribed.wait()
    node.service.streams[0].queue.put_nowait(None)
    assert (await asyncio.wait_for(asking, 5)).status == 200


# the server itself


async def test_a_port_in_use_is_named_with_advice(node: Node) -> None:
    host, port = node.address
    with pytest.raises(UsageError, match=f"{host}:{port}.*another port"):
        await HttpServer(FakeService()).start(host, port)


async def test_closing_ends_open_event_streams_at_once() -> None:
    service = FakeService()
    server = HttpServer(service)
    address = await server.start("127.0.0.1", 0)
    asking = asyncio.create_task(http(address, "GET", "/api/v1/events"))
    await service.subscribed.wait()
    async with asyncio.timeout(1.5):
        await server.close()
        await asking
    assert service.streams[0].closed.is_set()
