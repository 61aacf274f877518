"""'Was my write lost?', asked by the position of a receipt or by a request id.

    asked by     what decides
    -----------  ----------------------------------------------------------------------------------------
    position     the position's chain against the log (``outcomes.py``): final for committed and lost
    request id   the memory of applied ids in the leader's database (committed state): committed; else the
                 custody of every member: lost; in neither: unknown (never arrived, older than the memory,
                 or lost where nothing was kept)

A lost write that was repeated under its own id is committed, and ``custody`` says that it was lost once.  ``kept``
is false when all members were asked and none has it: it reached no disk that survived.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from paceline.engines.sqlite.dedup import FIND_SQL, remembered_ids
from paceline.errors import PacelineError, UsageError
from paceline.ids import Position
from paceline.limits import REQUEST_ID_BYTES_MAX
from paceline.node.replies import QueryReply
from paceline.runtime.lost import LostWrites

__all__ = ["lost_write"]

_LEADER_MS = 5_000


async def lost_write(
    write: str,
    outcome: Callable[[str], Awaitable[dict[str, Any]]],
    query: Callable[..., Awaitable[QueryReply]],
    lost: LostWrites,
) -> dict[str, Any]:
    """``write``: a position or a request id (as text, or as ``x'...'``)."""
    try:
        place = Position.parse(write)
    except ValueError:
        return await _by_request(write, query, lost)
    found = await outcome(str(place))
    shape = _shape(found["outcome"]) | {"position": str(place), "request_id": None}
    if found["outcome"] == "lost":
        custody, away = await lost.search({"position": str(place)})
        shape |= _kept(custody, away)
    return shape


async def _by_request(
    request_id: str, query: Callable[..., Awaitable[QueryReply]], lost: LostWrites
) -> dict[str, Any]:
    identity = _bytes(request_id)
    custody, away = await lost.search({"request_id": request_id})
    reply = None
    try:
        reply = await query(FIND_SQL, [identity], read="leader", token=None, timeout_ms=_LEADER_MS)
    except PacelineError as error:
        if "no such table" not in error.message:  # no id was ever used
            raise
    applied = None
    for first_index, body in reply.result.rows if reply is not None else ():
        if isinstance(body, bytes) and identity in remembered_ids(body):
            applied = first_index
    outcome = "committed" if applied is not None else "lost" if custody else "unknown"
    shape = _shape(outcome) | {"position": None, "request_id": request_id, "index": applied}
    return shape | (_kept(custody, away) if outcome != "committed" or custody else {})


def _bytes(request_id: str) -> bytes:
    hexed = request_id.startswith("x'") and request_id.endswith("'")
    try:
        identity = bytes.fromhex(request_id[2:-1]) if hexed else request_id.encode()
    except ValueError:
        identity = request_id.encode()
    if not 0 < len(identity) <= REQUEST_ID_BYTES_MAX:
        raise UsageError(
            f"{request_id[:80]!r} is no id of lost writes, no position, and no request id (1 to "
            f"{REQUEST_ID_BYTES_MAX} bytes)"
        )
    return identity


def _shape(outcome: str) -> dict[str, Any]:
    lost = {"lost": True, "committed": False}.get(outcome)
    return {"lost": lost, "outcome": outcome, "custody": None, "kept": None, "not_asked": []}


def _kept(custody: dict[str, Any] | None, away: list[str]) -> dict[str, Any]:
    if custody is None:
        return {"kept": None if away else False, "not_asked": away}
    request = {"request": custody["request"]} if "request" in custody else {}
    return {"kept": True, "custody": {"node": custody["node"], "id": custody["id"]}, **request}
