"""Both clients, one suite: over real sockets against real servers on a fake service.

The blocking client runs in a thread; ``Driver`` gives both the same awaitable face.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from service_fake import Database, FakeService

from paceline.client import AsyncClient, Client
from paceline.errors import (
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    PacelineError,
    SqlError,
    TimedOut,
    TokenLost,
    Unavailable,
    UsageError,
)
from paceline.node.replies import WriteReply
from paceline.server.native import NativeServer

pytestmark = pytest.mark.asyncio

INSERT = "INSERT INTO t VALUES (?)"


class Driver:
    """A client of either kind; every method is awaitable."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.client, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if isinstance(self.client, Client):
                return await asyncio.to_thread(method, *args, **kwargs)
            return await method(*args, **kwargs)

        return call

    @property
    def token(self) -> str | None:
        token: str | None = self.client.token
        return token

    async def first_event(self) -> tuple[dict[str, Any], Callable[[], Any]]:
        """The first event, and a function that gets the next."""
        events = self.client.events()
        if isinstance(self.client, Client):
            return await asyncio.to_thread(next, events), lambda: asyncio.to_thread(next, events)
        return await anext(events), lambda: anext(events)


class Cluster:
    """Nodes that share one database; ``n1`` leads."""

    def __init__(self) -> None:
        self.database = Database()
        self.database.connection.execute("CREATE TABLE t (a)")
        self.services: dict[str, FakeService] = {}
        self.servers: dict[str, NativeServer] = {}
        self.addresses: dict[str, str] = {}

    async def start(self, name: str, port: int = 0) -> None:
        service = self.services.get(name) or FakeService(name, self.database)
        service.on_lose = lambda: self.cut(name)
        self.services[name] = service
        self.servers[name] = NativeServer(service)
        host, bound = await self.servers[name].start("127.0.0.1", port)
        self.addresses[name] = f"{host}:{bound}"
        for one in self.services.values():
            one.addresses = {n: {"address": a} for n, a in self.addresses.items()}
        self.elect("n1")

    def elect(self, leader: str) -> None:
        for service in self.services.values():
            service.leads = leader

    def cut(self, name: str) -> None:
        """Break every connection to a node."""
        for session in list(self.servers[name]._sessions):
            session._transport.abort()

    async def stop(self, name: str) -> int:
        """Returns the port, to come back on it."""
        port = int(self.addresses[name].rpartition(":")[2])
        self.cut(name)
        await self.servers[name].close()
        return port

    def rows(self) -> list[Any]:
        return [row[0] for row in self.database.connection.execute("SELECT a FROM t ORDER BY rowid")]


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[Cluster]:
    cluster = Cluster()
    await cluster.start("n1")
    await cluster.start("n2")
    yield cluster
    for name, server in cluster.servers.items():
        cluster.cut(name)
        await server.close()


Make = Callable[..., Driver]


@pytest_asyncio.fixture(params=["asyncio", "blocking"])
async def make(request: pytest.FixtureRequest, cluster: Cluster) -> AsyncIterator[Make]:
    made: list[Driver] = []

    def make(*names: str, **options: Any) -> Driver:
        kind = AsyncClient if request.param == "asyncio" else Client
        addresses = [cluster.addresses.get(name, name) for name in names or ("n1",)]
        made.append(Driver(kind(addresses, **options)))
        return made[-1]

    yield make
    for driver in made:
        await driver.close()


def unused_address() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"


async def test_all_values_survive_a_round_trip(make: Make) -> None:
    db = make()
    values = [None, 2**63 - 1, -(2**63), float("inf"), -float("inf"), 1.5, "tëxt\0", b"\0\xff", "", b""]
    await db.execute([(INSERT, [value]) for value in values])
    result = await db.query("SELECT a, typeof(a) FROM t ORDER BY rowid")
    assert [row[0] for row in result.rows] == values
    assert [row[1] for row in result.rows][-4:] == ["text", "blob", "text", "blob"]
    assert result.columns == ["a", "typeof(a)"]


async def test_a_receipt_and_results_come_back(make: Make) -> None:
    result = await make().execute([(INSERT + " RETURNING a", [7]), "SELECT 1"])
    assert result.results[0].rows == [[7]]
    assert result.receipt.leader == "n1" and result.receipt.index == 1


async def test_named_arguments_and_lone_sql(make: Make, cluster: Cluster) -> None:
    db = make()
    await db.execute([("INSERT INTO t VALUES (:x)", {"x": 5})])
    await db.execute("INSERT INTO t VALUES (6)")
    assert cluster.rows() == [5, 6]
    assert (await db.query("SELECT :y", {"y": b"z"})).rows == [[b"z"]]


async def test_a_transaction_is_all_or_nothing_and_the_error_is_sqlites(make: Make, cluster: Cluster) -> None:
    with pytest.raises(SqlError) as caught:
        await make().execute([(INSERT, [1]), ("INSERT INTO nowhere VALUES (1)", [])])
    assert (caught.value.statement, caught.value.name) == (1, "SQLITE_ERROR")
    assert cluster.rows() == []


async def test_status_leader_admin_and_ping(make: Make) -> None:
    db = make("n2")
    assert (await db.status())["node"] == "n2"
    assert (await db.leader())["leader"] == "n1"
    assert (await db.admin("echo", x=1)) == {"op": "echo", "x": 1}
    await db.ping()
    with pytest.raises(UsageError, match="unknown operation"):
        await db.admin("nonsense")


async def test_writes_go_to_the_leader_and_reads_stay(make: Make, cluster: Cluster) -> None:
    db = make("n2")
    await db.execute([(INSERT, [1])])
    await db.query("SELECT 1")
    await db.query("SELECT 1", read="linearizable")
    assert [len(s.requests) for s in cluster.services.values()] == [1, 0]
    assert [s.queries for s in cluster.services.values()] == [1, 1]


async def test_bounded_reads_stay_and_a_wrong_level_is_an_error_of_the_caller(
    make: Make, cluster: Cluster
) -> None:
    db = make("n2")
    await db.query("SELECT 1", read="bounded(500)")
    assert cluster.services["n2"].levels == ["bounded 500"]
    with pytest.raises(UsageError, match="unknown read level"):
        await db.query("SELECT 1", read="stale")


async def test_a_receipt_says_what_was_asked_for(make: Make, cluster: Cluster) -> None:
    db = make()
    assert (await db.execute([(INSERT, [1])])).receipt.asked is None
    cluster.services["n1"].asked = "all"
    assert (await db.execute([(INSERT, [1])])).receipt.asked == "all"


@pytest.mark.parametrize("kind", [AsyncClient, Client])
async def test_a_clients_own_durability_is_the_default_of_its_writes(cluster: Cluster, kind: Any) -> None:
    db = Driver(kind([cluster.addresses["n1"]], durability="all+applied"))
    await db.execute([(INSERT, [1])])
    await db.execute([(INSERT, [1])], durability="local")
    await db.close()
    asked = [request.durability for request in cluster.services["n1"].requests]
    assert asked == ["all+applied", "local"]


async def test_a_leader_that_cannot_be_reached_is_written_to_through_a_follower(
    make: Make, cluster: Cluster
) -> None:
    cluster.services["n2"].addresses["n1"] = {"address": unused_address()}
    db = make("n2")
    await db.execute([(INSERT, [1])])
    await db.execute([(INSERT, [2])])
    assert len(cluster.services["n2"].requests) == 2
    assert cluster.rows() == [1, 2]


async def test_dead_addresses_are_passed_over(make: Make, cluster: Cluster) -> None:
    db = make(unused_address(), unused_address(), "n1")
    await db.execute([(INSERT, [1])])
    assert (await db.query("SELECT count(*) FROM t")).rows == [[1]]


async def test_a_write_whose_connection_broke_is_repeated_and_applied_once(
    make: Make, cluster: Cluster
) -> None:
    db = make()
    await db.ping()
    cluster.services["n1"].script = ["lose", "lose", "run"]
    result = await db.execute([(INSERT, [1])])
    assert cluster.rows() == [1]
    assert result.repeated_at == 1
    first, *others = cluster.services["n1"].requests
    assert first.request_id is not None
    assert {request.request_id for request in others} == {first.request_id}
    assert len(others) == 2


async def test_a_repeated_write_gives_the_server_what_is_left_of_the_time(
    make: Make, cluster: Cluster
) -> None:
    cluster.services["n1"].script = ["lose", "lose", "run"]
    await make().execute([(INSERT, [1])], timeout_ms=5000)
    first, *_, last = cluster.services["n1"].timeouts
    assert 4000 < last < first <= 5000


async def test_each_write_has_an_id_of_its_own_and_the_callers_id_wins(make: Make, cluster: Cluster) -> None:
    db = make()
    await db.execute([(INSERT, [1])])
    await db.execute([(INSERT, [2])])
    await db.execute([(INSERT, [3])], request_id=b"mine")
    again = await db.execute([(INSERT, [3])], request_id=b"mine")
    ids = [request.request_id for request in cluster.services["n1"].requests]
    assert len(set(ids)) == 3 and ids[-1] == b"mine"
    assert again.repeated_at == 3
    assert cluster.rows() == [1, 2, 3]


async def test_without_ids_a_broken_connection_means_outcome_unknown(make: Make, cluster: Cluster) -> None:
    db = make(request_ids=False)
    cluster.services["n1"].script = ["lose"]
    with pytest.raises(OutcomeUnknown):
        await db.execute([(INSERT, [1])])
    assert cluster.services["n1"].requests[0].request_id is None
    assert cluster.rows() == [1], "it did happen: any other answer would have been a lie"


async def test_a_read_is_repeated_after_a_restart(make: Make, cluster: Cluster) -> None:
    db = make()
    await db.query("SELECT 1")
    port = await cluster.stop("n1")
    reading = asyncio.create_task(db.query("SELECT 2"))
    await cluster.start("n1", port)
    assert (await reading).rows == [[2]]


async def test_no_answer_within_the_time_limit_is_outcome_unknown_for_a_write(
    make: Make, cluster: Cluster
) -> None:
    cluster.services["n1"].script = ["hold"]
    started = time.monotonic()
    with pytest.raises(OutcomeUnknown):
        await make().execute([(INSERT, [1])], timeout_ms=100)
    assert time.monotonic() - started < 2


async def test_no_answer_within_the_time_limit_is_timed_out_for_a_read(make: Make, cluster: Cluster) -> None:
    cluster.services["n1"].query_gate = asyncio.Event()
    with pytest.raises(TimedOut):
        await make().query("SELECT 1", timeout_ms=100)


async def test_the_client_goes_on_after_a_time_limit(make: Make, cluster: Cluster) -> None:
    db = make()
    cluster.services["n1"].script = ["hold"]
    with pytest.raises(OutcomeUnknown):
        await db.execute([(INSERT, [1])], timeout_ms=50)
    await db.execute([(INSERT, [2])])
    cluster.services["n1"].held[0](Overloaded("an answer that nobody awaits"))
    assert (await db.query("SELECT a FROM t")).rows == [[2]]


async def test_nobody_there_is_unavailable_not_unknown(make: Make) -> None:
    address = unused_address()
    with pytest.raises(Unavailable, match=address):
        await make(address).execute([(INSERT, [1])], timeout_ms=150)


async def test_no_leader_is_not_leader(make: Make, cluster: Cluster) -> None:
    cluster.elect("")
    with pytest.raises(NotLeader, match="no leader"):
        await make("n1", "n2").execute([(INSERT, [1])], timeout_ms=150)


async def test_a_deposed_leader_sends_the_client_on(make: Make, cluster: Cluster) -> None:
    db = make("n1", "n2")
    await db.execute([(INSERT, [1])])
    cluster.elect("n2")
    cluster.services["n1"].script = [NotLeader("n1 does not lead")]
    await db.execute([(INSERT, [2])])
    assert cluster.services["n2"].requests[-1].statements[0][1] == [2]
    assert cluster.rows() == [1, 2]


async def test_a_receipt_that_names_another_leader_moves_the_client_there(
    make: Make, cluster: Cluster
) -> None:
    db = make("n1", "n2")
    await db.execute([(INSERT, [1])])
    cluster.elect("n2")
    await db.execute([(INSERT, [2])])  # n1 forwards it and says who leads
    await db.execute([(INSERT, [3])])
    assert [len(s.requests) for s in cluster.services.values()] == [2, 1]


@pytest.mark.parametrize("error", [Overloaded("full"), TimedOut("late")])
async def test_other_refusals_reach_the_caller(make: Make, cluster: Cluster, error: PacelineError) -> None:
    cluster.services["n1"].script = [error]
    with pytest.raises(type(error), match=error.message):
        await make().execute([(INSERT, [1])])


async def test_session_reads_carry_the_newest_position_seen(make: Make, cluster: Cluster) -> None:
    db = make()
    receipt = (await db.execute([(INSERT, [1])])).receipt
    assert db.token == receipt.position
    result = await db.query("SELECT 1", read="session")
    assert result.position == receipt.position, "the fake answers with the token it was given"
    other = await db.query("SELECT 1", read="session", token="0")
    assert other.position == "0"
    assert db.token == receipt.position, "an older position does not replace a newer one"


@pytest.mark.parametrize("value", [2**64, object(), "\ud800"])
async def test_values_that_cannot_travel_are_refused_before_sending(
    make: Make, cluster: Cluster, value: Any
) -> None:
    db = make()
    with pytest.raises(UsageError):
        await db.execute([(INSERT, [value])])
    await db.execute([(INSERT, [1])])
    with pytest.raises(UsageError):
        await db.execute([(INSERT, [value])])
    assert cluster.rows() == [1]


async def test_a_closed_client_says_so(make: Make) -> None:
    db = make()
    await db.ping()
    await db.close()
    with pytest.raises((UsageError, Unavailable), match="closed"):
        await db.execute([(INSERT, [1])])


async def test_bytes_that_are_no_protocol_end_in_unavailable_with_the_reason(make: Make) -> None:
    async def speak_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(speak_http, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    with pytest.raises(Unavailable, match="looks like HTTP"):
        await make(f"{host}:{port}").execute("X", timeout_ms=100)
    server.close()


async def test_events_come_and_a_gap_is_marked(make: Make, cluster: Cluster) -> None:
    service = cluster.services["n1"]

    async def feed() -> None:
        while True:
            await service.subscribed.wait()
            service.subscribed.clear()
            service.streams[-1].queue.put_nowait({"event": "role", "number": len(service.streams)})

    feeding = asyncio.create_task(feed())
    event, following = await make().first_event()
    assert event == {"event": "role", "number": 1}
    cluster.cut("n1")
    assert await following() == {"event": "reconnected", "node": "n1"}
    assert await following() == {"event": "role", "number": 2}
    feeding.cancel()


async def test_outcome_of_a_receipt_is_asked_of_a_node(make: Make, cluster: Cluster) -> None:
    db = make()
    result = await db.execute([(INSERT, [1])])
    cluster.services["n1"].outcomes[result.receipt.position] = "lost"
    assert await db.outcome(result) == await db.outcome(result.receipt.position) == "lost"
    assert (await db.outcome_details(result))["node"] == "n1"


async def test_session_read_after_a_lost_write_raises_token_lost_until_it_is_accepted(
    make: Make, cluster: Cluster
) -> None:
    db = make("n1", "n2")
    lost = (await db.execute([(INSERT, [1])], durability="async")).receipt.position
    cluster.database.term = 2
    newer = (await db.execute([(INSERT, [2])], durability="quorum")).receipt.position
    for service in cluster.services.values():
        service.outcomes[lost] = "lost"
    for _ in range(2):
        with pytest.raises(TokenLost, match=lost):
            await db.query("SELECT 1", read="session")
    assert (await db.query("SELECT 1", read="local")).rows == [[1]]
    db.client.token = newer
    assert (await db.query("SELECT 1", read="session")).rows == [[1]]


async def test_a_leader_that_falls_silent_is_left_when_another_one_leads(
    make: Make, cluster: Cluster
) -> None:
    db = make("n1", "n2")
    await db.execute([(INSERT, [1])])
    cluster.services["n1"].script = ["hold"]
    writing = asyncio.ensure_future(db.execute([(INSERT, [2])], timeout_ms=20_000))
    await cluster.services["n1"].submitted.wait()
    cluster.elect("n2")
    for service in cluster.services.values():
        service.term = 2
    async with asyncio.timeout(10):
        await writing
    assert cluster.services["n2"].requests[-1].request_id == cluster.services["n1"].requests[-1].request_id
    assert cluster.rows() == [1, 2]


async def test_a_slow_leader_is_not_left_while_it_leads(make: Make, cluster: Cluster) -> None:
    db = make("n1", "n2")
    cluster.services["n1"].script = ["hold"]
    writing = asyncio.ensure_future(db.execute([(INSERT, [1])], timeout_ms=20_000))
    await cluster.services["n1"].submitted.wait()
    await asyncio.sleep(1.3)  # longer than its clients' patience
    service = cluster.services["n1"]
    service.held[0](
        WriteReply(cluster.database.run(service.requests[0]), service.receipt(service.requests[0]))
    )
    await writing
    assert len(service.requests) == 1 and not cluster.services["n2"].requests


# what only one of them has


async def test_submit_pipelines_and_keeps_order(cluster: Cluster) -> None:
    async with AsyncClient([cluster.addresses["n1"]]) as db:
        futures = [db.submit([(INSERT, [number])]) for number in range(200)]
        results = await asyncio.gather(*futures)
    assert [r.receipt.index for r in results if r.receipt] == list(range(1, 201))
    assert cluster.rows() == list(range(200))


async def test_all_pipelined_writes_survive_a_broken_connection_once_each(cluster: Cluster) -> None:
    async with AsyncClient([cluster.addresses["n1"]]) as db:
        await db.ping()
        cluster.services["n1"].script = ["run"] * 50 + ["lose"]
        await asyncio.gather(*(db.submit([(INSERT, [number])]) for number in range(100)))
    assert sorted(cluster.rows()) == list(range(100))


async def test_a_cancelled_call_disturbs_nobody(cluster: Cluster) -> None:
    async with AsyncClient([cluster.addresses["n1"]]) as db:
        cluster.services["n1"].script = ["hold"]
        future = db.submit([(INSERT, [1])])
        await cluster.services["n1"].submitted.wait()
        future.cancel()
        cluster.services["n1"].held[0](Overloaded("late"))
        await db.execute([(INSERT, [2])])
    assert cluster.rows() == [2]


async def test_closing_ends_what_is_open(cluster: Cluster) -> None:
    db = AsyncClient([cluster.addresses["n1"]])
    cluster.services["n1"].script = ["hold"]
    write = db.submit([(INSERT, [1])])
    await cluster.services["n1"].submitted.wait()
    await db.close()
    with pytest.raises(OutcomeUnknown):
        await write


async def test_threads_may_share_a_blocking_client(cluster: Cluster) -> None:
    client = Client([cluster.addresses["n1"]])

    def work(base: int) -> None:
        for number in range(50):
            client.execute([(INSERT, [base + number])])

    threads = [threading.Thread(target=work, args=(base,)) for base in (0, 50, 100)]
    for thread in threads:
        thread.start()
    await asyncio.to_thread(lambda: [thread.join() for thread in threads])
    client.close()
    assert sorted(cluster.rows()) == list(range(150))
