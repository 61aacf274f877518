"""The invariants, each a named check, made at the moment that could break it.

What the checks believe comes from the disks and from what nodes *did*, never from what
the core says about itself: ``Facts`` keeps the history of the whole cluster (who led which term,
which chain was committed at which index, what was acknowledged to whom).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import apsw

from paceline.core.durability import Level, parse_durability
from paceline.core.effects import Role
from paceline.core.entry import Entry
from paceline.core.membership import majority
from paceline.core.messages import AppendResponse, VoteResponse
from paceline.errors import DiskFull, LogFailed
from paceline.ids import GENESIS, Index, NodeId, Position
from paceline.node.replies import Receipt
from paceline.sim.diskfacts import begins_after, durable_vote, holds
from paceline.sim.levels import promised
from paceline.sim.oracle import Oracle
from paceline.sim.world import Violation

if TYPE_CHECKING:
    from paceline.sim.process import Process

__all__ = ["Acknowledged", "Facts"]

_STATE_CHECK_EVERY = 4
_STEP_DOWN_US = 300_000
"""A tick comes late, the loop is busy."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    position: Position
    level: str
    value: str


@dataclass(slots=True)
class _Seen:
    """What one incarnation of a process has shown so far."""

    term: int = 0
    commit: int = 0
    applied: int = 0
    claimed: int = 0
    role: Role = Role.FOLLOWER
    checked_applied: int = 0
    vote: tuple[int, str | None] = (0, None)
    installed: bool = False
    """A snapshot has just brought it forward."""
    led: int = 0
    """The end of its log when it last led: so far it may have been executing or applying."""


class Facts:
    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle
        self.counts: dict[str, int] = {}
        """How often each checker really judged something: zero is vacuous."""
        self.committed: list[Position] = [GENESIS]
        self.acknowledged: list[Acknowledged] = []
        self._leaders: dict[int, NodeId] = {}
        self._newest_reign: tuple[int, int] = (0, 0)
        """Its term, and when it began (us)."""
        self._votes: dict[tuple[int, str], NodeId] = {}
        self._terms: dict[str, int] = {}
        """By incarnation: what its disk held for certain when it died."""
        self._durable_votes: dict[str, tuple[int, str | None]] = {}
        """The same, with the vote."""
        self._chains: dict[tuple[int, int], bytes] = {}
        self._before: dict[Position, Position] = {}
        """What stood before a position that was ever in a log."""
        self._entries: dict[Position, Entry] = {}
        """All that was ever staged: to look at them no disk is read."""
        self._digests: dict[Position, bytes] = {}
        self._seen: dict[NodeId, _Seen] = {}

    def judge(self, rule: str, holds: bool, details: str) -> None:
        self.counts[rule] = self.counts.get(rule, 0) + 1
        if not holds:
            raise Violation(rule, details)

    # -- after every event -------------------------------------------------------------------

    def check_step(self, process: Process) -> None:
        node, replica = process.node, process.node.replica
        seen = self._seen[process.name]
        if replica.term != seen.term:
            self._check_term(process, replica.term)
            seen.term = replica.term
        if replica.role is not seen.role:
            seen.role = replica.role
            if replica.role is Role.LEADER:
                self._check_leader(process)
        state = replica.hard_state
        if (state.term, state.voted_for) != seen.vote:
            self._check_kept(process, seen.vote)
            seen.vote = state.term, state.voted_for
        if replica.commit != seen.commit:
            self._check_commit(process, seen.commit)
            seen.commit = replica.commit
        if replica.role is Role.LEADER:
            seen.led = replica.last.index
        if node.applied != seen.applied:
            further = node.applied > seen.applied
            seen.applied = node.applied
            self._check_applied(process, seen, further)
        if replica.role is Role.LEADER and replica.term < self._newest_reign[0] and self._elected(process):
            self._check_deposed(process)
        log = node.log
        if log.durable.index > log.last.index:
            raise Violation("durable_within_log", f"{process.name}: {log.durable} > {log.last}")

    def _check_term(self, process: Process, term: int) -> None:
        known = max(self._seen[process.name].term, self._terms.get(process.incarnation, 0))
        self.judge("term_never_falls", term >= known, f"{process.name}: {known} -> {term}")

    def _check_kept(self, process: Process, before: tuple[int, str | None]) -> None:
        state = process.node.replica.hard_state
        kept = state.term != before[0] or before[1] in (None, state.voted_for)
        self.judge("vote_is_kept", kept, f"{process.name} had voted {before}, now {state}")

    def _check_leader(self, process: Process) -> None:
        term, name = process.node.replica.term, process.name
        first = self._leaders.setdefault(term, name)
        self.judge("one_leader_per_term", first == name, f"term {term}: {first} and {name}")
        self._newest_reign = max(self._newest_reign, (term, process.world.now_us))
        for position in self.committed[1:]:
            self._judge_in_log("leader_has_committed", process, position)

    def _check_deposed(self, process: Process) -> None:
        """Check-quorum: whoever leads an old term hears of no majority any more, and steps down before long."""
        if process.stopped:
            return
        since_us = max(self._newest_reign[1], process.went_on_us)
        limit_us = 2_000 * process.node.replica.timing.election_timeout_ms + _STEP_DOWN_US
        self.judge(
            "deposed_leader_steps_down",
            process.world.now_us - since_us < limit_us,
            f"{process.name} still leads term {process.node.replica.term}, {self._newest_reign[0]} has a leader",
        )

    def _judge_in_log(self, rule: str, process: Process, position: Position) -> None:
        log = process.node.log
        if position.index >= log.base.index:
            here = log.position_at(position.index)
            self.judge(rule, here == position, f"{process.name}: {position} was committed, has {here}")

    def _check_commit(self, process: Process, before: int) -> None:
        node = process.node
        commit = node.replica.commit
        self.judge("commit_never_falls", commit > before, f"{process.name}: {before} -> {commit}")
        last = node.replica.last.index
        self.judge("commit_within_log", commit <= last, f"{process.name}: commit {commit} > last {last}")
        own = node.log.position_at(commit)
        if node.replica.role is Role.LEADER and own is not None:
            term = node.replica.term
            self.judge("commits_in_own_term", own.term == term, f"{process.name} leads {term}, commits {own}")
        seen = self._seen[process.name]
        if seen.installed and own is not None and commit >= len(self.committed) and self._elected(process):
            self._commit_installed(process, own)
        seen.installed = False
        for number in range(max(before, node.log.base.index) + 1, commit + 1):
            position = node.log.position_at(Index(number))
            assert position is not None
            self._commit_one(process, position)

    def _commit_one(self, process: Process, position: Position) -> None:
        if position.index < len(self.committed):
            known = self.committed[position.index]
            self.judge(
                "same_index_same_chain",
                known == position,
                f"{process.name} commits {position}, {known} was committed there",
            )
            return
        membership = process.node.replica.membership
        entry = self._entries[position]
        if process.node.replica.role is not Role.LEADER or membership is None:
            final = self._is_final(process, entry)
            self.judge("commit_begins_at_leader", final, f"{process.name} commits {position} first")
            return
        holders = self._holders(process, entry)
        voters = [name for name in sorted(membership.voters) if name in holders]
        enough = len(voters) >= majority(len(membership.voters))
        enough = enough and (process.name in holders or membership.settings.authority == "auto")
        self.judge(
            "commit_is_durable",
            enough,
            f"{position.short} committed by {process.name}, durable only on {sorted(holders)}",
        )
        self.judge(
            "commit_has_no_gap",
            position.index == len(self.committed),
            f"{process.name} commits {position.short}, {len(self.committed) - 1} was the last",
        )
        self._committed(position)

    @staticmethod
    def _elected(process: Process) -> bool:
        membership = process.node.replica.membership
        return membership is not None and membership.settings.authority == "auto"

    def _commit_installed(self, process: Process, base: Position) -> None:
        """A snapshot may be what makes its position committed: its receiver counts (decision 0008)."""
        path = [base]
        while path[-1].index > len(self.committed) and path[-1] in self._before:
            path.append(self._before[path[-1]])
        known = self._before.get(path[-1]) == self.committed[-1]
        self.judge("install_continues_history", known, f"{process.name} installed {base}")
        membership = process.node.replica.membership
        assert membership is not None
        holders = self._holders(process, self._entries[base])
        self.judge(
            "install_is_durable",
            len(holders & set(membership.voters)) >= majority(len(membership.voters)),
            f"{process.name} installed {base.short}, durable only on {sorted(holders)}",
        )
        for position in reversed(path):
            self._committed(position)

    def _committed(self, position: Position) -> None:
        self.committed.append(position)
        self.oracle.commit(position.index, position.chain)

    def _is_final(self, process: Process, entry: Entry) -> bool:
        """Whether it is on the disk of the designated leader, who hands out snapshots from there (decision 0007)."""
        membership = process.node.replica.membership
        name = membership.settings.leader if membership else None
        leader = process.cluster.processes.get(name) if name else None
        return leader is not None and holds(leader.disk, leader.paths.log, entry.record)

    def _holders(self, process: Process, entry: Entry) -> set[str]:
        """Members whose disk durably has this entry."""
        membership = process.node.replica.membership
        assert membership is not None
        found = set()
        for member in membership.members:
            other = process.cluster.processes.get(member.name)
            if other is None:
                continue
            disk, log = other.disk, other.paths.log
            if other.incarnation != member.incarnation:
                if (lost := process.cluster.lost_disks.get(member.incarnation)) is None:
                    continue
                disk = lost  # it had what it said, and is gone
            if holds(disk, log, entry.record) or begins_after(disk, log, entry.index):
                found.add(str(member.name))
        return found

    def _check_applied(self, process: Process, seen: _Seen, further: bool) -> None:
        """A deposed leader has executed what may still be committed, and goes back only as far as history forks."""
        node, replica = process.node, process.node.replica
        if replica.role is not Role.LEADER and further and node.applied > seen.led:
            self.judge(
                "applied_within_commit_and_durable",
                node.applied <= min(replica.commit, replica.durable) or node.applied <= seen.checked_applied,
                f"{process.name}: applied {node.applied}, commit {replica.commit}, durable {replica.durable}",
            )
        if abs(node.applied - seen.checked_applied) >= _STATE_CHECK_EVERY:
            self.check_state(process)
            seen.checked_applied = node.applied

    # -- the database ---------------------------------------------------------------------------

    def check_state(self, process: Process) -> None:
        """Equal to the oracle, and to every other node that stood here."""
        node = process.node
        if node.state_busy or node.quarantined or node.installing:
            return
        applied = node.applied
        position = node.log.position_at(applied)
        if position is None or applied >= len(self.committed) or self.committed[applied] != position:
            return
        items, registers = process.cluster.content(process)
        wanted = self.oracle.at(applied)
        self.judge(
            "state_equals_replay",
            items == wanted.items and registers == wanted.registers,
            f"{process.name} at {position.short}: {_difference(items, wanted.items)}, registers {registers} "
            f"instead of {wanted.registers}",
        )
        self.judge("nothing_applied_twice", len(items) == len(set(items)), f"{process.name}: {items}")
        pin = node.engine.pin()
        digest = pin.digest()
        pin.close()
        if pin.position is None:
            return  # never written: another page size is no difference yet
        known = self._digests.setdefault(position, digest)
        self.judge("equal_position_equal_database", known == digest, f"{process.name} at {position.short}")

    # -- transitions ------------------------------------------------------------------------------

    def opened(self, process: Process) -> None:
        node = process.node
        seen = _Seen(commit=node.log.base.index, applied=node.applied, checked_applied=node.applied)
        self._seen[process.name] = seen
        self._check_term(process, node.replica.term)
        seen.term = node.replica.term
        self._check_kept(process, self._durable_votes.get(process.incarnation, (0, None)))
        log = node.log
        why = node.quarantined
        if (
            process.cluster.options.sqlite is None
        ):  # that engine rather re-syncs than trusts a file after some crashes
            self.judge("no_needless_quarantine", why is None, f"{process.name} starts with: {why}")
        self.judge(
            "term_covers_log",
            log.last.term <= node.replica.term,
            f"{process.name} is in term {node.replica.term}, its log ends at {log.last.short}",
        )
        for number in range(log.base.index + 1, log.last.index + 1):
            position = log.position_at(Index(number))
            assert position is not None
            self._chain(process, position)

    def check_staged(self, process: Process, entries: Sequence[Entry]) -> None:
        before = process.node.log.last
        for entry in entries:
            self._chain(process, entry.position)
            self._before[entry.position] = before
            self._entries[entry.position] = entry
            before = entry.position

    def died(self, process: Process) -> None:
        """Called before its disk loses anything; a commit of its last, unfinished event may have been heard by others."""
        if process.up and process.node.replica.role is Role.LEADER:
            self.check_step(process)
        term, voted = durable_vote(process.disk, process.paths.vote)
        self._durable_votes[process.incarnation] = term, voted
        self._terms[process.incarnation] = max(term, self._terms.get(process.incarnation, 0))

    def _chain(self, process: Process, position: Position) -> None:
        known = self._chains.setdefault((position.index, position.term), position.chain)
        self.judge(
            "same_index_and_term_same_chain",
            known == position.chain,
            f"{process.name} has another {position.short}",
        )

    def check_removal(self, process: Process, after: Index) -> None:
        """Before ``log.truncate``: what goes is in custody, and was never committed."""
        node = process.node
        self._seen[process.name].led = min(self._seen[process.name].led, after)
        self.judge(
            "leader_append_only",
            node.replica.role is not Role.LEADER,
            f"{process.name} leads and truncates after {after}",
        )
        self._judge_kept(process, node.log.entries(after, bytes_max=1 << 40))
        lowest = max(after, node.log.base.index)
        committed = (
            lowest + 1 < len(self.committed)
            and node.log.position_at(Index(lowest + 1)) == self.committed[lowest + 1]
        )
        self.judge("committed_is_never_truncated", not committed, f"{process.name} truncates after {after}")

    def check_reset(self, process: Process, base: Position) -> None:
        node = process.node
        if node.log.position_at(base.index) != base:
            entries = node.log.entries(node.log.base.index, bytes_max=1 << 40)
            lost = [e for e in entries if not self._is_committed(e.position)]
            self._judge_kept(process, lost)

    def _is_committed(self, position: Position) -> bool:
        return position.index < len(self.committed) and self.committed[position.index] == position

    def _judge_kept(self, process: Process, entries: list[Entry]) -> None:
        for entry in entries:
            self.judge(
                "custody_before_removal",
                holds(process.disk, process.paths.custody, entry.record),
                f"{process.name} removes {entry.position.short}, which is not in custody",
            )

    def check_report(self, process: Process, message: AppendResponse) -> None:
        """A follower says what is durable: its disk must agree."""
        if not message.ok or not process.up:
            return
        seen = self._seen[process.name]
        log = process.node.log
        if message.durable <= max(seen.claimed, log.base.index):
            seen.claimed = min(seen.claimed, message.durable)
            return
        seen.claimed = message.durable
        position = log.position_at(message.durable)
        assert position is not None
        entry = self._entries[position]
        self.judge(
            "report_is_durable",
            holds(process.disk, process.paths.log, entry.record),
            f"{process.name} reports {message.durable} durable, its disk does not have it",
        )

    def check_vote(self, process: Process, to: NodeId, message: VoteResponse) -> None:
        if not message.granted or message.pre:
            return
        vote = durable_vote(process.disk, process.paths.vote)
        self.judge(
            "vote_is_durable",
            vote == (message.term, str(to)) or vote[0] > message.term,
            f"{process.name} votes for {to} in term {message.term}, its disk says {vote}",
        )
        first = self._votes.setdefault((message.term, process.incarnation), to)
        self.judge(
            "one_vote_per_term", first == to, f"{process.name} in term {message.term}: {first}, then {to}"
        )

    def check_end(self, process: Process, error: BaseException) -> None:
        """A process may end itself only for a fault of its disk."""
        lawful = process.may_fail and _is_of_the_disk(error)
        self.judge("no_needless_end", lawful, f"{process.name}: {error}")

    def check_event(self, process: Process, kind: str, details: dict[str, Any]) -> None:
        if kind == "quarantined":
            self.judge("no_needless_quarantine", False, f"{process.name}: {details}")
        elif kind == "installed":
            self._seen[process.name].installed = True
        elif kind == "rebased":
            self.judge("no_needless_rebase", False, f"{process.name}: {details}")

    # -- what clients were told ---------------------------------------------------------------------

    def check_acknowledged(self, process: Process, level: str, receipt: Receipt, value: str) -> None:
        """At the moment the reply leaves: the disks hold what the level promises."""
        position = Position.parse(receipt.position)
        node = process.node
        membership = node.replica.membership
        assert membership is not None
        entry = self._entries.get(position)
        here = node.log.position_at(position.index)
        if position.index >= node.log.base.index:
            self.judge("acknowledged_is_logged", here == position, f"{position}: the log has {here}")
        if entry is not None:
            holders = self._holders(process, entry)
            # A commit was judged when it happened; the membership may have grown since.
            committed = level == "quorum" and self._is_committed(position)
            self.judge(
                "acknowledged_is_durable",
                committed or promised(level, holders, process.name, membership),
                f"'{level}' for {position.short} ({value}), durable on {sorted(holders)}",
            )
        self.acknowledged.append(Acknowledged(position, level, value))

    def check_survived(self, authority: str) -> None:
        """At the end: every promise was kept.

        ``designated``: the leader's disk is never destroyed, so what it had synced stays.  ``auto``: a majority's
        word stays.  ``async`` promises nothing beyond the leader's next crash.
        """
        lasting = {Level.QUORUM, Level.ALL} if authority == "auto" else set(Level) - {Level.ASYNC}
        for ack in self.acknowledged:
            if parse_durability(ack.level).level in lasting:
                self.judge(
                    "acknowledged_survives",
                    self._is_committed(ack.position),
                    f"{ack.value} was acknowledged as '{ack.level}' at {ack.position.short}, it is gone",
                )


def _is_of_the_disk(error: BaseException | None) -> bool:
    """Whether a fault of the disk is the cause, whatever it was told as."""
    while error is not None:
        if isinstance(error, DiskFull | LogFailed | OSError | apsw.IOError | apsw.FullError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _difference(here: list[str], wanted: list[str]) -> str:
    if here == wanted:
        return "items equal"
    for number, (one, other) in enumerate(zip(here, wanted, strict=False)):
        if one != other:
            return f"item {number} is {one} instead of {other}"
    return f"{len(here)} items instead of {len(wanted)}"
