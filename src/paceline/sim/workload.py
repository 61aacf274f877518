"""Clients: they write unique values, read at every level, and never let go of a write.

A write carries a request id and is repeated under it until its outcome is known, at whatever
node leads by then; now and then a client lets go of one that was only ever refused, which then must never happen.
All that a client was told is kept and judged: at once where the answer itself
can be wrong, at the end where the future decides (``histories.py``).
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

import msgspec

from paceline.core.durability import Level, parse_durability
from paceline.core.entry import EntryKind
from paceline.engines.base import WriteRequest
from paceline.errors import OutcomeUnknown, PacelineError
from paceline.ids import Index, Position
from paceline.node.replies import QueryReply, WriteReply
from paceline.sim.histories import History, Ledger
from paceline.sim.statements import ADD, BAD, CREATE, ITEMS, REGISTERS, SET, SHED, VACUUM, WEIGH
from paceline.sim.world import Violation

if TYPE_CHECKING:
    from paceline.sim.cluster import Cluster
    from paceline.sim.process import Process

__all__ = ["Client", "Workload"]

_GRACE_US = 300_000
_WAIT_FOR_LEADER_US = 20_000
_KEYS = [str(key) for key in range(5)]


class Client:
    def __init__(self, workload: Workload, number: int) -> None:
        self.workload = workload
        self.cluster: Cluster = workload.cluster
        self.name = f"c{number}"
        self.rng: random.Random = self.cluster.world.rng(f"client/{number}")
        self._sqlite_rng = self.cluster.world.rng(f"client/{number}/sqlite")
        self._more_rng = self.cluster.world.rng(f"client/{number}/more")
        self.token: str | None = None
        self.writes = 0
        self.pending: WriteRequest | None = None
        self._attempt = 0
        self._value = ""
        self._may_have_happened = False
        """Some attempt of the pending write got no answer, or an open one."""

    # -- what to do next ------------------------------------------------------------------

    def begin(self) -> None:
        self._after(self.rng.randrange(100_000), self._next)

    def _after(self, delay_us: int, call: object) -> None:
        self.cluster.world.at(delay_us, call)  # type: ignore[arg-type]

    def _pause(self) -> None:
        self._after(self.rng.randrange(1 + self.cluster.options.think_ms * 1000), self._next)

    def _next(self) -> None:
        if self.pending is not None:
            self._send()
        elif self.workload.closing:
            return
        elif self.rng.random() < 0.7:
            self._write()
        else:
            self._read()

    # -- writes ----------------------------------------------------------------------------

    def _write(self) -> None:
        self.writes += 1
        self._value = f"{self.name}-{self.writes}"
        statements: list[tuple[str, list[object]]] = [(ADD, [self._value])]
        if self.rng.random() < 0.3:
            statements.append((SET, [self.rng.randrange(len(_KEYS)), self._value]))
        if self.rng.random() < 0.1:
            statements.append((WEIGH, [self._ballast(self.rng.randrange(2_000))]))
        if self.rng.random() < 0.05:
            statements.append((BAD, []))
        statements = self._of_sqlite(statements)
        self.pending = WriteRequest(
            statements=statements,  # type: ignore[arg-type]
            durability=self.rng.choice(self.cluster.options.levels),
            request_id=self._value.encode(),
            client=self.name,
        )
        key = next((str(args[0]) for sql, args in statements if sql == SET), None)
        if statements[0][0] == ADD:
            self.workload.history.write(self._value, key, self.cluster.world.now_us)
        self._may_have_happened = False
        self._send()

    def _ballast(self, size: int) -> bytes:
        """Bytes that do not compress, the same in each run of the seed."""
        sqlite = self.cluster.options.sqlite
        return hashlib.shake_128(self._value.encode()).digest(size * (sqlite.weight if sqlite else 1))

    def _of_sqlite(self, statements: list[tuple[str, list[object]]]) -> list[tuple[str, list[object]]]:
        """What only SQLite can do, drawn from a source of its own."""
        sqlite = self.cluster.options.sqlite
        if sqlite is None:
            return statements
        if self._sqlite_rng.random() < sqlite.vacuum:
            return [(VACUUM, [])]
        if self._sqlite_rng.random() < sqlite.shed:
            return [*statements, (SHED, [self._sqlite_rng.randrange(4)])]
        return statements

    def _send(self) -> None:
        assert self.pending is not None
        if self.workload.closing:
            self.pending.durability = "quorum"  # a level may be out of reach for good
        request = msgspec.structs.replace(
            self.pending, deadline=None
        )  # answers to earlier attempts speak of those
        self._attempt += 1
        attempt = self._attempt
        process = self._leader()
        timeout_ms = self.rng.choice((200, 1_000, 5_000))
        self._after(timeout_ms * 1000 + _GRACE_US, lambda: self._lost(attempt))
        if process is None:
            return
        life = process.life

        def answer(reply: WriteReply | PacelineError) -> None:
            if isinstance(reply, WriteReply) and reply.receipt is not None and reply.outcome.error is None:
                self.cluster.watch.facts.check_acknowledged(
                    process,
                    request.durability,
                    reply.receipt,
                    request.request_id.decode(),  # type: ignore[union-attr]
                )
                self.workload.told(request, reply)
            self._after(self.cluster.network.delay_us(), lambda: self._answered(attempt, reply))

        def arrive() -> None:
            if life is not None and life.alive and process.up:
                life.call(lambda: process.node.writes.submit(request, timeout_ms, answer))
                self.cluster.world.after_step(life)

        self._after(self.cluster.network.delay_us(), arrive)

    def _leader(self) -> Process | None:
        """Mostly the one that leads; sometimes anybody, as after a change that this client has not heard of."""
        leader = self.cluster.leader
        if leader is None or self.rng.random() < 0.03:
            running = [process for process in self.cluster.processes.values() if process.up]
            return self.rng.choice(running) if running else None
        return leader

    def _lost(self, attempt: int) -> None:
        """No answer came: repeat under the same request id."""
        if attempt == self._attempt and self.pending is not None:
            self.workload.count("no answer")
            self._may_have_happened = True
            self._send()

    def _answered(self, attempt: int, reply: WriteReply | PacelineError) -> None:
        if attempt != self._attempt or self.pending is None:
            return
        self._attempt += 1
        if isinstance(reply, PacelineError):
            self.workload.count(type(reply).__name__)
            self._may_have_happened = self._may_have_happened or isinstance(reply, OutcomeUnknown)
            self._perhaps_give_up()
            self._after(self.rng.randint(10_000, 100_000), self._next)
            return
        self.pending = None
        self.workload.count("ok" if reply.outcome.error is None else "failed")
        if reply.outcome.error is not None and not self._may_have_happened:
            self.workload.ledger.failed.add(self._value)
            self.workload.history.failed(self._value)
        if reply.receipt is not None:
            self.token = reply.receipt.position
        self._pause()

    def _perhaps_give_up(self) -> None:
        """The write was refused: it must never happen, unless an earlier attempt may have."""
        share = self.cluster.options.gives_up
        if not share or self._may_have_happened or self.workload.closing or self._more_rng.random() >= share:
            return
        self.workload.count("let go")
        self.workload.ledger.refused.add(self._value)
        self.workload.history.failed(self._value)
        self.pending = None

    # -- reads -----------------------------------------------------------------------------

    def _read(self) -> None:
        level = self.rng.choice(("local", "session", "leader"))
        process = self._leader() if level == "leader" else self._anybody()
        sql = ITEMS
        if share := self.cluster.options.strict_reads:
            level = "linearizable" if self._more_rng.random() < share else level
            sql = REGISTERS if self._more_rng.random() < 0.4 else ITEMS
        began = self.cluster.world.now_us
        self._attempt += 1
        attempt = self._attempt
        timeout_ms = self.rng.choice((100, 1_000))
        self._after(timeout_ms * 1000 + _GRACE_US, lambda: self._no_answer(attempt))
        if process is None:
            return
        life, token = process.life, self.token if level == "session" else None

        def answer(reply: QueryReply | PacelineError) -> None:
            if isinstance(reply, QueryReply):
                self.workload.check_read(process, level, token, reply, sql, began)
            self._after(self.cluster.network.delay_us(), lambda: self._read_answered(attempt, level, reply))

        def arrive() -> None:
            if life is not None and life.alive and process.up:
                life.call(
                    lambda: process.node.reads.submit(
                        sql, [], read=level, token=token, timeout_ms=timeout_ms, done=answer
                    )
                )

        self._after(self.cluster.network.delay_us(), arrive)

    def _anybody(self) -> Process | None:
        running = [process for process in self.cluster.processes.values() if process.up]
        return self.rng.choice(running) if running else None

    def _no_answer(self, attempt: int) -> None:
        if attempt == self._attempt and self.pending is None:
            self._next()

    def _read_answered(self, attempt: int, level: str, reply: QueryReply | PacelineError) -> None:
        if attempt != self._attempt:
            return
        self._attempt += 1
        if isinstance(reply, QueryReply):
            self.workload.count(f"read {level}")
            if level != "local" and reply.position is not None:
                self.token = reply.position
        else:
            self.workload.count(f"read {level} {type(reply).__name__}")
            if type(reply).__name__ == "TokenLost":
                self.token = None
        self._pause()


class _Founder(Client):
    """Makes the tables; the others begin when they stand.  The small engine has them always."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload, 0)

    def _write(self) -> None:
        self.pending = WriteRequest(
            statements=[(sql, []) for sql in CREATE],
            durability="quorum",
            request_id=b"create",
            client=self.name,
        )
        self._send()

    def _next(self) -> None:
        if self.token is not None:
            self.workload.begin_clients()
        elif self.cluster.leader is None:
            self._after(_WAIT_FOR_LEADER_US, self._next)
        elif self.pending is not None:
            self._send()
        else:
            self._write()

    def _read(self) -> None:
        raise AssertionError("it only makes the tables")


class Workload:
    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.closing = False
        """No new operations; what is pending finishes."""
        self.counts: dict[str, int] = {}
        self.history = History()
        self.ledger = Ledger()
        self.clients = [Client(self, number) for number in range(1, cluster.options.clients + 1)]

    def begin(self) -> None:
        if self.cluster.options.sqlite is not None:
            _Founder(self).begin()
        else:
            self.begin_clients()

    def begin_clients(self) -> None:
        for client in self.clients:
            client.begin()

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    @property
    def finished(self) -> bool:
        return all(client.pending is None for client in self.clients)

    def told(self, request: WriteRequest, reply: WriteReply) -> None:
        """A client is being told that its write is done."""
        level = parse_durability(request.durability).level
        lasting = {Level.QUORUM, Level.ALL} if self.cluster.options.authority == "auto" else set(Level)
        if (
            level is Level.ASYNC
            or level not in lasting
            or request.request_id is None
            or reply.receipt is None
        ):
            return
        if request.statements[0][0] != ADD:
            return  # nothing of it is to be seen
        value = request.request_id.decode()
        if level in (Level.QUORUM, Level.ALL):
            self.history.acknowledged(value, self.cluster.world.now_us)
        indexes = self.ledger.told.setdefault(value, [])
        if reply.outcome.repeated_at is None:
            indexes.append(reply.receipt.index)

    def check_read(
        self, process: Process, level: str, token: str | None, reply: QueryReply, sql: str, began: int
    ) -> None:
        facts = self.cluster.watch.facts
        facts.check_step(process)  # a commit may have released this answer just now
        found: list[str] | dict[str, str] = [str(row[0]) for row in reply.result.rows]
        if sql == REGISTERS:
            found = {str(key): str(value) for key, value in reply.result.rows}
        position = Position.parse(reply.position) if reply.position else None
        if level in ("leader", "linearizable") and position is not None:
            committed = position.index < len(facts.committed) and facts.committed[position.index] == position
            facts.judge("leader_read_is_committed", committed, f"{process.name} shows {position.short}")
            replayed = facts.oracle.at(position.index)
            wanted = replayed.registers if sql == REGISTERS else replayed.items
            facts.judge("leader_read_equals_replay", found == wanted, f"{process.name} at {position.short}")
        # With elections a deposed leader answers at level ``leader`` for a while longer.
        if level == "linearizable" or (level == "leader" and self.cluster.options.authority == "designated"):
            self._check_strict(process, found, began)
        if token is not None and position is not None:
            asked = Position.parse(token)
            least, log = asked.index, process.node.log
            while least > log.base.index and log.kind_at(least) is not EntryKind.TXN:
                least = Index(least - 1)  # what touches no database need not be in the answer's position
            facts.judge(
                "session_never_goes_back",
                position.index >= least,
                f"{process.name} answers {position.short} to a token of {asked.short}",
            )

    def _check_strict(self, process: Process, found: list[str] | dict[str, str], began: int) -> None:
        now_us = self.cluster.world.now_us
        if isinstance(found, dict):
            self.history.read_registers(found, _KEYS, began, now_us)
        else:
            why = self.history.read_items(found, began, now_us)
            self.cluster.watch.facts.judge("read_is_linearizable", why is None, f"{process.name}: {why}")

    def check_nothing_lost(self) -> None:
        """At the end every finished write stands in the history exactly once, in an order that explains all reads."""
        facts = self.cluster.watch.facts
        replayed = facts.oracle.at(facts.oracle.index)
        if len(replayed.items) != len(set(replayed.items)):
            raise Violation("nothing_applied_twice", "the committed history has a value twice")
        why = self.ledger.judge(facts.oracle.ran_at)
        facts.judge("exactly_once", why is None, str(why))
        why = self.history.judge(replayed.registers)
        facts.judge("registers_are_linearizable", why is None, str(why))
