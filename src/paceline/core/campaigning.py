"""Elections: asking for votes, giving them, counting them.  The rules stand in ``election.py``."""

from __future__ import annotations

from paceline.core.effects import Role
from paceline.core.election import Ballot, may_campaign, refusal
from paceline.core.hardstate import HardState
from paceline.core.messages import VoteRequest, VoteResponse
from paceline.core.state import ReplicaState
from paceline.ids import NodeId, Term

__all__ = ["Campaigning"]

_LAST_RESORT = 3
"""So many patiences in a row without a leader until a node stands that can only hand over what its log has."""


class Campaigning(ReplicaState):
    def campaign(self, now_ms: int, *, force: bool = False) -> None:
        """Ask for votes, if this node may lead.  With authority ``auto`` a pre-vote comes first."""
        membership = self.membership
        if membership is None or self._leading:
            return
        if self.health != "ok" and membership.settings.authority == "auto" and self._silences < _LAST_RESORT:
            return  # its database could not lead; its log can, when nobody else's has everything
        me = membership.member(self.name)
        if me is None or me.incarnation != self.incarnation:
            return
        if not may_campaign(self.name, membership.settings, voter=me.voter):
            return
        if self._ballot is not None and membership.settings.authority == "designated" and not force:
            # Nobody else campaigns: votes of this term are merely slow, and a new term would void them.
            for voter in sorted(self.voters - self._ballot.granted - {self.name}):
                self._ask_for_vote(voter, self._ballot)
            return
        pre = membership.settings.authority == "auto" and not force
        self._stand(now_ms, pre=pre, force=force)

    def _stand(self, now_ms: int, *, pre: bool, force: bool) -> None:
        self._become(Role.CANDIDATE)
        if not pre:
            self._save(HardState(term=Term(self.term + 1), voted_for=self.name, leader=self._state.leader))
        # Its own vote counts like any other: when it is durable (see ``saved``).
        self._ballot = Ballot(pre=pre, granted={self.name} if pre else set(), refused={})
        for voter in sorted(self.voters - {self.name}):
            self._ask_for_vote(voter, self._ballot, force=force)
        self._count(now_ms, force=force)

    def _ask_for_vote(self, voter: NodeId, ballot: Ballot, *, force: bool = False) -> None:
        term = Term(self.term + 1) if ballot.pre else self.term
        self._after_hard_state(voter, VoteRequest(term, self.last.term, self.last.index, ballot.pre, force))

    def _count(self, now_ms: int, *, force: bool = False) -> None:
        ballot = self._ballot
        assert ballot is not None
        if ballot.won(self.voters):
            if ballot.pre:
                self._stand(now_ms, pre=False, force=force)
            else:
                self._lead(now_ms)
        elif ballot.lost(self.voters):
            self._ballot = None
            self._become(Role.FOLLOWER)

    def _on_vote_request(self, sender: NodeId, message: VoteRequest, now_ms: int) -> None:
        settings = self.membership.settings if self.membership else None
        if message.pre:
            reason = (
                "term is old"
                if message.term <= self.term
                else refusal(sender, message, state=self._state, last=self.last, settings=settings)
            )
            if reason is None and self._leader_alive(now_ms):
                reason = f"{self.leader} is alive"
            term = message.term if reason is None else self.term
            self._send(sender, VoteResponse(term, reason is None, True, self.incarnation, reason or ""))
            return
        reason = refusal(sender, message, state=self._state, last=self.last, settings=settings)
        if reason is None:
            if self._state.voted_for is None:
                self._save(HardState(term=self.term, voted_for=sender, leader=self._state.leader))
            self._draw_deadline(now_ms)
        response = VoteResponse(self.term, reason is None, False, self.incarnation, reason or "")
        self._after_hard_state(sender, response)

    def _on_vote_response(self, sender: NodeId, message: VoteResponse, now_ms: int) -> None:
        ballot = self._ballot
        expected = self.term + 1 if ballot and ballot.pre else self.term
        if ballot is None or message.pre != ballot.pre or (message.granted and message.term != expected):
            return
        member = self.membership.member(sender) if self.membership else None
        if member is None or member.incarnation != message.incarnation:
            return
        if message.granted:
            ballot.granted.add(sender)
            ballot.refused.pop(sender, None)
        else:
            ballot.refused[sender] = message.reason
        self._count(now_ms)

    def _leader_alive(self, now_ms: int) -> bool:
        if self._leading:
            return self._leading.heard_majority(self.voters, now_ms)
        if self.leader is None or self._leader_gone:
            return False
        return now_ms - self._quiet_since_ms < self.timing.election_timeout_ms
