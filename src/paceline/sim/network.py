"""The simulated network: connections as ``runtime/peers.py`` keeps them, and what goes wrong with them.

Every node calls every other member and keeps that connection for what *it* has to say.  A
connection is ordered and loses nothing while it stands, like TCP; when it breaks, all that was
in flight is gone, and it is called again after a pause (``connected`` on the calling
node).  Messages travel as the bytes of ``core/wire.py``.

A *block* is a directed pair of nodes that no byte passes.  Blocked bytes either wait (the
connection stands and delivers late) or the connection breaks, as drawn when the block
begins.  With ``chaos`` single messages are lost, doubled or overtaken: more than TCP
does, and the core must be safe even so.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from paceline.core.messages import Message
from paceline.core.wire import decode_message, encode_message
from paceline.ids import NodeId
from paceline.sim.world import Life, World

__all__ = ["Endpoint", "Network", "NetworkOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkOptions:
    delay_us: tuple[int, int]
    redial_us: tuple[int, int]
    chaos: bool
    """Lose, double and reorder single messages."""


class Endpoint(Protocol):
    """A process as the network sees it."""

    name: NodeId
    life: Life | None
    incarnation: str

    def accepts(self, caller: NodeId) -> bool:
        """Whether it lets ``caller`` in now (``runtime``'s greeting)."""
        ...

    def connected(self, peer: NodeId) -> None: ...

    def disconnected(self, peer: NodeId) -> None: ...

    def received(self, sender: NodeId, incarnation: str, message: Message) -> None: ...


@dataclass(slots=True)
class _Line:
    """The connection that ``caller`` keeps to ``callee``."""

    caller: NodeId
    callee: NodeId
    up: bool = False
    epoch: int = 0
    last_us: int = 0
    dialing: bool = False


class Network:
    def __init__(self, world: World, options: NetworkOptions) -> None:
        self.options = options
        self.sent: Callable[[NodeId, NodeId, Message], None] = lambda sender, to, message: None
        """Hears of every message that leaves (for checkers)."""
        self._world = world
        self._rng = world.rng("network")
        self._endpoints: dict[NodeId, Endpoint] = {}
        self._lines: dict[tuple[NodeId, NodeId], _Line] = {}
        self._blocks: dict[int, frozenset[tuple[NodeId, NodeId]]] = {}
        self._block_count = 0
        self._blocked: set[tuple[NodeId, NodeId]] = set()
        self._stalled: list[tuple[NodeId, NodeId, Callable[[], None]]] = []

    # -- who calls whom -----------------------------------------------------------------

    def attach(self, endpoint: Endpoint) -> None:
        self._endpoints[endpoint.name] = endpoint

    def follow(self, caller: NodeId, callees: Iterable[NodeId]) -> None:
        """``caller`` wants connections to exactly these."""
        wanted = sorted(callees)
        for line in [line for line in self._lines.values() if line.caller == caller]:
            if line.callee not in wanted:
                self._drop(line)
                del self._lines[caller, line.callee]
        for callee in wanted:
            if (caller, callee) not in self._lines:
                self._lines[caller, callee] = line = _Line(caller, callee)
                self._dial(line, self._rng.randrange(1_000))
        for line in [line for line in self._lines.values() if line.callee == caller and line.up]:
            if line.caller not in wanted:
                self._break(line)  # hung up; who is let in again is called back

    def gone(self, name: NodeId) -> None:
        """The process has died: its connections break, its own calls end."""
        for key, line in list(self._lines.items()):
            if line.caller == name:
                self._drop(line)
                del self._lines[key]
            elif line.callee == name:
                self._break(line)

    def break_line(self, rng: random.Random) -> None:
        """Break one connection."""
        lines = [line for line in self._lines.values() if line.up]
        if lines:
            line = rng.choice(lines)
            self._world.trace(f"break {line.caller}>{line.callee}")
            self._break(line)

    def _drop(self, line: _Line) -> None:
        if line.up:
            self._tell(line)
        line.up = False
        line.epoch += 1

    def _tell(self, line: _Line) -> None:
        """The callee hears that the connection is over."""
        callee = self._endpoints.get(line.callee)
        life = callee.life if callee is not None else None
        if callee is None or life is None:
            return

        def tell() -> None:
            if life.alive and not line.up:
                life.call(lambda: callee.disconnected(line.caller))
                self._world.after_step(life)

        self._world.at(self._rng.randint(*self.options.delay_us), tell)

    def _break(self, line: _Line) -> None:
        self._drop(line)
        self._dial(line, self._rng.randint(*self.options.redial_us))

    def _dial(self, line: _Line, delay_us: int) -> None:
        if line.dialing:
            return
        line.dialing = True
        self._world.at(delay_us, lambda: self._call(line))

    def _call(self, line: _Line) -> None:
        line.dialing = False
        caller, callee = self._endpoints[line.caller], self._endpoints.get(line.callee)
        if self._lines.get((line.caller, line.callee)) is not line or caller.life is None:
            return
        reachable = callee is not None and callee.life is not None
        passable = not {(line.caller, line.callee), (line.callee, line.caller)} & self._blocked
        if callee is not None and reachable and passable and callee.accepts(line.caller):
            line.up = True
            line.last_us = self._world.now_us
            back = (line.callee, line.caller)
            if back not in self._lines:  # it may be known to others by now, the leader even
                self._lines[back] = _Line(*back)
                self._dial(self._lines[back], self._rng.randrange(1_000))
            life = caller.life
            life.call(lambda: caller.connected(line.callee))
            self._world.after_step(life)
        else:
            self._dial(line, self._rng.randint(*self.options.redial_us))

    # -- messages ---------------------------------------------------------------------------

    def send(self, sender: NodeId, to: NodeId, message: Message) -> None:
        line = self._lines.get((sender, to))
        if line is None or not line.up:
            return
        self.sent(sender, to, message)
        frame = b"".join(encode_message(message))
        copies = 1
        if self.options.chaos:
            copies = self._rng.choices((0, 1, 2), weights=(3, 94, 3))[0]
        for _ in range(copies):
            self._transmit(line, frame)

    def _transmit(self, line: _Line, frame: bytes) -> None:
        arrival = self._world.now_us + self._rng.randint(*self.options.delay_us)
        if not self.options.chaos:
            arrival = max(arrival, line.last_us)
            line.last_us = arrival
        epoch, callee = line.epoch, self._endpoints[line.callee]
        incarnation = self._endpoints[line.caller].incarnation
        life = callee.life

        def arrive() -> None:
            if line.epoch != epoch or life is None or not life.alive:
                return
            if (line.caller, line.callee) in self._blocked:
                self._stalled.append((line.caller, line.callee, arrive))
                return
            message = decode_message(frame[4:])
            life.call(lambda: callee.received(line.caller, incarnation, message))
            self._world.after_step(life)

        self._world.at(arrival - self._world.now_us, arrive)

    # -- blocks ----------------------------------------------------------------------------

    def block(self, pairs: Iterable[tuple[NodeId, NodeId]], *, breaks: bool) -> int:
        """No byte passes these; returns a token for ``unblock``."""
        pairs = sorted(pairs)
        self._block_count += 1
        self._blocks[self._block_count] = frozenset(pairs)
        for pair in pairs:
            self._blocked.add(pair)
            if breaks:
                for key in (pair, pair[::-1]):
                    if (line := self._lines.get(key)) is not None and line.up:
                        self._break(line)
        return self._block_count

    def unblock(self, token: int) -> None:
        """Lift one block; others stay."""
        if self._blocks.pop(token, None) is not None:
            self._lifted()

    def heal(self) -> None:
        """Lift every block."""
        self._blocks.clear()
        self._lifted()

    def _lifted(self) -> None:
        """What waited arrives now, in order, where the connection still stands."""
        self._blocked = {pair for block in self._blocks.values() for pair in block}
        stalled = [item for item in self._stalled if item[:2] not in self._blocked]
        self._stalled = [item for item in self._stalled if item[:2] in self._blocked]
        for number, (_, _, arrive) in enumerate(stalled):
            self._world.at(number, arrive)
        for line in self._lines.values():
            line.last_us = max(line.last_us, self._world.now_us + len(stalled))

    def passes(self, sender: NodeId, to: NodeId) -> bool:
        return (sender, to) not in self._blocked

    def delay_us(self) -> int:
        return self._rng.randint(*self.options.delay_us)
