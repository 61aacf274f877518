"""How a node that does not lead gets an answer of the leader, whoever that is meanwhile.

One rule: within the time limit look for the leader, ask it, and when the leadership moves, ask the new
one the same under the same request id.  A write is repeated only under an id, so it is applied once; the id
is drawn here when the client gave none.

    what happens                              then
    ----------------------------------------  ----------------------------------------------
    this node leads                           do it here
    no leader is known                        wait for one, up to ``patience`` seconds
    another node leads before the answer      give the old one up, ask again; a write is *in doubt* now
    not leader, unavailable                   a short pause, ask again
    another refusal, or an answer             it is the answer
    the time limit, or the patience, is over  OutcomeUnknown for a write in doubt, else the last reason

``await_leader`` is for what must not be repeated, such as an operator's action: it only waits until somebody leads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from paceline.client.aio import AsyncClient
from paceline.errors import NotLeader, OutcomeUnknown, PacelineError, TimedOut, Unavailable
from paceline.limits import FORWARD_PATIENCE_SECONDS

__all__ = ["Forwarder"]

T = TypeVar("T")
_PAUSE_SECONDS: Final = 0.05
_AGAIN: Final = (NotLeader, Unavailable)
"""Exactly these classes; their subclasses are the leader's verdict."""

Ask = Callable[[AsyncClient, int], Awaitable[T]]
Here = Callable[[int], Awaitable[T]]


class Forwarder:
    """``address`` tells the leader's native address, None while nobody else is known to lead; ``leads`` whether this
    node does.  ``changed`` must be called when either answer changes."""

    def __init__(self, name: str, address: Callable[[], str | None], leads: Callable[[], bool]) -> None:
        self._name = name
        self._address = address
        self._leads = leads
        self._client: tuple[str, AsyncClient] | None = None
        self._attempts: set[asyncio.Future[Any]] = set()
        self._moves = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def changed(self) -> None:
        """The leader changed: nobody waits for the old one any longer, it may never answer."""
        self._moves += 1
        attempts, self._attempts = self._attempts, set()
        for attempt in attempts:
            attempt.cancel()
        if self._client is not None and self._client[0] != self._address():
            self._hang_up()

    async def run(
        self,
        ask: Ask[T],
        here: Here[T],
        timeout_ms: int,
        *,
        write: bool,
        patience: float = FORWARD_PATIENCE_SECONDS,
        in_doubt: bool = False,
        reason: PacelineError | None = None,
    ) -> T:
        """The leader's answer.  ``ask`` puts the question to a client of the leader, ``here`` to this node; both get
        what is left of the time limit in milliseconds.  Raises ``PacelineError``."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_ms / 1000
        blind_until = min(deadline, loop.time() + patience)
        while (left_ms := int((deadline - loop.time()) * 1000)) > 0:
            leads, address = self._leads(), self._address()
            if not leads and address is None:
                if loop.time() >= blind_until:
                    break
                await self._pause(blind_until - loop.time())
                continue
            blind_until = min(deadline, loop.time() + patience)
            moves = self._moves
            attempt = asyncio.ensure_future(here(left_ms) if leads else ask(self._to(address), left_ms))
            self._attempts.add(attempt)
            try:
                return await attempt
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if self._moves == moves or (task is not None and task.cancelling()):
                    attempt.cancel()
                    raise
                in_doubt = in_doubt or write
                reason = Unavailable("the leader changed before it answered")
            except OutcomeUnknown as error:
                in_doubt, reason = True, error
                if self._leads() and self._moves == moves:
                    raise
            except PacelineError as error:
                reason = error
                verdict = type(error) is Unavailable and leads and self._leads() and self._moves == moves
                if verdict or type(error) not in _AGAIN:
                    raise (
                        self._unknown(error) if in_doubt and isinstance(error, TimedOut) else error
                    ) from None
            finally:
                self._attempts.discard(attempt)
            if self._moves == moves:
                await self._pause(_PAUSE_SECONDS)
        if in_doubt:
            raise self._unknown(reason)
        raise reason or self._nobody()

    async def await_leader(self, patience: float = FORWARD_PATIENCE_SECONDS) -> str | None:
        """The leader's address, None when this node leads.  Raises ``NotLeader`` when nobody does in time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        while not self._leads():
            if (address := self._address()) is not None:
                return address
            if (left := deadline - loop.time()) <= 0:
                raise self._nobody()
            await self._pause(left)
        return None

    def _nobody(self) -> NotLeader:
        return NotLeader(
            f"{self._name} does not lead and knows no leader now",
            leader=None,
            hint="repeat in a moment; paceline status shows who is reachable",
        )

    def _unknown(self, reason: PacelineError | None) -> OutcomeUnknown:
        if isinstance(reason, OutcomeUnknown):
            return reason
        why = f": {reason.message}" if reason is not None else ""
        return OutcomeUnknown(
            f"the leader changed while the request was under way{why}",
            hint="it may have happened; repeat it under the same request id, or look",
        )

    async def _pause(self, seconds: float) -> None:
        """Sleep, or until something changes."""
        nap = asyncio.get_running_loop().create_future()
        self._attempts.add(nap)
        try:
            async with asyncio.timeout(seconds):
                await nap
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
        finally:
            self._attempts.discard(nap)

    def _to(self, address: str | None) -> AsyncClient:
        assert address is not None
        if self._client is None or self._client[0] != address:
            self._hang_up()
            name = f"forward-from-{self._name}"
            self._client = (address, AsyncClient([address], name=name, request_ids=False, direct=True))
        return self._client[1]

    def _hang_up(self) -> None:
        if self._client is not None:
            task = asyncio.get_running_loop().create_task(self._client[1].close())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            self._client = None

    async def close(self) -> None:
        self._hang_up()
        await asyncio.gather(*self._tasks, return_exceptions=True)
