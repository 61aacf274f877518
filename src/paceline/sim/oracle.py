"""What the database must contain: an independent replay of the committed history.

It knows nothing of bodies, pages or undo.  It hears which requests ran in which entry
(when the leader ran them), learns from commits which entries count, and executes the requests'
meaning on plain lists and dicts, in the order of the log.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from paceline.core.entry import Entry
from paceline.engines.base import WriteRequest
from paceline.sim.statements import ADD, SET
from paceline.sim.world import Violation

__all__ = ["Oracle", "Replayed"]


@dataclass(slots=True)
class Replayed:
    """The content after one index."""

    items: list[str] = field(default_factory=list)
    registers: dict[str, str] = field(default_factory=dict)


class Oracle:
    def __init__(self) -> None:
        self._ran: dict[bytes, list[WriteRequest]] = {}
        self._now = Replayed()
        self._item_count: list[int] = [0]
        self._registers: list[dict[str, str]] = [{}]
        self._applied_ids: dict[bytes, int] = {}

    def ran(self, entry: Entry, requests: list[WriteRequest]) -> None:
        """A leader ran these requests (those that took effect) into ``entry``."""
        self._ran[entry.chain] = requests

    @property
    def index(self) -> int:
        return len(self._item_count) - 1

    @property
    def ran_at(self) -> dict[str, int]:
        """By request id: the committed entry in which it took effect."""
        return {request_id.decode(): index for request_id, index in self._applied_ids.items()}

    def commit(self, index: int, chain: bytes) -> None:
        """The entry with this chain is committed at ``index``, right after the last one."""
        assert index == self.index + 1
        registers = self._registers[-1]
        for request in self._ran.get(chain, ()):
            self._once(request, index)
            registers = self._execute(request, registers)
        self._item_count.append(len(self._now.items))
        self._registers.append(registers)

    def _once(self, request: WriteRequest, index: int) -> None:
        if request.request_id is None:
            return
        before = self._applied_ids.setdefault(request.request_id, index)
        if before != index:
            raise Violation(
                "request_applied_once",
                f"request {request.request_id.hex()} ran at {before} and again at {index}",
            )

    def _execute(self, request: WriteRequest, registers: dict[str, str]) -> dict[str, str]:
        for sql, args in request.statements:
            assert isinstance(args, list)
            if sql == ADD:
                self._now.items.append(str(args[0]))
            elif sql == SET:
                registers = {**registers, str(args[0]): str(args[1])}
        return registers

    def at(self, index: int) -> Replayed:
        """The content after ``index`` (committed)."""
        return Replayed(self._now.items[: self._item_count[index]], self._registers[index])
