"""Look at a log directory without changing it: facts and a verdict for every file.

``Log.open`` acts on a survey; ``paceline log verify`` only prints it.  A log
that a node is writing to may be surveyed too: its end then looks torn.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field

from paceline.errors import BadEntry, Corruption
from paceline.files import Files
from paceline.ids import GENESIS
from paceline.log.recovery import Action, Facts, Header, Link, Place, Rule, decide
from paceline.log.scan import Ending, Scan, scan_segment
from paceline.log.segment import (
    SCRATCH_SUFFIX,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    UnknownVersion,
    first_index_of,
)
from paceline.log.table import EntryTable

__all__ = ["Finding", "Survey", "read_whole", "survey"]


@dataclass(slots=True, kw_only=True)
class Finding:
    """One segment file: what it is and what the table says about it."""

    name: str
    size: int
    header: SegmentHeader | None
    facts: Facts
    scan: Scan | None
    rule: Rule

    def error(self, directory: str, at_index: int) -> Corruption:
        """What to raise for a refused file."""
        path = os.path.join(directory, self.name)
        at = self.scan.at if self.scan else 0
        detail = f" ({self.scan.problem})" if self.scan and self.scan.problem else ""
        text = f"log segment {path} {self.rule.why}: offset {at}, index {at_index}{detail}"
        in_records = self.scan is not None and self.facts.link in (Link.FIRST, Link.CONTINUES)
        return (BadEntry if in_records else Corruption)(text, hint=self.rule.todo)


@dataclass(slots=True)
class Survey:
    """``findings`` by index; ``table`` holds what is whole; ``refusal`` is the first one."""

    directory: str
    table: EntryTable = field(default_factory=lambda: EntryTable(GENESIS))
    findings: list[Finding] = field(default_factory=list)
    scratch: list[str] = field(default_factory=list)
    refusal: Corruption | None = None


@dataclass(slots=True)
class _File:
    name: str
    size: int
    header: SegmentHeader | None
    verdict: Header


def survey(files: Files, directory: str, cluster: bytes | None) -> Survey:
    """Read everything.  ``cluster`` None: whatever cluster the first readable header names."""
    result = Survey(directory)
    found: list[_File] = []
    for name in files.listdir(directory):
        if name.endswith(SCRATCH_SUFFIX):
            result.scratch.append(name)
        elif first_index_of(name) is not None:
            found.append(_examine(files, directory, name))
    if cluster is None:
        cluster = next((file.header.cluster for file in found if file.header), bytes(16))
    generation = max((file.header.generation for file in found if file.header), default=0)
    current: list[_File] = []
    for file in found:
        if file.header is not None and file.header.cluster != cluster:
            file.verdict = Header.FOREIGN
        if file.header is not None and file.header.generation < generation:
            facts = Facts(header=file.verdict, place=Place.STALE, link=Link.UNKNOWN, ending=Ending.UNREAD)
            _record(result, file, facts, None)
        else:
            current.append(file)
    for number, file in enumerate(current):
        last = number == len(current) - 1
        place = (
            (Place.ONLY if last else Place.EARLIER) if number == 0 else Place.LAST if last else Place.EARLIER
        )
        _judge(files, result, file, place, first=number == 0)
    return result


def _examine(files: Files, directory: str, name: str) -> _File:
    file = files.open(os.path.join(directory, name))
    try:
        size = file.size()
        data = file.pread(SEGMENT_HEADER_BYTES, 0)
    finally:
        file.close()
    try:
        header = SegmentHeader.decode(data)
    except UnknownVersion:
        return _File(name, size, None, Header.NEWER)
    except BadEntry:
        unfinished = size <= SEGMENT_HEADER_BYTES
        return _File(name, size, None, Header.UNFINISHED if unfinished else Header.DAMAGED)
    good = header.first == first_index_of(name)
    return _File(name, size, header, Header.GOOD if good else Header.MISNAMED)


def _judge(files: Files, result: Survey, file: _File, place: Place, *, first: bool) -> None:
    link, scan = Link.UNKNOWN, None
    if file.verdict is Header.GOOD and file.header is not None:
        if first:
            result.table.clear(file.header.before)
        link = Link.FIRST if first else _link(result.table, file.header)
        if link in (Link.FIRST, Link.CONTINUES):
            scan = scan_segment(read_whole(files, os.path.join(result.directory, file.name)), result.table)
    ending = scan.ending if scan else Ending.UNREAD
    _record(result, file, Facts(header=file.verdict, place=place, link=link, ending=ending), scan)


def _link(table: EntryTable, header: SegmentHeader) -> Link:
    if header.before.index > table.last.index:
        return Link.GAP
    if header.before.index < table.last.index:
        return Link.OVERLAP
    return Link.CONTINUES if header.before == table.last else Link.FORKED


def _record(result: Survey, file: _File, facts: Facts, scan: Scan | None) -> None:
    finding = Finding(
        name=file.name, size=file.size, header=file.header, facts=facts, scan=scan, rule=decide(facts)
    )
    result.findings.append(finding)
    if finding.rule.action is Action.REFUSE and result.refusal is None:
        index = result.table.last.index + 1 if scan else (first_index_of(file.name) or 0)
        result.refusal = finding.error(result.directory, index)


def read_whole(files: Files, path: str) -> bytes:
    file = files.open(path)
    try:
        size = file.size()
        data = file.pread(size, 0)
        if len(data) != size:
            raise OSError(errno.EIO, "short read", path)
        return data
    finally:
        file.close()
