"""Which groups are quick enough to run without a change of thread: learned, bounded, and given up when wrong.

A statement's text is quick when the last group that it was part of ended within
``QUICK_MS``.  A group of quick statements with small arguments runs in place, with a
limit of ``GIVE_UP_MS`` after which the engine gives it up undone; then its statements are
slow for a while, and it runs again on the state lane.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from paceline.engines.base import WriteRequest

__all__ = ["GIVE_UP_MS", "QuickGroups"]

QUICK_MS: Final = 5
GIVE_UP_MS: Final = 25
_SLOW_FOR_MS: Final = 10_000
_TEXTS_MAX: Final = 1_000
_TEXT_CHARS_MAX: Final = 2_000
_STATEMENTS_MAX: Final = 1_000
_ARGUMENT_BYTES_MAX: Final = 64 * 1024
_VERBS: Final = ("insert", "update", "delete", "replac", "select")


class QuickGroups:
    def __init__(self) -> None:
        self._texts: OrderedDict[str, int] = OrderedDict()
        """SQL text to the time (ms) from which on it may run in place."""

    def fits(self, requests: Sequence[WriteRequest], now_ms: int) -> bool:
        """Whether all of the group is known to be quick."""
        texts, room, count, known = self._texts, _ARGUMENT_BYTES_MAX, 0, None
        for request in requests:
            for sql, args in request.statements:
                count += 1
                if sql is not known and sql != known:
                    since = texts.get(sql)
                    if since is None or since > now_ms:
                        return False
                    known = sql
                for value in args if type(args) is list else args.values():  # type: ignore[union-attr]
                    if type(value) is str or type(value) is bytes:
                        room -= len(value)
        return room >= 0 and count <= _STATEMENTS_MAX

    def learn(self, requests: Sequence[WriteRequest], took_ms: float, now_ms: int) -> None:
        """What a group on the state lane has shown about its statements."""
        since = now_ms if took_ms <= QUICK_MS else now_ms + _SLOW_FOR_MS
        for request in requests:
            for sql, _ in request.statements:
                if len(sql) <= _TEXT_CHARS_MAX and sql.lstrip()[:6].lower() in _VERBS:
                    self._texts[sql] = since
                    self._texts.move_to_end(sql)
        while len(self._texts) > _TEXTS_MAX:
            self._texts.popitem(last=False)
