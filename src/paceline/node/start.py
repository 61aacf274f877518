"""Opening a node: from what is on disk to a :class:`~paceline.node.node.Node` that may begin.

The order is the safety: an unfinished snapshot install is finished before anything is
believed; the log is the truth; then the database is brought to a place in the log:

    database says            verdict
    a place in the log       go on from there (what it lacks is applied again)
    more than the log has    a killed leader's surplus: into custody, then undone
    anything else            quarantine: re-sync from the leader; the designated leader
                             itself starts a new history at this state (``rebase``)
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from paceline.core.effects import Timing
from paceline.core.entry import Entry, EntryKind
from paceline.core.hardstate import HardState
from paceline.core.membership import History, Membership
from paceline.core.replica import Replica
from paceline.engines.base import Engine, split_local
from paceline.errors import Corruption, Diverged, VoteLost
from paceline.files import Files
from paceline.ids import GENESIS, DatabasePosition, Index, NodeId, Position, Term
from paceline.log.custody import Custody
from paceline.log.journal import Log
from paceline.log.vote import WAY_BACK, VoteFile
from paceline.node.anchors import Anchor, load_anchor, pack, save_anchor
from paceline.node.identity import Identity
from paceline.node.locate import end_of
from paceline.node.node import Node, NodeSettings
from paceline.node.ports import Ports

__all__ = ["Paths", "create_state", "open_node"]


@dataclass(frozen=True, slots=True)
class Paths:
    """Where things stand in a data directory."""

    root: str

    @property
    def identity(self) -> str:
        return os.path.join(self.root, "node.json")

    @property
    def lock(self) -> str:
        return os.path.join(self.root, "lock")

    @property
    def vote(self) -> str:
        return os.path.join(self.root, "vote")

    @property
    def log(self) -> str:
        return os.path.join(self.root, "log")

    @property
    def anchor(self) -> str:
        return os.path.join(self.root, "anchor")

    @property
    def custody(self) -> str:
        return os.path.join(self.root, "custody")

    @property
    def database(self) -> str:
        return os.path.join(self.root, "db", "main.db")

    @property
    def snapshot(self) -> str:
        return os.path.join(self.root, "snapshot")


def create_state(
    files: Files,
    paths: Paths,
    *,
    cluster: str,
    base: Position,
    database: DatabasePosition | None,
    membership: Membership | None,
    segment_bytes: int,
) -> None:
    """First state of a new member: vote, log and anchor.  Repeats safely until the identity names the cluster."""
    for path in (paths.log, paths.custody, paths.snapshot, os.path.dirname(paths.database)):
        files.mkdir(path)
    for name in files.listdir(paths.log):
        files.unlink(os.path.join(paths.log, name))
    if files.exists(paths.vote):  # a crash broke off an earlier attempt; nobody has voted with it
        files.unlink(paths.vote)
    vote = VoteFile.create(files, paths.vote, HardState(term=Term(0), voted_for=None, leader=None))
    log, _ = Log.open(
        files, paths.log, cluster=bytes.fromhex(cluster), vote=vote, segment_bytes=segment_bytes
    )
    if base != GENESIS:
        log.reset(base)
        log.flush()
    log.close()
    vote.close()
    memberships = ((int(base.index), membership),) if membership else ()
    save_anchor(files, paths.anchor, Anchor(base=str(base), database=pack(database), memberships=memberships))
    files.sync_dir(paths.root)


def open_node(
    *,
    ports: Ports,
    files: Files,
    paths: Paths,
    identity: Identity,
    engine: Engine,
    settings: NodeSettings,
    timing: Timing,
    segment_bytes: int,
) -> Node:
    """Recover and assemble.  ``engine`` is not open yet; an unfinished install plan was already run."""
    assert identity.cluster is not None
    vote = VoteFile.open(files, paths.vote)
    log, report = Log.open(
        files,
        paths.log,
        cluster=bytes.fromhex(identity.cluster),
        vote=vote,
        segment_bytes=segment_bytes,
        must_exist=True,
    )
    if log.last != log.base and vote.state.term < log.last.term:
        log.close()
        raise VoteLost(
            f"vote file {paths.vote} is older than the log (term {vote.state.term}, the log has {log.last.term}): "
            "this node has voted in terms that the file does not know",
            hint=WAY_BACK,
        )
    for repair in report.actions:
        ports.event("log-repaired", what=repair)
    custody = Custody(files, paths.custody)
    anchor = load_anchor(files, paths.anchor)
    if anchor is None:
        raise Corruption(
            f"{paths.anchor} is missing",
            hint="move the data directory away and let the node join again from an empty one",
        )
    history = _history(anchor, log)
    recovery = _Recovery(ports, log, custody, engine, anchor, vote.state)
    end, quarantined = recovery.run()
    if quarantined is not None and _leads_alone(history, identity.name):
        replay_from = recovery.trusted(quarantined)
        if replay_from is not None:
            end, quarantined = replay_from, None
    if quarantined is not None and _leads_alone(history, identity.name):
        anchor = recovery.rebase(history)
        save_anchor(files, paths.anchor, anchor)
        assert history.current is not None
        history = History([(log.base.index, history.current)])
        end, quarantined = log.base.index, None
    replica = Replica(
        name=NodeId(identity.name),
        incarnation=identity.incarnation,
        log=log,
        hard_state=vote.state,
        history=history,
        commit=log.base.index,
        timing=timing,
        random=ports.random,
        now_ms=ports.now_ms(),
    )
    return Node(
        ports=ports,
        files=files,
        anchor_path=paths.anchor,
        anchor=anchor,
        log=log,
        custody=custody,
        engine=engine,
        replica=replica,
        applied=end,
        settings=settings,
        quarantined=quarantined,
    )


def _history(anchor: Anchor, log: Log) -> History:
    """The memberships that the anchor and the log tell; raises ``Corruption`` when the log ends too early."""
    if anchor.memberships and anchor.memberships[-1][0] > log.last.index:
        raise Corruption(
            f"the log ends at {log.last.short}, but this node had entry {anchor.memberships[-1][0]} durably: "
            "part of it is missing",
            hint="restore the log's files, or move the data directory away and let the node join again from its peers",
        )
    items = [(Index(index), membership) for index, membership in anchor.memberships]
    known = items[-1][0] if items else Index(0)
    for number in range(log.base.index + 1, log.last.index + 1):
        index = Index(number)
        if index > known and log.kind_at(index) is EntryKind.CONFIG:
            entry = log.entry(index)
            assert entry is not None
            items.append((index, Membership.decode(entry.body)))
    return History(items)


def _leads_alone(history: History, name: str) -> bool:
    """Whether nobody else can tell this node what the right state is: it is the designated leader."""
    membership = history.current
    return membership is not None and (membership.settings.leader == name or membership.voters == {name})


class _Recovery:
    """Brings the database to a place in the log."""

    def __init__(
        self,
        ports: Ports,
        log: Log,
        custody: Custody,
        engine: Engine,
        anchor: Anchor,
        hard_state: HardState,
    ) -> None:
        self.ports = ports
        self.log = log
        self.custody = custody
        self.engine = engine
        self.anchor = anchor
        self.hard_state = hard_state
        self.failure: Corruption | None = None

    def run(self) -> tuple[Index, str | None]:
        """(applied index, why the database cannot be used or None)."""
        try:
            database = self.engine.open()
            end = end_of(self.log, database, self.anchor)
            database = self._undo_surplus(database, self.log.last.index if end is None else end)
            end = end_of(self.log, database, self.anchor)
        except Corruption as error:
            self.failure = error
            return self.log.base.index, f"quarantined: {error.message}"
        if end is None:
            return self.log.base.index, "quarantined: the database is not a state of this node's log"
        return end, None

    def _last_transaction(self) -> Index:
        """Index of the last entry that touches the database: only behind it can a surplus stand."""
        index = self.log.last.index
        while index > self.log.base.index and self.log.kind_at(index) is not EntryKind.TXN:
            index = Index(index - 1)
        return index

    def _undo_surplus(self, database: DatabasePosition | None, end: Index) -> DatabasePosition | None:
        marks = ((index, split_local(body)[0]) for index, body in self.log.locals_back(end))
        surplus = self.engine.surplus(marks)
        if not surplus:
            return database
        self._keep(surplus)
        database = self.engine.undo(reversed(surplus))
        # Durable before the log goes on: later marks would not show the surplus any more if it came back.
        self.engine.checkpoint(force=True)
        return database

    def _keep(self, surplus: list[Entry]) -> None:
        self.custody.keep(
            "executed but never logged",
            surplus,
            {},
            acknowledged={},
            time_us=self.ports.wall_us(),
            term_now=self.hard_state.term,
        )
        self.ports.event("surplus-undone", entries=len(surplus))

    def trusted(self, reason: str) -> Index | None:
        """A leader's database that somebody else touched: where to replay the log from, None when it has all of it.

        Replaying checks every page, so a change that matters is found then.  Raises ``Corruption`` when the
        database neither contains the log's transactions nor is a state of them: nothing may be thrown away.
        """
        if self.failure is not None and not isinstance(self.failure, Diverged):
            raise self.failure
        database = self.engine.position()
        last = self._last_transaction()
        end = end_of(self.log, database, self.anchor) if database is not None else None
        if end is not None and end < last:
            return end
        if end is None and (database is None or database.first_index <= last) and last > self.log.base.index:
            raise Corruption(
                f"{reason}; it also lacks transactions that this leader's log has",
                hint="put the database file back as it was when the node stopped, or found a new cluster from a "
                "follower's file: paceline up FILE --dir NEW",
            )
        return None

    def rebase(self, history: History) -> Anchor:
        """Somebody changed the designated leader's database behind the log: its state becomes a new base.

        Only after ``trusted``: the state contains everything that the log has.  Followers re-sync by page hashes.
        """
        database = self.engine.position()
        entry_index = max(self.log.last.index, database.first_index if database else 0)
        chain = bytes(self.ports.random.randrange(256) for _ in range(16))
        base = Position(Term(max(self.hard_state.term, 1)), Index(entry_index + 1), chain)
        membership = history.current
        assert membership is not None
        self.log.reset(base)
        self.log.flush()
        self.ports.event("rebased", position=str(base))
        return Anchor(base=str(base), database=pack(database), memberships=((int(base.index), membership),))
