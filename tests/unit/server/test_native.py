"""The native server over real loopback sockets: answers, bounds, and bytes that are not the protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from service_fake import FakeService
from wire import connect, http, until

from paceline.client import protocol as p
from paceline.engines.base import Outcome, StatementResult
from paceline.errors import Overloaded, UsageError
from paceline.limits import CLIENT_FRAME_BYTES_MAX, STATEMENTS_MAX
from paceline.node.replies import WriteReply
from paceline.server import requests, session
from paceline.server.native import NativeServer
from paceline.server.replies import Replies

pytestmark = pytest.mark.asyncio

INSERT = "INSERT INTO t VALUES (?)"


class Node:
    def __init__(self, service: FakeService, server: NativeServer, address: tuple[str, int]) -> None:
        self.service = service
        self.server = server
        self.address = address


@pytest_asyncio.fixture
async def node() -> AsyncIterator[Node]:
    service = FakeService()
    service.database.connection.execute("CREATE TABLE t (a)")
    server = NativeServer(service)
    address = await server.start("127.0.0.1", 0)
    yield Node(service, server, address)
    await server.close()


async def refusal(node: Node, data: bytes, *, hello: bool = False) -> p.Failure:
    """The one error frame that answers ``data``; checks that the server closes after it."""
    async with connect(node.address, hello=hello) as wire:
        await wire.send(data)
        reply = await wire.receive()
        assert isinstance(reply, p.Failure)
        assert reply.number is None
        assert await wire.ends() == b""
        return reply


# what is asked is answered


async def test_welcome_names_node_cluster_leader_and_term(node: Node) -> None:
    node.service.leads, node.service.term = "n2", 7
    node.service.addresses["n2"] = {"address": "10.0.0.2:4001", "http": "10.0.0.2:4002"}
    async with connect(node.address, hello=False) as wire:
        reply = await wire.ask(p.Hello(p.MAGIC, [1, 99], "test"))
    assert reply == p.Welcome(1, "n1", "c1", "n2", 7, "10.0.0.2:4001")


async def test_a_write_gets_results_and_a_receipt(node: Node) -> None:
    async with connect(node.address) as wire:
        reply = await wire.ask(p.Execute(5, [(INSERT, [1]), (INSERT + " RETURNING a", [b"x"])], "quorum"))
    assert isinstance(reply, p.Written)
    assert reply.number == 5
    assert reply.results is not None
    assert [r.last_insert_rowid for r in reply.results] == [1, 2]
    assert (reply.results[1].columns, reply.results[1].rows) == (["a"], [[b"x"]])
    assert reply.receipt is not None and reply.receipt.durability == "quorum"
    assert node.service.requests[0].client.startswith("test@127.0.0.1:")


async def test_failed_sql_is_an_error_in_the_answer_with_the_statement_number(node: Node) -> None:
    async with connect(node.address) as wire:
        reply = await wire.ask(p.Execute(5, [(INSERT, [1]), ("NONSENSE", [])]))
    assert isinstance(reply, p.Written) and reply.error is not None
    assert (reply.error["kind"], reply.error["statement"]) == ("SqlError", 1)


async def test_a_refused_write_names_leader_and_term(node: Node) -> None:
    node.service.script = [Overloaded("full")]
    async with connect(node.address) as wire:
        reply = await wire.ask(p.Execute(5, [(INSERT, [1])]))
    assert isinstance(reply, p.Failure)
    assert (reply.number, reply.error["kind"], reply.leader, reply.term) == (5, "Overloaded", "n1", 1)


async def test_replies_come_as_they_are_ready_not_in_order(node: Node) -> None:
    node.service.script = ["hold", "run"]
    async with connect(node.address) as wire:
        await wire.send(p.Execute(1, [(INSERT, [1])]), p.Execute(2, [(INSERT, [2])]))
        second = await wire.receive()
        node.service.held[0](Overloaded("late"))
        first = await wire.receive()
    assert isinstance(second, p.Written) and second.number == 2
    assert isinstance(first, p.Failure) and first.number == 1


async def test_queries_status_leader_admin_and_ping(node: Node) -> None:
    async with connect(node.address) as wire:
        rows = await wire.ask(p.Query(1, "SELECT ?, :b", [1, None]))
        status = await wire.ask(p.Status(2))
        leader = await wire.ask(p.Leader(3))
        admin = await wire.ask(p.Admin(4, "echo", {"x": [1]}))
        wrong = await wire.ask(p.Admin(5, "nonsense"))
        pong = await wire.ask(p.Ping(6))
    assert isinstance(rows, p.Rows) and rows.rows == [[1, None]] and rows.node == "n1"
    assert isinstance(status, p.Info) and status.info["cluster"] == "c1"
    assert isinstance(leader, p.Info) and leader.info == {"leader": "n1", "term": 1}
    assert isinstance(admin, p.Info) and admin.info == {"op": "echo", "x": [1]}
    assert isinstance(wrong, p.Failure) and wrong.error["kind"] == "UsageError"
    assert pong == p.Pong(6)


async def test_events_arrive_and_a_broken_connection_unsubscribes(node: Node) -> None:
    async with connect(node.address) as wire:
        assert await wire.ask(p.Subscribe(9)) == p.Info(9, {})
        await node.service.subscribed.wait()
        stream = node.service.streams[0]
        stream.queue.put_nowait({"event": "role", "role": "leader"})
        assert await wire.receive() == p.Event(9, {"event": "role", "role": "leader"})
    await asyncio.wait_for(stream.closed.wait(), 5)


@pytest.mark.parametrize(
    ("statements", "kind", "place"),
    [
        ([], "UsageError", "at least one"),
        ([("A", []), ("B", [[1]])], "UsageError", "statements[1]: argument 0 is a list"),
        ([("A", {"x": True})], "UsageError", "statements[0]: argument 'x' is a bool"),
        ([("A", [1, 2**63])], "UsageError", "argument 1 does not fit"),
        ([("A", [])] * (STATEMENTS_MAX + 1), "TooLarge", "statements"),
        ([("x" * 1_048_577, [])], "TooLarge", "SQL text"),
        ([("A", [1] * 32_767)], "TooLarge", "32767 arguments"),
    ],
)
async def test_a_bad_request_is_refused_with_its_place_and_the_connection_lives(
    node: Node, statements: Any, kind: str, place: str
) -> None:
    async with connect(node.address) as wire:
        reply = await wire.ask(p.Execute(1, statements))
        assert isinstance(reply, p.Failure) and reply.number == 1
        assert reply.error["kind"] == kind
        assert place in reply.error["message"]
        assert await wire.ask(p.Ping(2)) == p.Pong(2)
    assert node.service.requests == []


# what is not the protocol


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "TLS"),
        (b"\xff" * 64, "over the limit"),
        (b"\0\0\0\x02hi", "bad hello"),
        (b"\0\0\0\0", "bad hello"),
        (p.encode_frame(p.Hello("nonsense", [1], "")), "not Paceline's hello"),
        (p.encode_frame(p.Hello(p.MAGIC, [77], "")), "no protocol version"),
        (p.encode_frame(p.Ping(1)), "bad hello"),
        ((4097).to_bytes(4, "big"), "over the limit of 4096"),
    ],
)
async def test_garbage_gets_one_clear_error_and_a_close(node: Node, data: bytes, says: str) -> None:
    reply = await refusal(node, data)
    assert reply.error["kind"] == "ProtocolError"
    assert says in reply.error["message"]


@pytest.mark.parametrize(
    "data",
    [
        (CLIENT_FRAME_BYTES_MAX + 1).to_bytes(4, "big"),
        b"\0\0\0\x03abc",
        p.encode_frame(p.Hello(p.MAGIC, [1], "again")),
    ],
)
async def test_garbage_after_the_hello_likewise(node: Node, data: bytes) -> None:
    reply = await refusal(node, data, hello=True)
    assert reply.error["kind"] == "ProtocolError"


async def test_the_error_arrives_though_the_client_goes_on_sending(node: Node) -> None:
    """Closing with unread bytes would be a TCP reset, which may take the error with it."""
    async with connect(node.address, hello=False) as wire:
        await wire.send(b"\xff" * 200_000)
        reply = await wire.receive()
        await wire.send(b"\xff" * 200_000)
        assert isinstance(reply, p.Failure)
        assert await wire.ends() == b""


async def test_a_silent_connection_is_closed(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "CLIENT_HELLO_SECONDS", 0.05)
    reply = await refusal(node, b"")
    assert "no hello" in reply.error["message"]


# bounds


async def test_a_connection_too_many_is_told_so() -> None:
    service = FakeService()
    server = NativeServer(service, connections_max=1)
    address = await server.start("127.0.0.1", 0)
    async with connect(address), connect(address, hello=False) as second:
        reply = await second.receive()
        assert isinstance(reply, p.Failure) and reply.error["kind"] == "Overloaded"
        assert await second.ends() == b""
    await until(lambda: not server.connections)
    async with connect(address):
        pass
    await server.close()


async def test_requests_beyond_the_bound_wait_in_the_socket(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "CLIENT_INFLIGHT_MAX", 3)
    node.service.script = ["hold"] * 10
    async with connect(node.address) as wire, connect(node.address) as other:
        await wire.send(*(p.Execute(n, [(INSERT, [n])]) for n in range(10)))
        await until(lambda: len(node.service.held) >= 3)
        assert await other.ask(p.Ping(1)) == p.Pong(1), "others are not held up"
        assert len(node.service.held) == 3
        answered = 0
        while answered < 10:
            done = node.service.held.pop(0)
            assert len(node.service.held) < 3
            done(Overloaded("x"))
            reply = await wire.receive()
            assert isinstance(reply, p.Failure) and reply.number == answered
            answered += 1
            if answered < 10:
                await until(lambda: node.service.held)


async def test_a_client_that_reads_nothing_stops_only_itself(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "CLIENT_UNSENT_BYTES_MAX", 64 * 1024)
    monkeypatch.setattr(session, "CLIENT_QUERIES_MAX", 1)
    sql = "SELECT zeroblob(1000000)"
    async with connect(node.address) as slow, connect(node.address) as other:
        slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await slow.send(*(p.Query(n, sql) for n in range(100)))
        for number in range(50):
            assert isinstance(await other.ask(p.Query(number, "SELECT 1")), p.Rows)
        assert node.service.queries - 50 < 30, "its queries are started only as fast as it reads"
        slow.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for number in range(100):
            reply = await slow.receive()
            assert isinstance(reply, p.Rows) and reply.number == number


async def test_a_client_that_reads_nothing_is_not_read_from(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "CLIENT_UNSENT_BYTES_MAX", 64 * 1024)
    async with connect(node.address) as slow, connect(node.address) as other:
        node.service.padding = "x" * 1_000_000
        slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await slow.send(*(p.Status(n) for n in range(100)))
        for number in range(50):
            assert await other.ask(p.Ping(number)) == p.Pong(number)
        assert node.service.status_calls < 30
        slow.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for number in range(100):
            reply = await slow.receive()
            assert isinstance(reply, p.Info) and reply.number == number


async def test_a_client_that_asks_for_too_much_unread_is_cut(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "CLIENT_UNSENT_BYTES_ABORT", 1_000_000)
    async with connect(node.address) as slow:
        slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await slow.send(p.Query(1, "SELECT zeroblob(60000000)"))
        await until(lambda: not node.server.connections)


async def test_queries_of_a_lost_connection_are_cancelled(node: Node) -> None:
    node.service.query_gate = asyncio.Event()
    async with connect(node.address) as wire:
        await wire.send(p.Query(1, "SELECT 1"))
        await until(lambda: node.service.queries)
        (client,) = node.server._sessions
        (task,) = client._tasks
    await asyncio.wait([task], timeout=5)
    assert task.cancelled()


async def test_a_bug_in_the_node_is_reported_to_the_loop_and_to_the_client(node: Node) -> None:
    seen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: seen.append(context))
    async with connect(node.address) as wire:
        reply = await wire.ask(p.Admin(1, "crash"))
        assert isinstance(reply, p.Failure) and reply.number is None
        assert await wire.ends() == b""
    assert isinstance(seen[0]["exception"], RuntimeError)


# the server itself


async def test_a_port_in_use_is_named_with_advice(node: Node) -> None:
    host, port = node.address
    with pytest.raises(UsageError, match=f"{host}:{port}.*another port"):
        await NativeServer(FakeService()).start(host, port)


@pytest.mark.parametrize("host", ["no such host", "192.0.2.1"])
async def test_a_host_that_is_not_here_is_a_usage_error(host: str) -> None:
    with pytest.raises(UsageError, match="cannot listen"):
        await NativeServer(FakeService()).start(host, 0)


async def test_closing_tells_the_clients_and_frees_the_port(node: Node) -> None:
    async with connect(node.address) as wire:
        closing = asyncio.create_task(node.server.close())
        reply = await wire.receive()
        assert isinstance(reply, p.Failure) and "shutting down" in reply.error["message"]
        wire.writer.close()
        await closing
    again = NativeServer(FakeService())
    assert await again.start(*node.address) == node.address
    await again.close()


async def test_replies_of_one_loop_turn_leave_in_one_write(node: Node) -> None:
    async with connect(node.address) as wire:
        (client,) = node.server._sessions
        writes: list[bytes] = []
        client._transport = _Recorder(client._transport, writes)  # type: ignore[assignment]
        await wire.send(*(p.Ping(n) for n in range(100)))
        for number in range(100):
            assert await wire.receive() == p.Pong(number)
        assert len(writes) == 1


class _Recorder:
    def __init__(self, transport: asyncio.Transport, writes: list[bytes]) -> None:
        self._transport = transport
        self._writes = writes

    def write(self, data: bytes) -> None:
        self._writes.append(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


async def test_one_receipt_is_encoded_once_and_a_new_one_again() -> None:
    service = FakeService()
    replies = Replies(service)
    request = requests.write_request([("A", [])], None, None, "")
    first, second = service.receipt(request), service.receipt(request)
    second.index = 99

    def index(receipt: Any) -> int:
        frame = replies.written(1, WriteReply(Outcome(results=[StatementResult(1, 1)]), receipt))
        reply = p.decode_reply(frame[4:])
        assert isinstance(reply, p.Written) and reply.receipt is not None
        return reply.receipt.index

    assert [index(first), index(first), index(second), index(first)] == [0, 0, 99, 0]
    kept = replies._receipt_bytes
    index(first)
    assert replies._receipt_bytes is kept


async def test_native_bytes_on_an_http_port_and_the_reverse_end_quickly(node: Node) -> None:
    async with asyncio.timeout(5):
        with pytest.raises((IndexError, ValueError)):
            await http(node.address, "GET", "/healthz")
