"""Paceline's own statements on a connection that also runs user SQL.

APSW keeps prepared statements by text and does not ask the authorizer again
for one that it has.  So every statement of ours carries a comment that no user
can know, and runs with the authorizer's ``trusted`` on: the same text from a
user would be another statement, prepared under the user's rules.
"""

from __future__ import annotations

import secrets
from typing import Final

__all__ = ["control"]

_SECRET: Final = f"/*{secrets.token_hex(8)}*/"


def control(sql: str) -> str:
    """``sql`` as a text that user SQL cannot equal."""
    return _SECRET + sql
