"""Becoming a member for the first time: found the cluster, or ask its leader.

The designated leader of a fresh configuration founds the cluster alone, as its only voter; the other
founders join like any later node.  Writes wait until a majority of the founders are voters.
Before founding it asks the other founders: one that belongs to a cluster already means
that this directory was wiped, and founding would split the cluster.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable

import msgspec

from paceline.config.shape import NodeConfig
from paceline.core.membership import Member, Membership, Settings
from paceline.errors import PacelineError, Unavailable, UsageError, from_wire
from paceline.ids import GENESIS, DatabasePosition, Index, NodeId, Position, Term
from paceline.node.start import create_state
from paceline.runtime.directory import DataDirectory
from paceline.runtime.engines import Engines
from paceline.runtime.greeting import Hello, Welcome, greet
from paceline.runtime.peers import connect

__all__ = ["candidate", "found", "join", "other_founders", "own_member"]

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
    await _refuse_second_founding(config, hello)
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
            authority="designated", leader=config.leader, durability=config.settings.durability
        ),
        forming=tuple(sorted(m.name for m in config.members if m.name != config.name)),
    )
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


async def _refuse_second_founding(config: NodeConfig, hello: Hello) -> None:
    async def probe(address: str) -> Welcome | None:
        try:
            return await _ask(address, hello)
        except PacelineError:
            return None

    try:
        async with asyncio.timeout(_PROBE_S):
            answers = await asyncio.gather(*(probe(address) for address in other_founders(config)))
    except TimeoutError:
        return
    for answer in answers:
        if answer is not None and answer.cluster is not None:
            raise UsageError(
                f"{answer.name} already belongs to cluster {answer.cluster[:8]}, but {config.name}'s data directory "
                f"{config.data} is empty",
                hint=f"was it wiped? Founding again would split the cluster. Bring its directory back, or let it come "
                f"in as a new member: paceline serve ... --join {answer.leader or other_founders(config)[0]}",
            )


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
    request = msgspec.structs.replace(hello, purpose="join", database=packed)
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


def candidate(hello: Hello) -> Member:
    return Member(
        name=NodeId(hello.name),
        incarnation=hello.incarnation,
        address=hello.address,
        http=hello.http,
        peer=hello.peer,
        voter=False,
    )
