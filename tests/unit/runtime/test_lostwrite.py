"""'Was my write lost?': what decides, and what cannot be known."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec
import pytest

from paceline.engines.base import QueryResult
from paceline.errors import SqlError, UsageError
from paceline.ids import Position
from paceline.node.replies import QueryReply
from paceline.runtime.lost import LostWrites
from paceline.runtime.lostwrite import lost_write

PLACE = Position.parse("00000008-00000000000018-0ec3e549b88e19c1c06b6218130158a0")
CUSTODY = {"node": "n2", "id": "ID", "request": {"request_id": "mine"}}
NO_TABLE = SqlError("no such table: _paceline_requests", code=1, extended=1, name="SQLITE_ERROR", statement=1)


class Lost:
    def __init__(self, found: dict[str, Any] | None, away: list[str]) -> None:
        self.answer = found, away
        self.asked: list[dict[str, Any]] = []

    async def search(self, params: dict[str, Any]) -> tuple[dict[str, Any] | None, list[str]]:
        self.asked.append(params)
        return self.answer


def ask(
    write: str,
    *,
    outcome: str = "lost",
    applied: list[bytes] | SqlError = NO_TABLE,
    custody: dict[str, Any] | None = None,
    away: list[str] | None = None,
) -> dict[str, Any]:
    lost = Lost(custody, away or [])

    async def told(position: str) -> dict[str, Any]:
        return {"outcome": outcome, "position": position}

    async def query(sql: str, args: list[Any], **options: Any) -> QueryReply:
        assert options["read"] == "leader", "what a failover can take back decides nothing"
        if isinstance(applied, SqlError):
            raise applied
        rows: list[list[Any]] = [[7, msgspec.msgpack.encode([[item, None] for item in applied])]]
        return QueryReply(QueryResult([], [], rows, None), None, "n1", 1, "n1")

    return asyncio.run(lost_write(write, told, query, cast(LostWrites, lost)))


@pytest.mark.parametrize(
    ("outcome", "lost"), [("lost", True), ("committed", False), ("pending", None), ("unknown", None)]
)
def test_position_is_answered_by_the_log(outcome: str, lost: bool | None) -> None:
    found = ask(str(PLACE), outcome=outcome)
    assert (found["lost"], found["outcome"], found["position"]) == (lost, outcome, str(PLACE))


def test_lost_position_that_nobody_keeps_is_lost_without_content() -> None:
    assert ask(str(PLACE))["kept"] is False
    unsure = ask(str(PLACE), away=["n3"])
    assert unsure["kept"] is None and unsure["not_asked"] == ["n3"]
    kept = ask(str(PLACE), custody={"node": "n2", "id": "ID"})
    assert kept["kept"] is True and kept["custody"] == {"node": "n2", "id": "ID"}


def test_request_id_in_the_database_is_committed_even_if_it_was_lost_once() -> None:
    assert ask("mine", applied=[b"other", b"mine"]) == {
        "lost": False,
        "outcome": "committed",
        "position": None,
        "request_id": "mine",
        "index": 7,
        "custody": None,
        "kept": None,
        "not_asked": [],
    }
    again = ask("mine", applied=[b"mine"], custody=CUSTODY)
    assert again["lost"] is False and again["custody"] == {"node": "n2", "id": "ID"}


def test_request_id_in_custody_is_lost_and_in_neither_unknown() -> None:
    found = ask("mine", applied=[b"not mine"], custody=CUSTODY)
    assert found["lost"] is True and found["request"] == {"request_id": "mine"}
    assert ask("mine")["outcome"] == "unknown"
    assert ask("x'00ff'", applied=[b"\x00\xff"])["outcome"] == "committed"


def test_what_is_no_id_at_all_is_refused() -> None:
    with pytest.raises(UsageError, match="no request id"):
        ask("x" * 65)
    with pytest.raises(SqlError):
        ask("mine", applied=SqlError("disk", code=10, extended=10, name="SQLITE_IOERR", statement=1))
