"""Lost writes of the whole cluster: what a rewind takes out of a node's log is in that node's custody alone.

So a question about them goes to every member that can be reached, and the answers are put together; members that did
not answer are named.  What is in the files is read by a ``Reader`` (it knows the engine, this file does not), in
a thread; a short summary is kept for ``status`` and the metrics.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol

from paceline.core.entry import Entry
from paceline.engines.base import Pin
from paceline.errors import PacelineError, Unavailable, UsageError
from paceline.ids import Index, Position
from paceline.limits import LOST_HISTORY_BYTES_MAX, MIB
from paceline.runtime.asking import member_client

if TYPE_CHECKING:
    from paceline.runtime.process import NodeProcess

__all__ = ["LostWrites", "Reader"]

_ASK_MS: Final = 10_000
_PIN_SECONDS: Final = 5.0
_CHANGES: Final = frozenset({"lost", "surplus-undone", "rewound"})
_NOTHING: Final = {"ranges": 0, "entries": 0, "requests": 0, "bytes": 0}


class Reader(Protocol):
    """One node's custody.  Every call blocks on the disk."""

    def ranges(self, *, discarded: bool = False) -> list[dict[str, Any]]:
        """Items with ``id``, ``first_index``, ``last_index``, ``entries``, ``requests``, ``bytes`` ...

        ``discarded``: those that a person has dealt with, too.
        """
        ...

    def discard(self, id: str) -> dict[str, Any]:
        """Put the range aside, durably.  Raises ``UsageError``."""
        ...

    def fork(self, id: str) -> Index:
        """The last index before the range.  Raises ``UsageError``, ``BadEntry``."""
        ...

    def show(
        self,
        id: str,
        pin: Pin | None,
        history: list[Entry] | None,
        why_not: str | None,
        entries: list[int] | None = None,
    ) -> dict[str, Any]:
        """One range with its requests and rows.  ``pin``: the database now; ``history``: the log from the fork to it;
        ``why_not``: why these two are not there.  ``entries``: the rows of these, each by itself."""
        ...

    def find(self, place: Position) -> str | None:
        """The range that has the entry at ``place``."""
        ...

    def find_request(self, request_id: str) -> dict[str, Any] | None:
        """``id`` of the newest range that has a request of this id, and the ``request``."""
        ...


class LostWrites:
    def __init__(self, process: NodeProcess, reader: Reader) -> None:
        self._process = process
        self._reader = reader
        self._refreshing: asyncio.Task[None] | None = None
        self._stale = False
        self.summary: dict[str, int] = dict(_NOTHING)
        """Of this node's custody."""
        process.events.watch(self._on_event)

    def _on_event(self, event: dict[str, Any]) -> None:
        if event["event"] in _CHANGES:
            self.refresh()

    def refresh(self) -> None:
        """Count again, soon."""
        self._stale = True
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.get_running_loop().create_task(self._count())

    async def _count(self) -> None:
        while self._stale:
            self._stale = False
            try:
                items = await asyncio.to_thread(self._reader.ranges)
            except OSError:
                return  # the disk has other ways to say that it fails
            self.summary = {
                "ranges": len(items),
                **{key: sum(item[key] or 0 for item in items) for key in ("entries", "requests", "bytes")},
            }

    async def here(self, params: dict[str, Any]) -> dict[str, Any]:
        """This node's own: all, the one of ``id`` in full, or the one that has ``position`` or ``request_id``;
        ``discard`` puts one aside."""
        if "discard" in params:
            done = await asyncio.to_thread(self._reader.discard, str(params["discard"]))
            self.refresh()
            return done
        if "id" in params:
            return await self._show_here(str(params["id"]), _numbers(params.get("entries")))
        if "request_id" in params:
            return await asyncio.to_thread(self._reader.find_request, str(params["request_id"])) or {}
        if "position" in params:
            place = Position.parse(str(params["position"]))
            return {"id": await asyncio.to_thread(self._reader.find, place)}
        return {"lost": await asyncio.to_thread(self._reader.ranges, discarded=bool(params.get("all")))}

    async def everywhere(self, *, discarded: bool = False) -> dict[str, Any]:
        """``{"lost": [...], "nodes": [...]}``: every range with the ``node`` that keeps it, and who was asked."""
        answers = await self._ask_all({"all": True} if discarded else {})
        lost = [
            {"node": name, **item}
            for name, answer in answers
            if isinstance(answer, dict)
            for item in answer["lost"]
        ]
        return {
            "lost": sorted(lost, key=lambda item: (item["time"] or "", item["node"], item["id"])),
            "nodes": [
                {"name": name, "state": "ok"}
                if isinstance(answer, dict)
                else {"name": name, "state": "unreachable", "error": answer.message}
                for name, answer in answers
            ],
        }

    async def show(self, id: str, node: Any = None, entries: Any = None) -> dict[str, Any]:
        """The range ``id``, of whichever member keeps it.  Raises ``PacelineError``."""
        return await self._of_range(id, {"id": id} | ({} if entries is None else {"entries": entries}), node)

    async def discard(self, id: str, node: Any = None) -> dict[str, Any]:
        """A person has dealt with the range ``id``."""
        return await self._of_range(id, {"discard": id}, node)

    async def _of_range(self, id: str, params: dict[str, Any], node: Any) -> dict[str, Any]:
        answers = await self._ask_all(params, only=node)
        if node is not None and not answers:
            raise UsageError(f"no member is called {node!r}", hint="paceline status lists the members")
        for name, answer in answers:
            if isinstance(answer, dict):
                return {"node": name, **answer}
        away = [name for name, answer in answers if isinstance(answer, Unavailable)]
        found = next((a for _, a in answers if not isinstance(a, dict | Unavailable | UsageError)), None)
        if isinstance(found, PacelineError):
            raise found
        if away:
            raise Unavailable(
                f"no node that answers keeps {id!r}, and {', '.join(away)} cannot be asked",
                hint="start these nodes; custody is kept by the node that lost the writes",
            )
        raise UsageError(f"no lost writes are kept under {id!r}", hint="see paceline lost list")

    async def where(self, place: Position) -> dict[str, str] | None:
        """Which node keeps the lost write at ``place``, and under which id."""
        found, _ = await self.search({"position": str(place)})
        return found

    async def search(self, params: dict[str, Any]) -> tuple[dict[str, Any] | None, list[str]]:
        """The first answer with an ``id``, with the ``node`` that gave it; and who could not be asked."""
        answers = await self._ask_all(params)
        away = [name for name, answer in answers if not isinstance(answer, dict)]
        for name, answer in answers:
            if isinstance(answer, dict) and answer.get("id"):
                return {"node": name, **answer}, away
        return None, away

    async def _ask_all(
        self, params: dict[str, Any], only: Any = None
    ) -> list[tuple[str, dict[str, Any] | PacelineError]]:
        membership = self._process.node.replica.membership
        members = membership.members if membership else ()
        own = self._process.config.name

        async def ask(name: str, address: str) -> tuple[str, dict[str, Any] | PacelineError]:
            try:
                if name == own:
                    return name, await self.here(params)
                async with member_client(address, _ASK_MS) as client:
                    return name, await client.ask("lost_here", **params)
            except PacelineError as error:
                return name, error

        return await asyncio.gather(
            *(ask(str(m.name), m.address) for m in members if only is None or m.name == only)
        )

    async def _show_here(self, id: str, entries: list[int] | None) -> dict[str, Any]:
        fork = await asyncio.to_thread(self._reader.fork, id)
        node = self._process.node
        if node.quarantined or node.installing:
            return await asyncio.to_thread(self._reader.show, id, None, None, "this node is re-syncing")
        if fork < node.log.base.index:
            why = "the log no longer reaches back to where history forked"
            return await asyncio.to_thread(self._reader.show, id, None, None, why)
        try:
            pin, position = await self._pinned()
        except TimeoutError:
            return await asyncio.to_thread(self._reader.show, id, None, None, "the database is too busy now")
        try:
            history, why_not = await self._history(fork, position.index)
            return await asyncio.to_thread(self._reader.show, id, pin, history, why_not, entries)
        finally:
            await asyncio.to_thread(pin.close)

    async def _pinned(self) -> tuple[Pin, Position]:
        """Raises ``TimeoutError``."""
        pinned: asyncio.Future[tuple[Pin, Position]] = asyncio.get_running_loop().create_future()

        def ready(pin: Pin, position: Position) -> None:
            if pinned.done():  # nobody waits any more
                pin.close()
            else:
                pinned.set_result((pin, position))

        self._process.node.pin(ready)
        async with asyncio.timeout(_PIN_SECONDS):
            return await pinned

    async def _history(self, fork: Index, last: Index) -> tuple[list[Entry] | None, str | None]:
        """The log behind ``fork`` up to ``last``, read in pieces; or why not."""
        log = self._process.node.log
        found: list[Entry] = []
        after, size = fork, 0
        while after < last:
            if after < log.base.index:
                return None, "the log was shortened meanwhile"
            some = [entry for entry in log.entries(after, bytes_max=MIB) if entry.index <= last]
            found += some
            after = some[-1].index
            size += sum(len(entry.record) for entry in some)
            if size > LOST_HISTORY_BYTES_MAX:
                return (
                    None,
                    f"too much has been written since (more than {LOST_HISTORY_BYTES_MAX // MIB} MiB of log)",
                )
            await asyncio.sleep(0)
        return found, None


def _numbers(value: Any) -> list[int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise UsageError("'entries' is a list of indexes")
    return value
