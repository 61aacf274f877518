"""What a durability level means, counted on the disks, independently of the core."""

from __future__ import annotations

from paceline.core.durability import Level, parse_durability
from paceline.core.membership import Membership, majority

__all__ = ["promised"]


def promised(level: str, holders: set[str], leader: str, membership: Membership) -> bool:
    """Whether these disks are what the level means, counted independently of the core."""
    durability = parse_durability(level)
    others = holders - {leader}
    match durability.level:
        case Level.ASYNC:
            return True
        case Level.LOCAL:
            return leader in holders
        case Level.ANY:
            return leader in holders and len(others) >= durability.count
        case Level.FIRST:
            return leader in holders and len(others & set(durability.names)) >= durability.count
        case Level.QUORUM:
            voters = {str(name) for name in membership.voters}
            own = leader in holders or membership.settings.authority == "auto"
            return own and len(holders & voters) >= majority(len(voters))
        case Level.ALL:
            return holders >= {str(name) for name in membership.voters}
