"""``paceline sim``: the simulator, from one seed or many."""

from __future__ import annotations

import click

from paceline.errors import UsageError

__all__ = ["command"]


def _seeds(seed: int | None, seeds: str | None) -> range:
    if (seed is None) == (seeds is None):
        raise UsageError("give either --seed N or --seeds A..B")
    if seed is not None:
        return range(seed, seed + 1)
    first, dots, last = (seeds or "").partition("..")
    if not dots or not first.isdigit() or not last.isdigit() or int(first) > int(last):
        raise UsageError(f"--seeds {seeds!r}: expected A..B with A <= B", hint="for example --seeds 1..100")
    return range(int(first), int(last) + 1)


@click.command("sim")
@click.option("--seed", type=click.IntRange(0), metavar="N", help="One seed; the same seed replays exactly.")
@click.option("--seeds", metavar="A..B", help="Seeds A to B, both included.")
@click.option(
    "--minutes", type=click.FloatRange(0.01), default=None, help="Stop starting new seeds after this time."
)
@click.option(
    "--engine",
    type=click.Choice(("sqlite", "memory")),
    default="sqlite",
    show_default=True,
    help="What executes and applies: the shipped SQLite engine, or a small one that is ten times as fast.",
)
def command(seed: int | None, seeds: str | None, minutes: float | None, engine: str) -> None:
    """Run the simulator: the shipped code on simulated network, clock and disk.

    Each seed prints its options first. The exit code is 1 when an invariant
    breaks; the seed that broke it replays it.
    """
    chosen = _seeds(seed, seeds)
    from paceline.sim.main import run

    raise click.exceptions.Exit(run(chosen, minutes=minutes, engine=engine))
