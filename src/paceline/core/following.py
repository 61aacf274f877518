"""The follower's half: taking the leader's entries, and telling how far this node is.

What counts is what was *verified* to equal the leader's log in the leader's own term: only that is
reported, and only that far may a commit index reach.
"""

from __future__ import annotations

from paceline.core.entry import Entry, EntryKind
from paceline.core.membership import Membership
from paceline.core.messages import Append, AppendResponse
from paceline.core.state import ReplicaState
from paceline.ids import Index, NodeId, Position, Term

__all__ = ["Following"]


class Following(ReplicaState):
    def _on_append(self, sender: NodeId, message: Append) -> None:
        here = self._position_at(message.prev_index)
        if here != message.prev:
            if message.prev_index < self.log.base.index:
                message = self._beyond_base(message)
                if not message.entries and message.prev != self.log.base:
                    return
            else:
                self._refuse(sender, message.prev_index)
                return
        taken = self._take_entries(message)
        self._verified = max(self._verified, Index(message.prev_index + taken))
        self._advance_to(message.commit)
        if self.durable >= self._verified:
            self._report()  # else the sync that these entries wait for reports them

    def _beyond_base(self, message: Append) -> Append:
        """Entries at or before our base are committed and covered by a snapshot: skip them."""
        base = self.log.base
        for count, entry in enumerate(message.entries):
            if entry.position == base:
                return Append(
                    message.term,
                    base.term,
                    base.index,
                    base.chain,
                    message.commit,
                    message.entries[count + 1 :],
                )
        return Append(message.term, message.prev_term, message.prev_index, message.prev_chain, message.commit)

    def _take_entries(self, message: Append) -> int:
        """Returns how many of the entries this log has now; fewer than all when the database must go back first."""
        for count, entry in enumerate(message.entries):
            here = self._position_at(entry.index)
            if here is not None and here.chain == entry.chain:
                continue
            if here is not None:
                fork = Index(entry.index - 1)
                if self.database_end > fork:
                    self._batch.rewind_to = fork
                    return count
                self._truncate(fork)
            for new in message.entries[count:]:
                assert new.follows(self._last), "an append's entries are one chain"
                self._batch.entries.append(new)
                self._last = new.position
                if new.kind is EntryKind.CONFIG:
                    self._learn(new)
            break
        return len(message.entries)

    def rewound(self) -> None:
        """The database was taken back as ``Batch.rewind_to`` asked: have the leader look for the meeting place again."""
        if self._leading is None and self.leader is not None:
            self._refuse(self.leader, self._last.index)

    def _truncate(self, after: Index) -> None:
        assert after >= self.commit, "committed entries are never removed"
        position = self._position_at(after)
        assert position is not None and not self._batch.entries
        self._batch.truncate_after = after
        self._last = position
        self.durable = min(self.durable, after)
        self.history.truncate(after)
        self._batch.membership_changed = True

    def _learn(self, entry: Entry) -> None:
        self.history.append(entry.index, Membership.decode(entry.body))
        self._batch.membership_changed = True

    def _refuse(self, sender: NodeId, prev_index: Index) -> None:
        hint = self._position_at(min(prev_index, self._last.index)) or self.log.base
        self._send(
            sender,
            AppendResponse(
                self.term, False, Index(0), Index(0), self.applied, hint.term, hint.index, 0, self.health
            ),
        )

    def _report(self, round_: int = 0) -> None:
        """Tell the leader how far this node is."""
        assert self.leader is not None
        self._send(
            self.leader,
            AppendResponse(
                self.term,
                True,
                min(self.durable, self._verified),
                self._verified,
                self.applied,
                Term(0),
                Index(0),
                round_,
                self.health,
            ),
        )

    def _report_applied(self) -> None:
        """Tell the leader, who waits for it, once its commit is in the database."""
        if self._leading is not None or self.leader is None:
            self._report_applied_at = Index(0)
        elif self.applied >= self._report_applied_at:
            self._report_applied_at = Index(0)
            self._report()

    def _advance_to(self, commit: Index) -> None:
        commit = min(commit, self._verified)
        if commit > self.commit:
            self.commit = commit
            self._batch.commit = commit

    def installed(self, base: Position, membership: Membership, *, durable: Index) -> None:
        """A snapshot at ``base`` is in place; the log was reset to it, or goes on behind it."""
        assert self._leading is None and self._batch.truncate_after is None
        self._last = self.log.last
        self.durable = durable
        if self.log.base == base:
            self.history.reset(base.index, membership)
            self._batch.membership_changed = True
        self._verified = min(max(self._verified, base.index), self._last.index)
        if base.index > self.commit:
            self.commit = base.index
            self._batch.commit = base.index
        if self.leader is not None:
            self._report()
