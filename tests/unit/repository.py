"""What the tests about the repository itself share: its files, as git sees them."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

__all__ = ["ROOT", "SOURCE", "python_sources", "tracked"]

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "paceline"


@functools.cache
def tracked() -> tuple[Path, ...]:
    """Files that are, or would be, committed; without git those of the known folders."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = (
            subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
        )
        paths = [ROOT / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        folders = ("src", "tests", "bench", "demo", "docs", "requirements")
        paths = [*ROOT.glob("*"), *(path for folder in folders for path in (ROOT / folder).rglob("*"))]
    return tuple(path for path in paths if path.is_file() and "__pycache__" not in path.parts)


def python_sources() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))
