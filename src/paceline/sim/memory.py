"""What the simulator's engine stores: a state, and changes that can be performed, checked and reverted."""

from __future__ import annotations

import msgspec

from paceline.ids import DatabasePosition, Index, Term

__all__ = ["Change", "Commit", "PackedPosition", "State"]

PackedPosition = tuple[int, int, bytes]


class State(msgspec.Struct):
    """Insertion order is part of the state: equal histories give equal bytes."""

    position: PackedPosition | None = None
    items: list[str] = msgspec.field(default_factory=list)
    registers: dict[str, str] = msgspec.field(default_factory=dict)
    ballast: list[str] = msgspec.field(default_factory=list)
    requests: dict[str, int] = msgspec.field(default_factory=dict)
    """Request id (hex) to the first index of the transaction that ran it."""

    @property
    def database_position(self) -> DatabasePosition | None:
        if self.position is None:
            return None
        term, index, chain = self.position
        return DatabasePosition(Term(term), Index(index), chain)


class Change(msgspec.Struct, frozen=True, array_like=True):
    table: str
    key: str
    before: str | None
    after: str

    def fits(self, state: State) -> bool:
        """Whether ``state`` is what this change was made on."""
        match self.table:
            case "item":
                return len(state.items) == int(self.key)
            case "ballast":
                return len(state.ballast) == int(self.key)
            case "register":
                return state.registers.get(self.key) == self.before
            case _:
                return self.key not in state.requests

    def perform(self, state: State) -> None:
        match self.table:
            case "item":
                state.items.append(self.after)
            case "ballast":
                state.ballast.append(self.after)
            case "register":
                state.registers[self.key] = self.after
            case _:
                state.requests[self.key] = int(self.after)

    def revert(self, state: State) -> None:
        match self.table:
            case "item":
                state.items.pop()
            case "ballast":
                state.ballast.pop()
            case "register":
                if self.before is None:
                    del state.registers[self.key]
                else:
                    state.registers[self.key] = self.before
            case _:
                del state.requests[self.key]


class Commit(msgspec.Struct, frozen=True, array_like=True):
    """One transaction in the ``-wal``; or, with ``undoes``, the removal of the last so many, whose changes these are."""

    changes: list[Change]
    before: PackedPosition | None
    after: PackedPosition | None
    led: bool
    undoes: int

    def perform(self, state: State) -> None:
        for change in reversed(self.changes) if self.undoes else self.changes:
            change.revert(state) if self.undoes else change.perform(state)
        state.position = self.after

    def revert(self, state: State) -> None:
        for change in self.changes if self.undoes else reversed(self.changes):
            change.perform(state) if self.undoes else change.revert(state)
        state.position = self.before
