"""What the protocols ask of a node: writes, reads, status, events, administration.

A node that follows passes writes and leader reads on to the leader, under the same request id and
with what is left of the time limit; the answer comes back unchanged (``forwarding.py``).  A leader that is deposed does
the same with what it had not answered yet, so a planned change of leader goes unnoticed.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from paceline.client.aio import AsyncClient
from paceline.client.results import ExecuteResult
from paceline.engines.base import Outcome, QueryResult, StatementResult, Value, WriteRequest
from paceline.errors import NotLeader, OutcomeUnknown, PacelineError, SqlError, UsageError
from paceline.ids import Index, NodeId, Position
from paceline.limits import DEPOSED_PATIENCE_SECONDS, FORWARD_PATIENCE_SECONDS
from paceline.node.acks import Done
from paceline.node.replies import QueryReply, Receipt, WriteReply
from paceline.runtime.asking import member_client
from paceline.runtime.events import Subscription
from paceline.runtime.forwarding import Forwarder
from paceline.runtime.lost import LostWrites
from paceline.runtime.lostwrite import lost_write
from paceline.runtime.outcomes import outcome_of
from paceline.runtime.settings import settings_report

if TYPE_CHECKING:
    from paceline.runtime.process import NodeProcess
    from paceline.runtime.status import StatusReport

__all__ = ["NodeService"]

_VERIFY_MS = 2_000
_FOUND = ("done", "failed")
_FINAL = (*_FOUND, "unreachable")
"""States of a verification after which nothing more is to be expected from that node."""
_ASK_MS = 2_000
_ADMIN_MS = 60_000
_SWITCH_MS = 10_000
_SWITCH_MS_MAX = 50_000


class NodeService:
    """Implements ``server.service.Service``."""

    def __init__(self, process: NodeProcess, report: StatusReport, lost: LostWrites) -> None:
        self.name = str(process.config.name)
        self._process = process
        self._report = report
        self.lost = lost
        self._leads = lambda: process.node.leads_or_will
        self._forwarder = Forwarder(self.name, self._leader_address, self._leads)
        self._tasks: set[asyncio.Task[None]] = set()
        self._announced = self.leader()
        process.events.watch(self._on_event)

    # -- writes ---------------------------------------------------------------------------

    def submit(self, request: WriteRequest, timeout_ms: int, done: Done) -> None:
        node = self._process.node
        if not request.durability:
            membership = node.replica.membership
            request.durability = membership.settings.durability if membership else "quorum"
        if node.leads_or_will:
            request.deadline = node.ports.deadline(timeout_ms)
            node.writes.submit(request, timeout_ms, partial(self._ran_here, request, done))
            return
        self._background(self._forward_write(request, timeout_ms, done))

    def _ran_here(self, request: WriteRequest, done: Done, reply: WriteReply | PacelineError) -> None:
        """An answer of this leader; one that only says that it has been deposed is not the last word."""
        node = self._process.node
        if type(reply) not in (NotLeader, OutcomeUnknown) or node.leads_or_will or node.stopping:
            done(reply)
            return
        assert isinstance(reply, PacelineError) and request.deadline is not None
        in_doubt = isinstance(reply, OutcomeUnknown)
        left_ms = int((request.deadline - node.ports.deadline(0)) * 1000)
        if left_ms <= 0 or (in_doubt and request.request_id is None):
            done(reply)
            return
        self._background(self._forward_write(request, left_ms, done, deposed=reply))

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward_write(
        self, request: WriteRequest, timeout_ms: int, done: Done, *, deposed: PacelineError | None = None
    ) -> None:
        if request.request_id is None:
            request.request_id = secrets.token_bytes(16)  # so that a repeat is safe

        def ask(leader: AsyncClient, left_ms: int) -> asyncio.Future[ExecuteResult]:
            return leader.submit(request.statements, request.durability, request.request_id, left_ms)

        try:
            result = await self._forwarder.run(
                ask,
                partial(self._write_here, request),
                timeout_ms,
                write=True,
                patience=DEPOSED_PATIENCE_SECONDS if deposed else FORWARD_PATIENCE_SECONDS,
                in_doubt=isinstance(deposed, OutcomeUnknown),
                reason=deposed,
            )
        except SqlError as error:
            done(WriteReply(Outcome(error=error), None))
        except PacelineError as error:
            done(error)
        else:
            done(result if isinstance(result, WriteReply) else _as_reply(result))

    async def _write_here(self, request: WriteRequest, left_ms: int) -> WriteReply | ExecuteResult:
        """It fell to this node to lead."""
        node = self._process.node
        future: asyncio.Future[WriteReply | PacelineError] = asyncio.get_running_loop().create_future()
        request.deadline = node.ports.deadline(left_ms)
        node.writes.submit(request, left_ms, partial(_settle, future))
        reply = await future
        if isinstance(reply, PacelineError):
            raise reply
        return reply

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
        async def here(left_ms: int) -> QueryReply:
            node = self._process.node
            future: asyncio.Future[QueryReply | PacelineError] = asyncio.get_running_loop().create_future()
            node.reads.submit(
                sql, args, read=read, token=token, timeout_ms=left_ms, done=partial(_settle, future)
            )
            answer = await future
            if isinstance(answer, PacelineError):
                raise answer
            return answer

        async def ask(leader: AsyncClient, left_ms: int) -> QueryReply:
            result = await leader.query(sql, args, read="leader", timeout_ms=left_ms)
            return QueryReply(
                QueryResult(result.columns, result.types, result.rows, None),
                result.position,
                result.leader,
                result.term,
                result.node,
            )

        async def confirmed(_: AsyncClient, left_ms: int) -> QueryReply:
            return await here(left_ms)  # any node may answer; the leader only confirms that it is one

        if read == "leader":
            return await self._forwarder.run(ask, here, timeout_ms, write=False)
        if read == "linearizable" or (
            read.startswith("bounded") and not self._process.node.reads.is_fresh(read)
        ):
            return await self._forwarder.run(confirmed, here, timeout_ms, write=False)
        return await here(timeout_ms)

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

    def _leader_address(self) -> str | None:
        name, _, addresses = self.leader()
        return addresses["address"] if addresses is not None and name != self.name else None

    def subscribe(self) -> Subscription:
        """The first event says who leads now, so that nobody needs to ask beside listening."""
        subscription = self._process.events.subscribe()
        subscription.put(self._leader_event())
        return subscription

    def _leader_event(self) -> dict[str, Any]:
        name, term, addresses = self.leader()
        return {"event": "leader", "node": self.name, "leader": name, "term": term, "addresses": addresses}

    def _on_event(self, event: dict[str, Any]) -> None:
        """Roles and memberships change the leader or where it is: whoever waits for one hears it at once."""
        if event["event"] in ("role", "membership") and (leader := self.leader()) != self._announced:
            self._announced = leader
            self._process.events.publish(self._leader_event())
            self._forwarder.changed()

    # -- administration -------------------------------------------------------------------------

    async def admin(self, op: str, params: dict[str, Any]) -> dict[str, Any]:
        action = _ADMIN.get(op)
        if action is None:
            raise UsageError(f"unknown operation {op!r}", hint=f"there are: {', '.join(sorted(_ADMIN))}")
        address = None if op in _ANYWHERE else await self._forwarder.await_leader()
        if address is None:
            result: dict[str, Any] = await action(self, params)
            return result
        # A client of its own: a change of leader, which may be what is asked for, must not cost the answer.
        name = f"forward-from-{self.name}"
        async with AsyncClient([address], name=name, direct=True, timeout_ms=_ADMIN_MS) as leader:
            return await leader.admin(op, **params)

    async def _switch(self, params: dict[str, Any]) -> dict[str, Any]:
        """Hand the leadership over as planned."""
        target, timeout_ms = params.get("node"), params.get("timeout_ms", _SWITCH_MS)
        if target is not None and (not isinstance(target, str) or not target):
            raise UsageError("'node' is the name of a member")
        if type(timeout_ms) is not int or not 1 <= timeout_ms <= _SWITCH_MS_MAX:
            raise UsageError(f"'timeout_ms' is an integer from 1 to {_SWITCH_MS_MAX}")
        future: asyncio.Future[dict[str, Any] | PacelineError] = asyncio.get_running_loop().create_future()
        to = NodeId(target) if target else None
        self._process.node.switch(to, timeout_ms, partial(_settle, future))
        answer = await future
        if isinstance(answer, PacelineError):
            raise answer
        return answer

    # -- what became of a write ------------------------------------------------------------------

    async def outcome(self, position: str) -> dict[str, Any]:
        """``committed``, ``pending``, ``lost`` or ``unknown``; see ``outcomes.py``."""
        try:
            place = Position.parse(position)
        except ValueError as error:
            raise UsageError(str(error), hint="pass the position of a receipt") from None
        node = self._process.node
        found: dict[str, Any] = {
            "outcome": outcome_of(place, node.log, node.replica.commit),
            "position": str(place),
            "node": self.name,
            "commit": node.replica.commit,
        }
        address = self._leader_address()
        if found["outcome"] in ("pending", "unknown") and address is not None:
            try:
                async with member_client(address, _ASK_MS, direct=True) as leader:
                    told = await leader.outcome_details(str(place))
            except PacelineError:
                return found
            return told if told.get("outcome") != "unknown" else found
        if found["outcome"] == "lost":
            found["custody"] = await self.lost.where(place)
        return found

    async def _lost_here(self, params: dict[str, Any]) -> dict[str, Any]:
        return await self.lost.here(params)

    async def _lost_list(self, params: dict[str, Any]) -> dict[str, Any]:
        return await self.lost.everywhere(discarded=bool(params.get("all")))

    async def _lost_show(self, params: dict[str, Any]) -> dict[str, Any]:
        return await self.lost.show(_text(params, "id"), params.get("node"), params.get("entries"))

    async def _lost_discard(self, params: dict[str, Any]) -> dict[str, Any]:
        return await self.lost.discard(_text(params, "id"), params.get("node"))

    async def _lost_write(self, params: dict[str, Any]) -> dict[str, Any]:
        return await lost_write(_text(params, "write"), self.outcome, self.query, self.lost)

    async def _node_remove(self, params: dict[str, Any]) -> dict[str, Any]:
        name = _text(params, "name")
        node = self._process.node
        if (membership := node.replica.membership) is not None:
            membership.without(name)  # the last voter and strangers have errors of their own
        if name == self.name:
            raise UsageError(
                f"{name} leads the cluster, and only a follower can be removed",
                hint="move the leadership first: paceline failover switch NODE",
            )
        await self._changed(lambda: node.members.remove(name))
        return {"removed": name}

    async def _writes_stop(self, params: dict[str, Any]) -> dict[str, Any]:
        await self._changed(lambda: self._process.node.members.set_writes("stopped"))
        return {"writes": "stopped"}

    async def _writes_start(self, params: dict[str, Any]) -> dict[str, Any]:
        await self._changed(lambda: self._process.node.members.set_writes("on"))
        return {"writes": "on"}

    async def _settings(self, params: dict[str, Any]) -> dict[str, Any]:
        """The settings in force, after the change that ``params`` want, if any; and what each durability means here."""
        node = self._process.node
        if params:
            await self._changed(lambda: node.members.set_settings(params))
        return settings_report(node)

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
        digests = {NodeId(found["name"]): found["digest"] for found in nodes if "digest" in found}
        right = node.verifier.judge(key, digests) if all(n["state"] in _FINAL for n in nodes) else None
        return {
            "id": key,
            "leader": self.name,
            "digest": right,
            "position": own.get("position"),
            "done": all(n["state"] in _FOUND for n in nodes),
            "nodes": nodes,
        }

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._forwarder.close()


def _settle(future: asyncio.Future[Any], answer: Any) -> None:
    if not future.done():
        future.set_result(answer)


def _as_reply(result: ExecuteResult) -> WriteReply:
    """The leader's answer in the shape of this node's own."""
    results = None
    if result.results is not None:
        results = [
            StatementResult(r.last_insert_rowid, r.rows_affected, r.columns, r.rows) for r in result.results
        ]
    receipt = None
    if (r := result.receipt) is not None:
        receipt = Receipt(
            r.position, r.term, r.index, r.durability, r.durable_on, r.applied_on, r.leader, r.asked
        )
    repeated = Index(result.repeated_at) if result.repeated_at is not None else None
    return WriteReply(Outcome(results=results, repeated_at=repeated), receipt)


def _text(params: dict[str, Any], key: str) -> str:
    value = params.get(key)
    if not isinstance(value, str) or not value:
        raise UsageError(f"the operation needs {key!r} (a text)")
    return value


_ADMIN: dict[str, Any] = {
    "node_remove": NodeService._node_remove,
    "writes_stop": NodeService._writes_stop,
    "writes_start": NodeService._writes_start,
    "settings": NodeService._settings,
    "verify": NodeService._verify,
    "verify_result": NodeService._verify_result,
    "switch": NodeService._switch,
    "lost_here": NodeService._lost_here,
    "lost_list": NodeService._lost_list,
    "lost_show": NodeService._lost_show,
    "lost_discard": NodeService._lost_discard,
    "lost_write": NodeService._lost_write,
}
_ANYWHERE = frozenset({"lost_here", "lost_list", "lost_show", "lost_discard", "lost_write"})
"""Operations that every node answers by itself."""
