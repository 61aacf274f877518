"""Where nodes run: Linux.  Client commands run anywhere."""

from __future__ import annotations

import sys

from paceline.errors import UsageError

__all__ = ["require_linux"]


def require_linux(command: str) -> None:
    if sys.platform != "linux":
        raise UsageError(
            f"paceline {command} needs Linux: nodes write SQLite's shared memory and locks as Linux has them",
            hint="client commands (status, sql, shell) work here with --connect HOST:PORT",
        )
