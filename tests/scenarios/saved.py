"""The files of saved seeds."""

from __future__ import annotations

from pathlib import Path

__all__ = ["saved_seeds"]


def saved_seeds(name: str) -> list[tuple[int, str | None]]:
    """(seed, authority or None when the seed draws it) of each line."""
    found: list[tuple[int, str | None]] = []
    for line in (Path(__file__).parent / name).read_text().splitlines():
        if line and not line.startswith("#"):
            seed, authority = line.split()[:2]
            assert authority in ("drawn", "auto", "designated"), line
            found.append((int(seed), None if authority == "drawn" else authority))
    return found
