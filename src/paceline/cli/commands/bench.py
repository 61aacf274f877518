"""``paceline bench``: single-row inserts over the native protocol."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

import click

from paceline.cli.context import json_option, resolve, target_options
from paceline.cli.text import human_ms
from paceline.errors import UsageError

if TYPE_CHECKING:
    from paceline.client import AsyncClient

__all__ = ["command"]

_TABLE: Final = "bench_paceline"
_INSERT: Final = f"INSERT INTO {_TABLE}(client, n, text) VALUES (?, ?, ?)"
_TEXT: Final = "a row of about a hundred bytes, as applications write them all day long; nothing special here"


def _levels(text: str) -> list[int]:
    counts = [int(part) for part in text.split(",") if part.strip().isdigit()]
    if not counts or len(counts) != len(text.split(",")) or not all(1 <= count <= 1024 for count in counts):
        raise UsageError(f"--clients {text!r}: expected numbers from 1 to 1024", hint="for example 1,16,64")
    return counts


def percentile(values: list[float], share: float) -> float:
    """Nearest-rank percentile of sorted ``values``."""
    return values[min(len(values) - 1, int(share * len(values)))]


async def _one_client(client: AsyncClient, number: int, end: float, durability: str | None) -> list[float]:
    """Insert one row after the other until ``end``; returns the time of each, in ms."""
    times: list[float] = []
    now = time.perf_counter()
    while now < end:
        await client.execute([(_INSERT, [number, len(times), _TEXT])], durability=durability)
        before, now = now, time.perf_counter()
        times.append((now - before) * 1000)
    return times


async def _measure(
    addresses: list[str], count: int, seconds: float, durability: str | None
) -> dict[str, Any]:
    from paceline.client import AsyncClient

    clients = [AsyncClient(addresses) for _ in range(count)]
    try:
        for client in clients:
            await client.status()
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_one_client(client, number, started + seconds, durability))
                for number, client in enumerate(clients)
            ]
        elapsed = time.perf_counter() - started
    finally:
        for client in clients:
            await client.close()
    times = sorted(ms for task in tasks for ms in task.result())
    return {
        "clients": count,
        "durability": durability or "default",
        "seconds": round(elapsed, 3),
        "transactions": len(times),
        "transactions_per_second": round(len(times) / elapsed, 1),
        "p50_ms": round(percentile(times, 0.50), 3),
        "p99_ms": round(percentile(times, 0.99), 3),
        "max_ms": round(times[-1], 3),
    }


async def _bench(
    addresses: list[str], counts: list[int], seconds: float, durability: str | None, show: Any
) -> None:
    from paceline.client import AsyncClient

    client = AsyncClient(addresses)
    try:
        await client.execute(
            [
                (f"DROP TABLE IF EXISTS {_TABLE}", []),
                (f"CREATE TABLE {_TABLE}(id INTEGER PRIMARY KEY, client INT, n INT, text TEXT)", []),
            ]
        )
        try:
            for count in counts:
                show(await _measure(addresses, count, seconds, durability))
        finally:
            await client.execute([(f"DROP TABLE IF EXISTS {_TABLE}", [])])
    finally:
        await client.close()


@click.command("bench")
@target_options
@click.option(
    "--clients", metavar="N,N,...", default="1,16,64", show_default=True, help="Numbers of clients."
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 3600),
    default=5.0,
    show_default=True,
    help="Time for each number.",
)
@click.option("--durability", metavar="LEVEL", help="What each write waits for (default: the cluster's).")
@json_option
def command(
    directory: str | None,
    connect: str | None,
    clients: str,
    seconds: float,
    durability: str | None,
    as_json: bool,
) -> None:
    """Measure write throughput and latency of this cluster.

    Each client inserts one row per transaction over a connection of its own
    and waits for the answer. The rows go to a table that is made for this and
    dropped at the end.
    """
    from paceline.core.durability import parse_durability

    counts = _levels(clients)
    level = str(parse_durability(durability)) if durability else None
    target = resolve(directory, connect)
    head = f"{'clients':>7}  {'tx/s':>9}  {'p50':>9}  {'p99':>9}  {'max':>9}"

    def show(result: dict[str, Any]) -> None:
        if as_json:
            from msgspec import json

            click.echo(json.encode(result))
            return
        click.echo(
            f"{result['clients']:>7}  {result['transactions_per_second']:>9,.0f}"
            + "".join(f"  {human_ms(result[key]):>9}" for key in ("p50_ms", "p99_ms", "max_ms"))
        )

    if not as_json:
        click.echo(head)
    try:
        asyncio.run(_bench(target.addresses, counts, seconds, level, show))
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
