"""``paceline sim``: run seeds, print what they are about, stop at the first broken invariant.

A run has two phases.  *Safety*: faults strike while clients work, every checker on.  *Liveness*:
everything is healed, and within ``liveness_ms`` one leader must be there, every pending
write must have finished, every node must have caught up, and all databases be equal.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from paceline.sim.cluster import Cluster
from paceline.sim.faults import Faults
from paceline.sim.options import Options, draw_authority, draw_options, draw_turmoil
from paceline.sim.workload import Workload
from paceline.sim.world import Violation, World

_STARTS_US = 4_000_000
"""What starting again may take: the supervisor's pause, and the recovery on the slowest of the disks."""

__all__ = ["Result", "options_of", "run", "simulate"]


@dataclass(slots=True)
class Result:
    seed: int
    options: Options
    digest: str
    steps: int
    simulated_ms: int
    committed: int
    violation: Violation | None
    tail: list[str] = field(repr=False)
    checks: dict[str, int]
    events: dict[str, int]
    faults: dict[str, int]
    clients: dict[str, int]


class _Run:
    def __init__(self, seed: int, options: Options) -> None:
        self.world = World(seed)
        self.options = options
        self.cluster = Cluster(self.world, self.options)
        self.workload = Workload(self.cluster)
        self.faults = Faults(self.cluster)

    def perform(self) -> None:
        world, options = self.world, self.options
        self.cluster.begin()
        self.workload.begin()
        self.faults.begin()
        world.run_until(options.safety_ms * 1000)
        self.faults.heal()
        self.workload.closing = True
        deadline_us = world.now_us + options.liveness_ms * 1000
        soon_us = _STARTS_US + 5 * 2_000 * options.timing.election_timeout_ms
        if not world.run_until(world.now_us + soon_us, lambda: self.cluster.leader is not None):
            raise Violation("leader_soon", f"nobody leads {soon_us // 1000} ms after everything was healed")
        reigns = self.cluster.watch.events["leading"]
        if not world.run_until(deadline_us, self._well):
            raise Violation("liveness", self._trouble())
        changes = self.cluster.watch.events["leading"] - reigns
        self.cluster.watch.facts.judge(
            "leader_stays", changes <= 1, f"{changes} changes of the leader after everything was healed"
        )
        self._check_end()

    def _well(self) -> bool:
        return self.workload.finished and not self._trouble()

    def _trouble(self) -> str:
        """Why the cluster is not well yet; empty when it is."""
        leader = self.cluster.leader
        if leader is None:
            return "nobody leads"
        replica = leader.node.replica
        membership = replica.membership
        if membership is None or replica.commit < replica.last.index:
            return f"{leader.name} has committed {replica.commit} of {replica.last.index}"
        for member in membership.members:
            process = self.cluster.processes.get(member.name)
            if process is None or not process.up:
                return f"{member.name} is not up"
            if not member.voter:
                return f"{member.name} is still a learner"
            node = process.node
            if node.quarantined or node.installing or node.applied < replica.last.index:
                return f"{member.name} stands at {node.applied} of {replica.last.index}: {node.quarantined}"
        pending = [client.name for client in self.workload.clients if client.pending is not None]
        return f"clients still wait: {pending}" if pending else ""

    def _check_end(self) -> None:
        facts = self.cluster.watch.facts
        leader = self.cluster.leader
        assert leader is not None
        for process in self.cluster.processes.values():
            if process.up:
                facts.check_state(process)
        facts.check_survived(self.options.authority)
        self.workload.check_nothing_lost()

    def close(self) -> None:
        self.cluster.watch.closed = True
        self.cluster.close()


def options_of(
    seed: int,
    *,
    engine: str = "memory",
    authority: str | None = None,
    directed: Mapping[str, Any] | None = None,
) -> Options:
    """What this seed is about.

    With ``authority`` the seed does not draw it, nor the faults that are aimed at elections: a seed that was saved
    before there were any keeps its meaning.  ``directed`` replaces options, for a run that looks for something.
    """
    world = World(seed)
    rng = world.rng("options/elections")
    options = draw_options(
        world.rng("options"),
        engine=engine,
        authority=authority or draw_authority(rng),
        sqlite_rng=world.rng("options/sqlite"),
    )
    if authority is None:
        options = replace(options, turmoil=draw_turmoil(rng), strict_reads=0.3, gives_up=0.3)
    return replace(options, **directed) if directed else options


def simulate(
    seed: int,
    *,
    engine: str = "memory",
    authority: str | None = None,
    directed: Mapping[str, Any] | None = None,
) -> Result:
    """Run one seed to its end or to the first violation (the arguments: see ``options_of``)."""
    run = _Run(seed, options_of(seed, engine=engine, authority=authority, directed=directed))
    violation: Violation | None = None
    with run.cluster.running():
        try:
            run.perform()
        except Violation as error:
            violation = error
            run.world.trace(f"VIOLATION {error}")
        finally:
            run.close()
    watch = run.cluster.watch
    return Result(
        seed=seed,
        options=run.options,
        digest=run.world.digest,
        steps=run.world.steps,
        simulated_ms=run.world.now_us // 1000,
        committed=len(watch.facts.committed) - 1,
        violation=violation,
        tail=list(run.world.tail),
        checks=watch.facts.counts,
        events=watch.events,
        faults=run.faults.counts,
        clients=run.workload.counts,
    )


def run(seeds: Iterable[int], *, minutes: float | None = None, engine: str = "memory") -> int:
    """Run seeds and report each; stops at the first violation.  Returns the exit code: 1 when an invariant broke."""
    end = None if minutes is None else time.monotonic() + minutes * 60
    return _report(_announced(_until(seeds, end), engine), engine)


def _until(seeds: Iterable[int], end: float | None) -> Iterator[int]:
    for seed in seeds:
        if end is not None and time.monotonic() > end:
            return
        yield seed


def _announced(seeds: Iterable[int], engine: str) -> Iterator[Result]:
    """The options stand on the terminal before the run: also of one that hangs."""
    for seed in seeds:
        print("\n".join([f"seed {seed}", *options_of(seed, engine=engine).lines()]), flush=True)
        yield simulate(seed, engine=engine)


def _report(results: Iterable[Result], engine: str) -> int:
    for result in results:
        print(
            f"seed {result.seed}: {result.steps} steps, {result.simulated_ms} ms simulated, "
            f"{result.committed} entries committed, trace {result.digest}",
            flush=True,
        )
        if result.violation is not None:
            print("\n".join(["  ...", *result.tail]))
            print(f"broken: {result.violation}\nreplay: paceline sim --engine {engine} --seed {result.seed}")
            return 1
    return 0
