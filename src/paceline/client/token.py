"""The session token: the newest position that a client has seen.

Positions print in a fixed width and sort as text, so 'newest' is the greater
text.  Pure.
"""

from __future__ import annotations

from typing import Any

from paceline.client.results import ExecuteResult, QueryResult

__all__ = ["newest"]


def newest(token: str | None, result: Any) -> str | None:
    """The token after ``result`` was seen."""
    position: str | None = None
    if type(result) is ExecuteResult:
        position = result.receipt.position if result.receipt is not None else None
    elif type(result) is QueryResult:
        position = result.position
    return position if position is not None and (token is None or position > token) else token
