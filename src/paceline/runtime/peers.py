"""Connections between nodes.

Every node calls every other member and keeps that connection for what *it* has to
say; the answers come on the other's own call.  A lost connection is called again with a
growing pause.  Messages to a node that is not connected are dropped: the core repeats what matters.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Protocol

from paceline.core.membership import Membership
from paceline.core.messages import Message
from paceline.core.wire import decode_message, encode_message
from paceline.errors import PacelineError, ProtocolError, Unavailable, UsageError
from paceline.ids import NodeId
from paceline.limits import PEER_FRAME_BYTES_MAX
from paceline.runtime.greeting import Hello, Welcome, greet, read_hello, refusal, send_frame

__all__ = ["Host", "Peers", "connect", "split_address"]

_PAUSE_S = (0.05, 1.0)
_UNSENT_BYTES_MAX = 64 * 1024 * 1024
_READ_BYTES = 256 * 1024


class Host(Protocol):
    """What the connections need from the process."""

    def hello(self, purpose: str) -> Hello: ...

    def judge(self, hello: Hello) -> Welcome:
        """Accept or refuse a caller."""
        ...

    def connected(self, name: NodeId) -> None: ...

    def disconnected(self, name: NodeId) -> None:
        """The call on which ``name`` speaks to us is over."""
        ...

    def received(self, sender: NodeId, incarnation: str, message: Message) -> None: ...

    def refused(self, name: NodeId, error: PacelineError, *, fatal: bool) -> None: ...

    def fatal(self, error: BaseException) -> None: ...

    async def serve_snapshot(
        self, hello: Hello, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None: ...


def split_address(address: str) -> tuple[str, int]:
    """``host:port`` (``[::1]:port`` for IPv6)."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"{address!r} is not an address", hint="write host:port")
    return host.strip("[]"), int(port)


async def connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = split_address(address)
    try:
        async with asyncio.timeout(3):
            return await asyncio.open_connection(host, port, limit=_READ_BYTES)
    except (OSError, TimeoutError) as error:
        raise Unavailable(f"cannot reach {address}: {error or 'timed out'}") from None


class _Line(asyncio.Protocol):
    """A caller's messages, cut into frames as they arrive; ``over`` ends with the connection.

    Without a stream and its task between the socket and the core: they cost more than the messages.
    """

    def __init__(self, transport: asyncio.WriteTransport, take: Callable[[bytes], None]) -> None:
        self._transport = transport
        self._take = take
        self._rest = b""
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        offset, end = 0, len(data)
        try:
            while end - offset >= 4:
                length = int.from_bytes(data[offset : offset + 4], "big")
                if length > PEER_FRAME_BYTES_MAX:
                    raise ProtocolError(
                        f"peer frame of {length} bytes is over the limit of {PEER_FRAME_BYTES_MAX}"
                    )
                if end - offset - 4 < length:
                    break
                self._take(data[offset + 4 : offset + 4 + length])
                offset += 4 + length
        except Exception as error:
            self._end(error)
            return
        self._rest = data[offset:]

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        self._transport.abort()
        if self.over.done():
            return
        if error is None:
            self.over.set_result(None)
        else:
            self.over.set_exception(error)


class _Link:
    """Our call to one member."""

    def __init__(self, host: Host, name: NodeId, address: str) -> None:
        self.name = name
        self.address = address
        self._host = host
        self._writer: asyncio.StreamWriter | None = None
        self._there = asyncio.Event()

    def called(self) -> None:
        """The member has called us, so it is there: no need to wait any longer."""
        self._there.set()

    async def _rest(self, seconds: float) -> None:
        self._there.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._there.wait()

    def send(self, message: Message) -> None:
        writer = self._writer
        if writer is None or writer.transport.is_closing():
            return
        if writer.transport.get_write_buffer_size() > _UNSENT_BYTES_MAX:
            self._drop()
            return
        # One buffer: for the small messages of a busy cluster a copy is cheaper than a vectored write.
        writer.transport.write(b"".join(encode_message(message)))

    def _drop(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None

    async def run(self) -> None:
        pause = _PAUSE_S[0]
        while True:
            try:
                reader, writer = await connect(self.address)
            except PacelineError:
                await self._rest(pause)
                pause = min(pause * 2, _PAUSE_S[1])
                continue
            try:
                welcome = await greet(reader, writer, self._host.hello("peer"))
                welcome.raise_error()
                if welcome.name != self.name:
                    raise UsageError(f"{self.address} is {welcome.name}, not {self.name}")
                pause = _PAUSE_S[0]
                self._writer = writer
                self._host.connected(self.name)
                await reader.read(1)  # nothing is ever said here: this ends when the connection does
            except PacelineError as error:
                fatal = isinstance(error, UsageError) and "another process" in error.message
                self._host.refused(self.name, error, fatal=fatal)
                pause = _PAUSE_S[1]
            except OSError:
                pass
            finally:
                self._drop()
                writer.transport.abort()
            await self._rest(pause)


class Peers:
    """The listener of the peer port, and a link to every member."""

    def __init__(self, host: Host, own_name: str) -> None:
        self._host = host
        self._own = own_name
        self._links: dict[NodeId, tuple[_Link, asyncio.Task[None]]] = {}
        self._server: asyncio.Server | None = None
        self._calls: dict[asyncio.Task[None], NodeId | None] = {}
        """Who is on the line; None until it has said its name."""

    async def start(self, address: str) -> None:
        host, port = split_address(address)
        try:
            self._server = await asyncio.start_server(self._answer, host, port, limit=_READ_BYTES)
        except OSError as error:
            raise UsageError(
                f"cannot listen on {address} for other nodes: {error.strerror or error}",
                hint="is another node running there? choose another 'peer' address",
            ) from None

    def follow(self, membership: Membership) -> None:
        """Call the members that there are now, at their present addresses; hang up on those that are none any more."""
        wanted = {m.name: m.peer for m in membership.members if m.name != self._own}
        for call, caller in self._calls.items():
            if caller is not None and caller not in wanted:
                call.cancel()
        for name, (link, task) in list(self._links.items()):
            if wanted.get(name) != link.address:
                task.cancel()
                del self._links[name]
        for name, address in wanted.items():
            if name not in self._links:
                self._call(name, address)

    def _call(self, name: NodeId, address: str) -> None:
        link = _Link(self._host, name, address)
        self._links[name] = (link, asyncio.get_running_loop().create_task(link.run()))

    def send(self, to: NodeId, message: Message) -> None:
        found = self._links.get(to)
        if found is not None:
            found[0].send(message)

    async def close(self) -> None:
        tasks = [task for _, task in self._links.values()] + list(self._calls)
        self._links.clear()
        if self._server is not None:
            self._server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._calls[task] = None
        try:
            await self._serve(reader, writer, task)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except PacelineError as error:
            if not writer.transport.is_closing():
                with contextlib.suppress(OSError):
                    send_frame(writer, refusal(error, name=self._own))
                    await writer.drain()
        finally:
            del self._calls[task]
            writer.close()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, call: asyncio.Task[None]
    ) -> None:
        hello = await read_hello(reader)
        welcome = self._host.judge(hello)
        if welcome.error is None and hello.purpose == "peer":
            await self._listen(hello, welcome, writer, call)
            return
        send_frame(writer, welcome)
        await writer.drain()
        if welcome.error is not None or hello.purpose == "join":
            return
        await self._host.serve_snapshot(hello, reader, writer)

    async def _listen(
        self,
        hello: Hello,
        welcome: Welcome,
        writer: asyncio.StreamWriter,
        call: asyncio.Task[None],
    ) -> None:
        """Welcome a peer and take its messages until the connection ends."""
        sender, incarnation = NodeId(hello.name), hello.incarnation
        self._calls[call] = sender
        line = _Line(
            writer.transport,
            lambda payload: self._host.received(sender, incarnation, decode_message(payload)),
        )
        writer.transport.set_protocol(line)  # before the welcome: nothing may arrive at the old one
        send_frame(writer, welcome)
        if found := self._links.get(sender):
            found[0].called()
        elif hello.peer:
            self._call(sender, hello.peer)  # this node's log may not know it yet, though it may lead by now
        self._host.connected(sender)  # what it answered before this connection was there is lost
        try:
            await line.over
        except PacelineError:
            raise
        except Exception as error:
            self._host.fatal(error)  # an error of the program: what the message should have done is half done
        finally:
            if not any(other == sender for task, other in self._calls.items() if task is not call):
                self._host.disconnected(sender)


Opener = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


async def open_snapshot(address: str, hello: Hello) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A greeted connection for a snapshot."""
    reader, writer = await connect(address)
    try:
        (await greet(reader, writer, hello)).raise_error()
    except BaseException:
        writer.transport.abort()
        raise
    return reader, writer


def anonymous_hello(cluster_name: str) -> Hello:
    """For tools that are no member (backup)."""
    return Hello(
        purpose="snapshot", cluster=None, cluster_name=cluster_name, name="", incarnation="", boot=""
    )
