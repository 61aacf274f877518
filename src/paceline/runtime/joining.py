"""Becoming a member for the first time: found the cluster, or ask its leader.

The leader that a fresh configuration names founds the cluster alone, as its only voter; the other
founders join like any later node.  Writes wait until a majority of the founders are voters.
Before founding it asks the other founders: one that belongs to a cluster already means
that this directory was wiped, and founding would split the cluster.  Where the voters elect
(authority ``auto``) it then joins like any other node, as a new incarnation; a designated leader
cannot, because nobody else may let it in.

A founder whose file lists a member that a cluster still being formed does not know is refused: two files
contradict each other, and waiting would not help.  Later the cluster's membership counts; ``contradictions``
says where a file differs from it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Callable

import msgspec

from paceline.config.shape import NodeConfig
from paceline.core.membership import Member, Membership, Settings
from paceline.core.settings import out_of_reach
from paceline.errors import PacelineError, Unavailable, UsageError, from_wire
from paceline.ids import GENESIS, DatabasePosition, Index, NodeId, Position, Term
from paceline.node.start import create_state
from paceline.runtime.directory import DataDirectory
from paceline.runtime.engines import Engines
from paceline.runtime.greeting import Hello, Welcome, greet
from paceline.runtime.peers import connect

__all__ = ["candidate", "check_founders", "contradictions", "found", "join", "other_founders", "own_member"]

log = logging.getLogger("paceline")

_PAUSE_S = 0.2
_PROBE_S = 1.0


def own_member(config: NodeConfig, incarnation: str, *, voter: bool) -> Member:
    return Member(
        name=config.name,
        incarnation=incarnation,
        address=config.advertise,
        http=config.advertise_http,
        peer=config.advertise_peer,
        voter=voter,
    )


def other_founders(config: NodeConfig) -> list[str]:
    """Peer addresses of the other founding members."""
    return [member.peer for member in config.members if member.name != config.name]


async def found(config: NodeConfig, directory: DataDirectory, engines: Engines, hello: Hello) -> None:
    """Found the cluster on this node; its database may exist already (then others fetch it)."""
    member = await _somebody_with_a_cluster(config, hello)
    if member is not None:
        await _come_back(config, directory, engines, hello, member)
        return
    cluster = secrets.token_hex(16)
    database: DatabasePosition | None = None
    base = GENESIS
    if directory.has_database:
        database = await asyncio.to_thread(engines.look)
        # A base that no empty log can continue: everybody else must fetch the database first.
        base = Position(Term(0), Index(1), os.urandom(16))
    membership = Membership(
        cluster=cluster,
        cluster_name=config.cluster,
        members=(own_member(config, directory.identity.incarnation, voter=True),),
        settings=Settings(
            authority=config.authority,
            leader=config.leader if config.authority == "designated" else None,
            durability=config.settings.durability,
            unreached=config.settings.unreached,
            degrade_after_ms=config.settings.degrade_after_ms,
        ),
        forming=tuple(sorted(m.name for m in config.members if m.name != config.name)),
    )
    _check_durability(config, membership)
    create_state(
        directory.files,
        directory.paths,
        cluster=cluster,
        base=base,
        database=database,
        membership=membership,
        segment_bytes=config.settings.segment_bytes,
    )
    directory.joined(cluster)


def _check_durability(config: NodeConfig, founded: Membership) -> None:
    """Founders that could never reach their own default would refuse every write; raises ``UsageError``.

    A cluster of one is let alone: it is founded to grow.
    """
    if len(config.members) < 2:
        return
    for member in config.members:
        if member.name != config.name:
            other = Member(
                name=member.name,
                incarnation="",
                address=member.listen,
                http=member.http,
                peer=member.peer,
                voter=True,
            )
            founded = founded.with_member(other)
    if (why := out_of_reach(founded)) is not None:
        raise UsageError(
            f"settings.durability: {why}", hint="choose one that these founders can reach, quorum for example"
        )


async def _somebody_with_a_cluster(config: NodeConfig, hello: Hello) -> Welcome | None:
    """Ask the other founders, each with little patience; one that is silent must not hide another's answer."""
    # Not a join: nobody is to be admitted by a question.
    question = msgspec.structs.replace(hello, purpose="peer")

    async def probe(address: str) -> Welcome | None:
        try:
            async with asyncio.timeout(_PROBE_S):
                return await _ask(address, question)
        except (PacelineError, OSError):  # TimeoutError is an OSError
            return None

    answers = await asyncio.gather(*(probe(address) for address in other_founders(config)))
    return next((answer for answer in answers if answer is not None and answer.cluster is not None), None)


async def _come_back(
    config: NodeConfig, directory: DataDirectory, engines: Engines, hello: Hello, member: Welcome
) -> None:
    """This founder's directory was emptied, the cluster lives: come in as a new incarnation."""
    assert member.cluster is not None
    if config.authority == "designated":
        raise UsageError(
            f"{member.name} already belongs to cluster {member.cluster[:8]}, but {config.name}'s data directory "
            f"{config.data} is empty",
            hint="was it wiped? Founding again would split the cluster, and only the designated leader could let a "
            "new member in. Bring its directory back, or found a new cluster from a follower's file: "
            "paceline up FILE --dir NEW",
        )
    log.warning(
        "%s belongs to cluster %s already, and the data directory here is empty: %s joins as a new incarnation",
        member.name,
        member.cluster[:8],
        config.name,
    )
    database = await asyncio.to_thread(engines.look) if directory.has_database else None
    await join(config, directory, hello, database, lambda why: log.info("waiting to join: %s", why))


async def _ask(address: str, hello: Hello) -> Welcome:
    reader, writer = await connect(address)
    try:
        return await greet(reader, writer, hello)
    finally:
        writer.transport.abort()
        del reader


async def join(
    config: NodeConfig,
    directory: DataDirectory,
    hello: Hello,
    database: DatabasePosition | None,
    waiting: Callable[[str], None],
) -> None:
    """Ask until the leader lets this node in; ``waiting`` is told why it takes time."""
    addresses = list(config.join) or other_founders(config)
    if not addresses:
        raise UsageError(
            f"{config.name} neither leads nor knows whom to ask",
            hint="give the cluster's members, or --join HOST:PORT with the peer address of a member",
        )
    ask = list(addresses)
    packed = (database.term, database.first_index, database.prev_chain) if database else None
    founders = tuple(str(member.name) for member in config.members)
    request = msgspec.structs.replace(hello, purpose="join", database=packed, founders=founders)
    while True:
        address = ask.pop(0)
        try:
            welcome = await _ask(address, request)
            if welcome.error is not None and welcome.leader and welcome.leader != address:
                ask.insert(0, welcome.leader)
                continue
            if welcome.fatal:
                welcome.raise_error()
            if welcome.error is not None:
                raise Unavailable(str(from_wire(welcome.error)))
            _accept(config, directory, welcome, database)
            return
        except Unavailable as error:
            waiting(error.message)
        if not ask:
            ask = list(addresses)
            await asyncio.sleep(_PAUSE_S)


def _accept(
    config: NodeConfig, directory: DataDirectory, welcome: Welcome, database: DatabasePosition | None
) -> None:
    """Make the first state: from the position of the database that is here if the leader knows it, else empty."""
    assert welcome.cluster is not None and welcome.membership is not None
    membership = Membership.decode(welcome.membership)
    if membership.cluster_name != config.cluster:
        raise UsageError(
            f"{welcome.name} is of cluster {membership.cluster_name!r}, not {config.cluster!r}",
            hint="correct the address or the cluster's name",
        )
    known = welcome.position is not None and database is not None
    base = Position.parse(welcome.position) if known and welcome.position else GENESIS
    create_state(
        directory.files,
        directory.paths,
        cluster=welcome.cluster,
        base=base,
        database=database if known else None,
        membership=membership,
        segment_bytes=config.settings.segment_bytes,
    )
    directory.joined(welcome.cluster)


def check_founders(hello: Hello, membership: Membership) -> None:
    """While a cluster forms, all files must list the same founders; raises ``UsageError``."""
    founders = {str(m.name) for m in membership.members} | set(map(str, membership.forming))
    unknown = sorted(set(hello.founders) - founders)
    if membership.forming and unknown:
        raise UsageError(
            f"the configuration of {hello.name} lists {', '.join(unknown)} as a member, but the cluster that forms "
            f"is that of {', '.join(sorted(founders))}",
            hint="the members must be the same in all files; later nodes come with join instead of members",
        )


def contradictions(config: NodeConfig, membership: Membership) -> list[str]:
    """Where a founder's file differs from the cluster as it is now; the cluster counts."""
    found = []
    known = {str(m.name): m for m in membership.members}
    for member in config.members:
        name = str(member.name)
        if name not in known:
            if name not in membership.forming:
                found.append(f"the configuration lists {name}, which is not a member (any more)")
        elif (member.listen, member.peer) != (known[name].address, known[name].peer):
            found.append(
                f"the configuration says {name} is at {member.listen} and {member.peer}, "
                f"the cluster says {known[name].address} and {known[name].peer}"
            )
    if config.members and config.authority != membership.settings.authority:
        found.append(
            f"the configuration says authority {config.authority}, the cluster has "
            f"{membership.settings.authority} since it was founded"
        )
    return found


def candidate(hello: Hello) -> Member:
    return Member(
        name=NodeId(hello.name),
        incarnation=hello.incarnation,
        address=hello.address,
        http=hello.http,
        peer=hello.peer,
        voter=False,
    )
