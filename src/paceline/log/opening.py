"""Open a log directory: survey it, refuse or act on the verdicts, and make the result durable.

Nothing is changed before every file has its verdict.  Then, in this order:
leftovers are removed, the torn end is cut, and what stays is synced *again*:
after a kill the last write may be visible in the kernel's cache and not yet be
on disk, and after a failed sync the kernel counts its pages as written though
they are not.  So everything that no mark vouches for is written once more, and the
file's size is set once more: a cut may be as little durable as a write.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from paceline.errors import Corruption, DiskFull, LogFailed
from paceline.files import Files, perform
from paceline.ids import GENESIS
from paceline.log.plan import Plan
from paceline.log.recovery import Action
from paceline.log.scan import LooseLocal
from paceline.log.segment import SEGMENT_HEADER_BYTES, SegmentHeader
from paceline.log.survey import Finding, Survey, survey
from paceline.log.table import EntryTable
from paceline.log.writer import Writer

__all__ = ["Opened", "RecoveryReport", "open_directory"]


@dataclass(slots=True)
class RecoveryReport:
    """What opening found and did; ``actions`` are sentences for the operator (none: all was whole)."""

    created: bool = False
    entries: int = 0
    segments: int = 0
    bytes: int = 0
    cut_bytes: int = 0
    actions: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Opened:
    """``segments``: (header, size, time of the newest entry) of each file, oldest first."""

    table: EntryTable
    segments: list[tuple[SegmentHeader, int, int]]
    loose: list[LooseLocal]
    report: RecoveryReport


def open_directory(files: Files, directory: str, cluster: bytes, *, must_exist: bool) -> Opened:
    """See :meth:`Log.open`."""
    assert len(cluster) == 16
    try:
        if not files.exists(directory):
            files.mkdir(directory)
            files.sync_dir(os.path.dirname(directory))
        found = survey(files, directory, cluster)
        if found.refusal is not None:
            raise found.refusal
        report = RecoveryReport()
        kept = _clean(files, found, report)
        if not kept and must_exist:
            raise Corruption(
                f"log directory {directory} has no segments, though this node had a log",
                hint="restore the directory, or move the data directory away and let the node join again",
            )
        if not kept:
            return _create(files, directory, cluster, report)
        segments = [_settle(files, directory, finding, report) for finding in kept]
        files.sync_dir(directory)
    except OSError as error:
        raise LogFailed(
            f"log directory {directory} cannot be opened: {error}", hint="check the disk"
        ) from error
    loose = [local for finding in kept if finding.scan for local in finding.scan.loose]
    return _opened(found.table, segments, loose, report)


def _clean(files: Files, found: Survey, report: RecoveryReport) -> list[Finding]:
    """Remove what the table says; returns the findings that stay."""
    for name in found.scratch:
        files.unlink(os.path.join(found.directory, name))
    kept = []
    for finding in found.findings:
        if finding.rule.action is Action.REMOVE:
            files.unlink(os.path.join(found.directory, finding.name))
            report.actions.append(f"removed {finding.name}: it {finding.rule.why}")
        else:
            kept.append(finding)
    return kept


def _settle(
    files: Files, directory: str, finding: Finding, report: RecoveryReport
) -> tuple[SegmentHeader, int, int]:
    """Cut if the table says so, and make a file that may not be durable so."""
    scan, header = finding.scan, finding.header
    assert scan is not None and header is not None
    if finding.rule.action is Action.CUT:
        lost = scan.size - scan.keep
        report.cut_bytes += lost
        report.actions.append(
            f"cut {lost} bytes at offset {scan.keep} of {finding.name}: "
            f"it {finding.rule.why} ({scan.problem})"
        )
    size = scan.keep
    if finding.facts.place.is_end:
        file = files.open(os.path.join(directory, finding.name))
        try:
            # Also when nothing is to be cut: a cut whose sync failed may be visible and not be on disk.
            file.truncate(size)
            if scan.size > size:
                file.sync()
            file.pwritev([file.pread(size - scan.synced, scan.synced)], scan.synced)
            file.sync()
        finally:
            file.close()
    return header, size, scan.newest_us


def _create(files: Files, directory: str, cluster: bytes, report: RecoveryReport) -> Opened:
    header = SegmentHeader(cluster=cluster, generation=1, before=GENESIS, time_us=0)
    plan = Plan()
    plan.run_for(header, SEGMENT_HEADER_BYTES, create=True)
    try:
        perform(Writer(files, directory, None, GENESIS).perform(plan))
    except DiskFull as error:
        raise LogFailed(error.message, hint=error.hint) from error
    report.created = True
    return _opened(EntryTable(GENESIS), [(header, SEGMENT_HEADER_BYTES, 0)], [], report)


def _opened(
    table: EntryTable,
    segments: list[tuple[SegmentHeader, int, int]],
    loose: list[LooseLocal],
    report: RecoveryReport,
) -> Opened:
    report.entries, report.segments = len(table), len(segments)
    report.bytes = sum(size for _, size, _ in segments)
    return Opened(table, segments, [local for local in loose if local.index >= table.base.index], report)
