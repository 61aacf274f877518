"""What the protocols ask of a node: writes, reads, status, events, administration.

A node that follows passes writes and leader reads on to the leader, under the same request id and
with what is left of the time limit; the answer comes back unchanged.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

from paceline.client.aio import AsyncClient
from paceline.engines.base import Outcome, QueryResult, StatementResult, Value, WriteRequest
from paceline.errors import NotLeader, PacelineError, SqlError, Unavailable, UsageError
from paceline.ids import Index, NodeId
from paceline.limits import TICK_MS
from paceline.node.acks import Done
from paceline.node.replies import QueryReply, Receipt, WriteReply
from paceline.runtime.events import Subscription

if TYPE_CHECKING:
    from paceline.runtime.process import NodeProcess
    from paceline.runtime.status import StatusReport

__all__ = ["NodeService"]

_VERIFY_MS = 2000


class NodeService:
    """Implements ``server.service.Service``."""

    def __init__(self, process: NodeProcess, report: StatusReport) -> None:
        self.name = str(process.config.name)
        self._process = process
        self._report = report
        self._forward: tuple[str, AsyncClient] | None = None
        self._forwarding = 0
        """Requests that wait for an answer of the leader."""
        self._watching = False
        self._tasks: set[asyncio.Task[None]] = set()

    # -- writes ---------------------------------------------------------------------------

    def submit(self, request: WriteRequest, timeout_ms: int, done: Done) -> None:
        node = self._process.node
        if not request.durability:
            membership = node.replica.membership
            request.durability = membership.settings.durability if membership else "quorum"
        if node.leads_or_will:
            request.deadline = node.ports.deadline(timeout_ms)
            node.writes.submit(request, timeout_ms, done)
            return
        self._background(self._forward_write(request, timeout_ms, done))

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward_write(self, request: WriteRequest, timeout_ms: int, done: Done) -> None:
        try:
            with self._leader_client() as leader:
                result = await leader.execute(
                    request.statements,
                    durability=request.durability,
                    request_id=request.request_id,
                    timeout_ms=timeout_ms,
                )
        except SqlError as error:
            done(WriteReply(Outcome(error=error), None))
            return
        except PacelineError as error:
            done(error)
            return
        results = None
        if result.results is not None:
            results = [
                StatementResult(r.last_insert_rowid, r.rows_affected, r.columns, r.rows)
                for r in result.results
            ]
        receipt = None
        if (r := result.receipt) is not None:
            receipt = Receipt(r.position, r.term, r.index, r.durability, r.durable_on, r.applied_on, r.leader)
        repeated = Index(result.repeated_at) if result.repeated_at is not None else None
        done(WriteReply(Outcome(results=results, repeated_at=repeated), receipt))

    @contextlib.contextmanager
    def _leader_client(self) -> Iterator[AsyncClient]:
        """A client to the leader that this node knows, watched meanwhile; raises ``NotLeader`` when it knows none."""
        name, _, addresses = self.leader()
        if name == self.name:
            raise Unavailable(f"{name} is just taking over the leadership", hint="repeat in a moment")
        if addresses is None:
            raise NotLeader(
                f"{self.name} does not lead and knows no leader now",
                leader=None,
                hint="repeat in a moment; paceline status shows who is reachable",
            )
        address = addresses["address"]
        if self._forward is None or self._forward[0] != address:
            self._hang_up()
            client = AsyncClient([address], name=f"forward-from-{self.name}", request_ids=False)
            self._forward = (address, client)
        self._forwarding += 1
        if not self._watching:
            self._watching = True
            self._background(self._watch_leader())
        try:
            yield self._forward[1]
        finally:
            self._forwarding -= 1

    async def _watch_leader(self) -> None:
        """Once another node leads, nobody waits for the old one any longer: it may never answer.

        Each caller hears that the outcome is unknown (or that nothing happened) and repeats under its request id.
        """
        while self._forwarding:
            await asyncio.sleep(TICK_MS / 1000)
            name, _, addresses = self.leader()
            if name == self.name or (
                addresses is not None
                and self._forward is not None
                and addresses["address"] != self._forward[0]
            ):
                self._hang_up()
        self._watching = False

    def _hang_up(self) -> None:
        if self._forward is not None:
            self._background(self._forward[1].close())
            self._forward = None

    # -- reads ------------------------------------------------------------------------------

    async def query(
        self,
        sql: str,
        args: list[Value] | dict[str, Value],
        *,
        read: str,
        token: str | None,
        timeout_ms: int,
    ) -> QueryReply:
        node = self._process.node
        if read == "leader" and not node.leads:
            with self._leader_client() as leader:
                result = await leader.query(sql, args, read="leader", timeout_ms=timeout_ms)
            return QueryReply(
                QueryResult(result.columns, result.types, result.rows, None),
                result.position,
                result.leader,
                result.term,
                result.node,
            )
        future: asyncio.Future[QueryReply | PacelineError] = asyncio.get_running_loop().create_future()

        def done(answer: QueryReply | PacelineError) -> None:
            if not future.done():
                future.set_result(answer)

        node.reads.submit(sql, args, read=read, token=token, timeout_ms=timeout_ms, done=done)
        answer = await future
        if isinstance(answer, PacelineError):
            raise answer
        return answer

    # -- looking ------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        return self._report.make()

    def leader(self) -> tuple[str | None, int, dict[str, Any] | None]:
        replica = self._process.node.replica
        if replica.leader is None:
            return None, replica.term, None
        member = replica.membership.member(replica.leader) if replica.membership else None
        addresses = {"address": member.address, "http": member.http} if member else None
        return str(replica.leader), replica.term, addresses

    def subscribe(self) -> Subscription:
        return self._process.events.subscribe()

    # -- administration -------------------------------------------------------------------------

    async def admin(self, op: str, params: dict[str, Any]) -> dict[str, Any]:
        action = _ADMIN.get(op)
        if action is None:
            raise UsageError(f"unknown operation {op!r}", hint=f"there are: {', '.join(sorted(_ADMIN))}")
        if not self._process.node.leads:
            with self._leader_client() as leader:
                answer: dict[str, Any] = await leader.admin(op, **params)
            return answer
        result: dict[str, Any] = await action(self, params)
        return result

    async def _node_remove(self, params: dict[str, Any]) -> dict[str, Any]:
        name = _text(params, "name")
        await self._changed(lambda: self._process.node.members.remove(name))
        return {"removed": name}

    async def _writes_stop(self, params: dict[str, Any]) -> dict[str, Any]:
        await self._changed(lambda: self._process.node.members.set_writes("stopped"))
        return {"writes": "stopped"}

    async def _writes_start(self, params: dict[str, Any]) -> dict[str, Any]:
        await self._changed(lambda: self._process.node.members.set_writes("on"))
        return {"writes": "on"}

    async def _changed(self, change: Callable[[], None]) -> None:
        """Make a change of membership or settings and wait until it is committed."""
        node = self._process.node
        change()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def late() -> None:
            if not future.done():
                future.set_exception(
                    PacelineError(
                        "the change is in the log, but no majority has it yet", hint="see paceline status"
                    )
                )

        node.reads.when_committed(
            node.replica.history.index, node.ports.now_ms() + 10_000, lambda: future.set_result(None), late
        )
        await future

    async def _verify(self, params: dict[str, Any]) -> dict[str, Any]:
        barrier = secrets.token_bytes(8)
        self._process.node.verifier.request(barrier)
        return {"id": barrier.hex()}

    async def _verify_result(self, params: dict[str, Any]) -> dict[str, Any]:
        """What every member found at the barrier: asked of each, the leader's own included."""
        key = _text(params, "id")
        node = self._process.node
        membership = node.replica.membership
        assert membership is not None

        async def ask(name: str, address: str) -> dict[str, Any]:
            if name == self.name:
                found = node.verifier.result(key)
            else:
                try:
                    async with AsyncClient([address], timeout_ms=_VERIFY_MS) as client:
                        found = (await client.status()).get("verifications", {}).get(key)
                except PacelineError as error:
                    return {"name": name, "state": "unreachable", "error": error.message}
            return {"name": name, "state": "waiting", **(found or {})}

        nodes = await asyncio.gather(*(ask(str(m.name), m.address) for m in membership.members))
        own = next((n for n in nodes if n["name"] == self.name), {})
        for found in nodes:
            if "digest" in found:
                node.verifier.judge(key, NodeId(found["name"]), found["digest"])
        return {
            "id": key,
            "leader": self.name,
            "position": own.get("position"),
            "done": all(n["state"] in ("done", "failed") for n in nodes),
            "nodes": nodes,
        }

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._forward is not None:
            await self._forward[1].close()


def _text(params: dict[str, Any], key: str) -> str:
    value = params.get(key)
    if not isinstance(value, str) or not value:
        raise UsageError(f"the operation needs {key!r} (a text)")
    return value


_ADMIN: dict[str, Any] = {
    "node_remove": NodeService._node_remove,
    "writes_stop": NodeService._writes_stop,
    "writes_start": NodeService._writes_start,
    "verify": NodeService._verify,
    "verify_result": NodeService._verify_result,
}
