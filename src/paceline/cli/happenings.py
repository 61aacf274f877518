"""What happens in a cluster while somebody watches: the events of every node, as lines.

One thread for each address; they end with the process.  What every node tells (who leads) is shown once.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any, Final

from paceline.client import Client
from paceline.errors import PacelineError

__all__ = ["Happenings", "sentence"]

_KEPT: Final = 8


def sentence(event: dict[str, Any]) -> str | None:
    """One line for a person; None for events that are only noise there."""
    node = event.get("node", "?")
    match event.get("event"):
        case "leader":
            leader = event.get("leader")
            return f"{leader} leads term {event['term']}" if leader else None
        case "membership":
            return f"members: {', '.join(event.get('members', ()))}"
        case "switching":
            return f"{node} hands over to {event.get('to')}"
        case "lost":
            return f"{node}: entries {event.get('first')} to {event.get('last')} are lost and in custody"
        case "degraded":
            return f"{node}: durability '{event.get('durability')}' falls back to the leader's own disk"
        case "restored":
            return f"{node}: durability '{event.get('durability')}' is reached again"
        case "rewound":
            return f"{node}: database rewound in {event.get('took_ms')} ms"
        case "surplus-undone":
            return f"{node}: {event.get('entries')} executed but never logged, undone, in custody"
        case "quarantined" | "refused" | "disk-full":
            return f"{node}: {event['event']}: {event.get('reason') or event.get('message') or ''}"
        case "reseed" | "installed" | "rebased" | "differs":
            return f"{node}: {event['event']}"
        case _:
            return None


class Happenings:
    """``lines`` has the newest at the end."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=_KEPT)
        self._known: set[str] = set()
        self._last: dict[str, str] = {}
        self._lock = threading.Lock()

    def follow(self, addresses: list[str]) -> None:
        """Listen to these addresses from now on (each once)."""
        for address in set(addresses) - self._known:
            self._known.add(address)
            threading.Thread(target=self._listen, args=(address,), daemon=True).start()

    def _listen(self, address: str) -> None:
        client = Client([address], name="paceline-watch")
        while True:
            try:
                for event in client.events():
                    self.note(event)
            except (PacelineError, OSError):
                time.sleep(1)

    def note(self, event: dict[str, Any]) -> None:
        """An event came."""
        line = sentence(event)
        kind = str(event.get("event"))
        with self._lock:
            if line is None or (kind in ("leader", "membership") and self._last.get(kind) == line):
                return
            self._last[kind] = line
            self.lines.append(f"{time.strftime('%H:%M:%S')} {line}")
