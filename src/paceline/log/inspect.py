"""Read a log directory for people: ``paceline log ls`` and ``paceline log verify``.

Nothing here writes, and a running node may be using the directory: its last
write may look torn, and a segment may go away while we look.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from paceline.core.entry import Entry
from paceline.errors import BadEntry
from paceline.files import Files, RealFiles
from paceline.ids import Position
from paceline.log.recovery import Action
from paceline.log.scan import walk
from paceline.log.segment import first_index_of
from paceline.log.survey import Survey, read_whole, survey

__all__ = ["LogRecord", "SegmentReport", "VerifyReport", "records", "verify"]

_RACES_MAX: Final = 10


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A record where it stands; local records and marks have ``entry.kind`` of 0x40 and above."""

    segment: str
    offset: int
    entry: Entry


@dataclass(frozen=True, slots=True)
class SegmentReport:
    name: str
    bytes: int
    verdict: str
    detail: str


@dataclass(slots=True)
class VerifyReport:
    """``ok``: a node would open this log and lose nothing durable.  ``problem`` says why not."""

    ok: bool
    base: Position
    last: Position
    entries: int
    segments: list[SegmentReport] = field(default_factory=list)
    torn_bytes: int = 0
    problem: str = ""


def records(directory: str, *, files: Files | None = None) -> Iterator[LogRecord]:
    """Every record in order, up to a torn end; raises :class:`BadEntry` at damage before the last segment."""
    files = files or RealFiles()
    names = [name for name in files.listdir(directory) if first_index_of(name) is not None]
    for name in names:
        try:
            data = read_whole(files, os.path.join(directory, name))
        except FileNotFoundError:
            continue  # dropped by the node meanwhile
        try:
            for offset, entry in walk(data):
                yield LogRecord(name, offset, entry)
        except BadEntry as error:
            if name != names[-1]:
                raise BadEntry(
                    f"log segment {name}: {error.message}", hint="run `paceline log verify`"
                ) from error


def _survey(files: Files, directory: str) -> Survey:
    for _ in range(_RACES_MAX):
        try:
            return survey(files, directory, None)
        except FileNotFoundError:
            continue  # the node dropped a segment between the listing and the look
    return survey(files, directory, None)


def verify(directory: str, *, files: Files | None = None) -> VerifyReport:
    """Check every byte as ``Log.open`` would, and change nothing."""
    found = _survey(files or RealFiles(), directory)
    report = VerifyReport(
        ok=found.refusal is None and bool(found.findings),
        base=found.table.base,
        last=found.table.last,
        entries=len(found.table),
        problem=str(found.refusal) if found.refusal else "" if found.findings else "no log segments here",
    )
    for finding in found.findings:
        detail = finding.rule.why
        if finding.scan is not None and finding.scan.problem:
            detail += f", offset {finding.scan.at}: {finding.scan.problem}"
        if finding.scan is not None and finding.rule.action is Action.CUT:
            report.torn_bytes += finding.scan.size - finding.scan.keep
        report.segments.append(SegmentReport(finding.name, finding.size, finding.rule.action.value, detail))
    return report
