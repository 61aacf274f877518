"""The blocking client: sockets, one request at a time, no event loop.

Same methods, same routing and the same rules for repeating as ``AsyncClient``;
those rules stand in ``routing.py`` and ``call.py`` and are shared.  One client
may be used by several threads: each request holds a lock, so requests of
different threads take turns.  For parallel work open several clients.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, cast

from paceline.client import protocol
from paceline.client.call import Args, Call, RequestIds, Statement, execute_message, result_of, timeout_of
from paceline.client.reading import any_member_answers, parse_read
from paceline.client.results import ExecuteResult, QueryResult, Receipt
from paceline.client.routing import Backoff, Routes, is_newer, parse_address
from paceline.client.token import Tokens, position_of
from paceline.errors import NotLeader, PacelineError, ProtocolError, Unavailable, UsageError, from_wire
from paceline.limits import (
    CLIENT_ANSWER_GRACE_SECONDS,
    CLIENT_CONNECT_SECONDS,
    CLIENT_FRAME_BYTES_MAX,
    CLIENT_SUSPECT_SECONDS,
)

__all__ = ["Client"]

_READ_BYTES = 256 * 1024


class Client:
    """See :class:`paceline.client.aio.AsyncClient` for the arguments."""

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        name: str = "paceline-python",
        request_ids: bool = True,
        timeout_ms: int | None = None,
        durability: str | None = None,
    ) -> None:
        self._routes = Routes(addresses)
        self._name = name
        self._ids = RequestIds() if request_ids else None
        self._timeout_ms = timeout_of(timeout_ms)
        self._durability = durability
        self._lock = threading.Lock()
        self._links: dict[bool, _Link] = {}
        self._closed = False
        self._tokens = Tokens()

    @property
    def token(self) -> str | None:
        """The newest position this client has seen; see ``AsyncClient.token``."""
        return self._tokens.newest

    @token.setter
    def token(self, token: str | None) -> None:
        self._tokens.newest = token

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._closed = True
        with self._lock:
            for leader in list(self._links):
                self._drop(leader)

    def execute(
        self,
        statements: str | Sequence[Statement],
        durability: str | None = None,
        request_id: bytes | None = None,
        timeout_ms: int | None = None,
    ) -> ExecuteResult:
        """Run ``statements`` as one transaction; returns when ``durability`` is reached."""
        limit = self._timeout_ms if timeout_ms is None else timeout_of(timeout_ms)
        if request_id is None and self._ids is not None:
            request_id = self._ids.next()
        message = execute_message(statements, durability or self._durability, request_id, limit)
        return cast(ExecuteResult, self._run(message, limit, leader=True))

    def query(
        self,
        sql: str,
        args: Args = (),
        read: protocol.ReadLevel = "local",
        token: str | None = None,
        timeout_ms: int | None = None,
    ) -> QueryResult:
        """Read.  ``read="session"`` waits for ``token``, by default everything that this client has seen."""
        limit = self._timeout_ms if timeout_ms is None else timeout_of(timeout_ms)
        read = parse_read(read)
        if read == "session" and token is None:
            for doubtful in list(self._tokens.doubtful):
                self._tokens.judged(doubtful, self.outcome(doubtful))
            token = self.token
        message = protocol.Query(0, sql, cast(Any, args), read, token, limit)
        return cast(QueryResult, self._run(message, limit, leader=not any_member_answers(read)))

    def outcome(self, place: ExecuteResult | Receipt | str) -> str:
        """``committed``, ``pending``, ``lost`` or ``unknown``; see ``AsyncClient.outcome``."""
        return str(self.outcome_details(place)["outcome"])

    def outcome_details(self, place: ExecuteResult | Receipt | str) -> dict[str, Any]:
        """See ``AsyncClient.outcome_details``."""
        message = protocol.Outcome(0, position_of(place))
        return cast(dict[str, Any], self._run(message, self._timeout_ms, leader=False))

    def status(self) -> dict[str, Any]:
        return cast(dict[str, Any], self._run(protocol.Status(0), self._timeout_ms, leader=False))

    def leader(self) -> dict[str, Any]:
        return cast(dict[str, Any], self._run(protocol.Leader(0), self._timeout_ms, leader=False))

    def ping(self) -> None:
        self._run(protocol.Ping(0), self._timeout_ms, leader=False)

    def admin(self, op: str, /, **params: Any) -> dict[str, Any]:
        """An operator's action on the leader; never repeated by itself."""
        message = protocol.Admin(0, op, params)
        return cast(dict[str, Any], self._run(message, self._timeout_ms, leader=True))

    def ask(self, op: str, /, **params: Any) -> dict[str, Any]:
        """An operator's question to the member that this client reads from; for ops that any node answers."""
        message = protocol.Admin(0, op, params)
        return cast(dict[str, Any], self._run(message, self._timeout_ms, leader=False))

    def events(self) -> Iterator[dict[str, Any]]:
        """As ``AsyncClient.events``, blocking, on a connection of its own."""
        backoff = Backoff(random.Random())
        first = True
        while not self._closed:
            try:
                with self._find(leader=False, deadline=time.monotonic() + CLIENT_CONNECT_SECONDS) as link:
                    link.subscribe()
                    if not first:
                        yield {"event": "reconnected", "node": link.welcome.node}
                    first = False
                    backoff.reset()
                    while True:
                        reply = link.receive(None)
                        if isinstance(reply, protocol.Event):
                            yield reply.event
            except (OSError, Unavailable):
                self._routes.rotate()
                time.sleep(backoff.next())

    # inside

    def _run(self, message: protocol.Message, timeout_ms: int, *, leader: bool) -> Any:
        call = Call(message, time.monotonic() + timeout_ms / 1000)
        protocol.encode_frame(message)  # what cannot be sent fails before a connection is touched
        with self._lock:
            if self._closed:
                raise UsageError("this client is closed")
            backoff = Backoff(random.Random())
            moved = False
            while True:
                result = self._attempt(call, leader)
                if result is not _AGAIN and result is not _MOVED:
                    return result
                if result is _MOVED and not moved:
                    moved = True  # once: two nodes that name each other are no reason to hurry
                    continue
                electing = isinstance(call.last_error, NotLeader)
                pause = backoff.next(electing=electing)
                if time.monotonic() + pause >= call.deadline:
                    raise call.expired(sent=False)
                time.sleep(pause)

    def _attempt(self, call: Call, leader: bool) -> Any:
        """One try: the result, ``_AGAIN`` (after a pause), ``_MOVED`` (the leader is known), or raises."""
        try:
            link = self._links.get(leader) or self._find(leader=leader, deadline=call.deadline)
        except Unavailable as error:
            if call.last_error is None or time.monotonic() < call.deadline:
                call.last_error = error  # else the time was up before anything was tried
            return _AGAIN
        self._links[leader] = link
        try:
            reply = link.ask(call, (lambda: self._newer_leader(link)) if leader else None)
        except TimeoutError:
            self._drop(leader)
            raise call.expired(sent=True) from None
        except BaseException as error:
            self._drop(leader)
            if not isinstance(error, (OSError, PacelineError)):
                raise  # a KeyboardInterrupt, say: the reply would come to the next request
            known = (
                error if isinstance(error, PacelineError) else Unavailable(f"the connection broke: {error}")
            )
            raised = call.lost(known)
            if raised is not None:
                raise raised from error
            return _MOVED if isinstance(error, _Deposed) else _AGAIN
        return self._finish(call, link, reply, leader)

    def _finish(self, call: Call, link: _Link, reply: protocol.Reply, leader: bool) -> Any:
        result = result_of(reply)
        if isinstance(result, PacelineError):
            raised = call.refused(result)
            if raised is not None:
                raise raised
            self._drop(leader)
            if not leader:
                self._routes.rotate()  # perhaps another member is better off
                return _AGAIN
            return _MOVED if self._routes.hint(reply, link.welcome.node) else _AGAIN
        self._tokens.see(result)
        receipt = result.receipt if isinstance(result, ExecuteResult) else None
        if receipt is not None and receipt.leader != link.welcome.leader:
            self._routes.moved()
            self._drop(leader)
        return result

    def _drop(self, leader: bool) -> None:
        link = self._links.pop(leader, None)
        if link is not None:
            link.close()

    def _find(self, *, leader: bool, deadline: float) -> _Link:
        """One search over the members.  Raises ``Unavailable``."""
        search = self._routes.search(leader=leader)
        fallback: _Link | None = None
        while (address := search.next()) is not None:
            seconds = min(self._routes.patience_seconds, deadline - time.monotonic())
            if seconds <= 0:
                break
            try:
                link = _Link(address, self._name, seconds)
            except (OSError, PacelineError) as error:
                search.failed(address, error)
                continue
            if search.opened(address, link.welcome):
                if fallback is not None:
                    fallback.close()
                return link
            if fallback is None and search.forwards(link.welcome):
                fallback = link
            else:
                link.close()
        if fallback is not None:
            return fallback
        self._routes.moved()
        self._routes.rotate()
        raise search.error()

    def _newer_leader(self, link: _Link) -> bool:
        """The node at ``link`` owes an answer for long: does another member know a newer leader?"""
        search = self._routes.search(leader=False)
        while (address := search.next()) is not None:
            if address == link.address:
                continue
            try:
                with _Link(address, self._name, self._routes.patience_seconds) as other:
                    welcome = other.welcome
            except (OSError, PacelineError):
                continue
            if is_newer(link.welcome, welcome) and search.opened(address, welcome):
                self._routes.leader = welcome.leader_address
                return True
        return False


class _Deposed(Unavailable):
    """Another node leads; the one that was asked may never answer."""


_AGAIN = object()
_MOVED = object()


class _Link:
    """One connection, greeted."""

    def __init__(self, address: str, client: str, seconds: float) -> None:
        self.address = address
        deadline = time.monotonic() + seconds
        self._socket = socket.create_connection(parse_address(address), seconds)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._reader = protocol.FrameReader(CLIENT_FRAME_BYTES_MAX)
            self._number = 0
            hello = protocol.Hello(protocol.MAGIC, list(protocol.VERSIONS), client)
            self._socket.sendall(protocol.encode_frame(hello))
            reply = self.receive(deadline)
            if not isinstance(reply, protocol.Welcome):
                raise ProtocolError("the node did not say welcome")
            self.welcome = reply
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def ask(self, call: Call, deposed: Callable[[], bool] | None = None) -> protocol.Reply:
        """Send and wait for the reply.  Raises ``TimeoutError``, ``OSError``, ``PacelineError``.

        While the reply is overdue ``deposed`` is asked now and then; when it says yes, ``_Deposed`` is raised.
        """
        self._number = call.message.number = (self._number + 1) & 0xFFFF_FFFF
        if hasattr(call.message, "timeout_ms"):
            call.message.timeout_ms = max(1, int((call.deadline - time.monotonic()) * 1000))
        deadline = call.deadline + CLIENT_ANSWER_GRACE_SECONDS
        self._socket.settimeout(max(0.001, deadline - time.monotonic()))
        self._socket.sendall(protocol.encode_frame(call.message))
        while True:
            patience = min(deadline, time.monotonic() + CLIENT_SUSPECT_SECONDS) if deposed else deadline
            try:
                reply = self.receive(patience)
            except TimeoutError:
                if time.monotonic() >= deadline:
                    raise
                if deposed is not None and deposed():
                    raise _Deposed("another node leads now") from None
                continue
            if not isinstance(reply, (protocol.Welcome, protocol.Event)) and reply.number == self._number:
                return reply

    def subscribe(self) -> None:
        self._socket.sendall(protocol.encode_frame(protocol.Subscribe(0)))

    def receive(self, deadline: float | None) -> protocol.Reply:
        """The next message.  A refusal of the whole connection is raised; bytes that came before a time-out are kept."""
        while (body := self._reader.next()) is None:
            if deadline is None:
                self._socket.settimeout(None)
            else:
                self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            data = self._socket.recv(_READ_BYTES)
            if not data:
                raise Unavailable("the connection was closed")
            self._reader.feed(data)
        reply = protocol.decode_reply(body)
        if isinstance(reply, protocol.Failure) and reply.number is None:
            raise from_wire(reply.error)
        return reply
