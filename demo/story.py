"""The demo, step by step.  Each step says what it does, does it, and proves it."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.cluster import LocalCluster, wait_for
from demo import flights, proof
from demo.processes import Failed, Readers, Writers
from paceline.client import Client, ExecuteResult

__all__ = ["Story"]

_WARM_UP_SECONDS: Final = 1
_FULL_SPEED_SECONDS: Final = 8
_GATES: Final = 20
_STEADY_TPS: Final = 1000
"""The load under which nodes die, come back and join."""


class Story:
    def __init__(self, folder: Path, clients: int, console: Console) -> None:
        self.folder = folder
        self.clients = clients
        self.console = console
        self.source = folder / "flights.db"
        self.acknowledged = folder / "acknowledged.db"
        self.cluster = LocalCluster(folder / "cluster")
        self.acknowledgements = 0
        self.figures: list[tuple[str, str]] = []
        self._began = time.perf_counter()
        self._step = 0

    # -- telling ----------------------------------------------------------------

    def step(self, title: str) -> None:
        self._step += 1
        elapsed = time.perf_counter() - self._began
        self.console.print(f"\n[bold cyan]{self._step}. {title}[/] [dim]({elapsed:.0f} s)[/]")

    def say(self, text: str) -> None:
        self.console.print(f"   {text}")

    def command(self, *arguments: str) -> str:
        """Run a ``paceline`` command, shown as the user would type it."""
        self.console.print(f"   [bold]$ paceline {' '.join(arguments)}[/]")
        return self.cluster.command(*arguments)

    def figure(self, name: str, value: str) -> None:
        self.figures.append((name, value))

    # -- the story --------------------------------------------------------------

    def run(self) -> None:
        base = self.build()
        self.start()
        addresses = [self.cluster.address(node) for node in self.cluster.nodes()]
        writers = Writers(addresses, self.clients, self.acknowledged)
        readers = Readers(base)
        try:
            for node in ("n2", "n3"):
                readers.add(node, self.cluster.database(node))
            self.full_speed(writers, readers)
            self.steady(writers, readers)
            self.kill_a_follower(writers, readers)
            self.add_a_node(writers, readers)
            self.kill_the_leader(writers, readers)
            self.cut_off_a_leader(writers, readers)
            self.verify(writers, readers)
            self.stop(writers, readers)
        finally:
            writers.kill()
            readers.kill()
        self.prove()
        self.report()

    def build(self) -> int:
        self.step("An ordinary SQLite file from a real data set: flights out of New York City, 2013")
        base = flights.build(self.source)
        self.source_sha = proof.sha256(self.source)
        size = self.source.stat().st_size / 1e6
        self.say(
            f"{base:,} flights from January to September, {size:.0f} MB; "
            f"{flights.FLIGHTS - base:,} more will depart live"
        )
        return base

    def start(self) -> None:
        self.step("Three nodes from that file")
        began = time.perf_counter()
        self.console.print(f"   [bold]$ paceline up {self.source.name} --nodes 3 --detach[/]")
        self.cluster.up(str(self.source))
        self.say(
            f"n1 leads, n2 and n3 follow with bit-identical copies, after {time.perf_counter() - began:.1f} s"
        )

    def full_speed(self, writers: Writers, readers: Readers) -> None:
        self.step(
            f"{self.clients} clients write through the leader; plain sqlite3 reads the followers' files"
        )
        self.say(
            "every transaction inserts or updates a flight and counts it; it is acknowledged when a majority"
            " of disks has it"
        )
        time.sleep(_WARM_UP_SECONDS)
        shipped = self.cluster.log_bytes("n2")
        writers.mark("start")
        time.sleep(_FULL_SPEED_SECONDS)
        report = writers.mark("full speed")
        writers.rate(_STEADY_TPS)
        readers.check()
        per_row = (self.cluster.log_bytes("n2") - shipped) / max(1, report["transactions"])
        self.say(f"{report['tps']:,.0f} transactions/s, p50 {report['p50_ms']} ms, p99 {report['p99_ms']} ms")
        self.figure("writes at full speed", f"{report['tps']:,.0f} transactions/s, durable on a majority")
        self.figure(
            "latency", f"p50 {report['p50_ms']} ms, p99 {report['p99_ms']} ms ({self.clients} clients)"
        )
        self.figure(
            "log shipped", f"{per_row:.0f} bytes per transaction (a flight row, its indexes, the counter)"
        )

    def steady(self, writers: Writers, readers: Readers) -> None:
        self.step(
            f"A steady {_STEADY_TPS:,} transactions/s from here on; how far behind is a follower's file?"
        )
        arguments = [self.cluster.address("n1"), str(self.cluster.database("n2")), "4", "quorum"]
        probe = subprocess.run(
            [sys.executable, "-m", "bench.lag", *arguments], capture_output=True, text=True, timeout=60
        )
        if probe.returncode != 0:
            raise Failed(f"the lag probe: {probe.stderr.strip().splitlines()[-1]}")
        lag = json.loads(probe.stdout)
        readers.check()
        shown = f"p50 {lag['lag_ms_p50']} ms, p99 {lag['lag_ms_p99']} ms"
        self.say(f"from acknowledgement to visible for sqlite3 in n2's file: {shown}")
        self.figure("follower lag", f"{shown} after the acknowledgement")

    def kill_a_follower(self, writers: Writers, readers: Readers) -> None:
        self.step("kill -9 of follower n3, under load")
        writers.mark("before the kill")
        before = self.written("n3")
        dead = self.cluster.kill("n3")
        began = time.perf_counter()
        wait_for("a new process of n3", lambda: self.cluster.pid("n3") not in (None, dead), 30)
        wait_for("an answer of n3", lambda: self.cluster.status("n3") is not None, 30)
        target = self.written("n1")
        wait_for("n3's catching up", lambda: self.written("n3") >= target, 60, every=0.01)
        seconds = time.perf_counter() - began
        report = writers.mark("kill")
        readers.check()
        self.say(
            f"restarted by `paceline up`, caught up {target - before:,} transactions within {seconds:.1f} s"
        )
        self.say(
            f"{report['transactions']:,} writes went on meanwhile, none failed; "
            f"longest pause {report['longest_gap_ms']:.0f} ms"
        )
        self.figure("follower killed", f"back and caught up in {seconds:.1f} s, no write failed")

    def add_a_node(self, writers: Writers, readers: Readers) -> None:
        self.step("A fourth node, under the same load")
        began = time.perf_counter()
        self.command("node", "add", "n4")
        self.cluster.wait_until_healthy(4)
        target = self.written("n1")
        wait_for("n4's catching up", lambda: self.written("n4") >= target, 60, every=0.01)
        seconds = time.perf_counter() - began
        report = writers.mark("join")
        readers.add("n4", self.cluster.database("n4"))
        self.say(
            f"n4 has everything after {seconds:.1f} s; meanwhile {report['transactions']:,} writes, "
            f"p99 {report['p99_ms']} ms"
        )
        self.figure("fourth node joined", f"{seconds:.1f} s under load, writers' p99 {report['p99_ms']} ms")

    def kill_the_leader(self, writers: Writers, readers: Readers) -> None:
        old = self.cluster.leader()
        self.step(f"kill -9 of {old}, the leader, under the same load")
        readers.led(old)
        writers.mark("before the kill")
        dead = self.cluster.kill(old)
        new = wait_for("another leader", lambda: self.leader_other_than(old), 30, every=0.01)
        self.say(
            f"{new} was elected and leads; the writers find it by themselves and repeat what they do not know"
        )
        began = time.perf_counter()
        wait_for(f"a new process of {old}", lambda: self.cluster.pid(old) not in (None, dead), 30)
        self.in_line(old)
        seconds = time.perf_counter() - began
        report = writers.mark("leader killed")
        readers.check()
        gap = report["longest_gap_ms"]
        self.say(
            f"{gap:.0f} ms without an acknowledged write; {report['transactions']:,} writes since, none failed"
        )
        self.say(
            f"{old} was started again and follows {new}, equal and in line, {seconds:.1f} s after the election"
        )
        self.figure(
            "time without writes at failover", f"{gap:.0f} ms after kill -9 of the leader, no write failed"
        )

    def cut_off_a_leader(self, writers: Writers, readers: Readers) -> None:
        """Its followers stand still, and die before they wake: what was sent to them is in nobody's log."""
        old = self.cluster.leader()
        others = [node for node in self.cluster.nodes() if node != old]
        self.step(
            f"{old} is cut off while somebody writes in async mode: acknowledged before any disk has it"
        )
        readers.led(old)
        with Client([self.cluster.address(old)]) as client:
            client.execute("CREATE TABLE gates (flight INTEGER, gate TEXT)", durability="all")
            for node in others:
                self.cluster.signal(node, signal.SIGSTOP)
            receipts = [
                client.execute([("INSERT INTO gates VALUES (?, ?)", [n, f"B{n}"])], durability="async")
                for n in range(1, _GATES + 1)
            ]
        self.cluster.signal(old, signal.SIGSTOP)
        self.say(
            f"{len(receipts)} changes of gates acknowledged by {old} alone; nobody else has heard of them"
        )
        for node in others:
            self.cluster.kill(node)
        new = wait_for("another leader", lambda: self.leader_other_than(old), 60)
        writers.mark("cut off")
        self.say(
            f"{new} was elected; {old} comes back, takes its database back to where history forked, and follows"
        )
        began = time.perf_counter()
        self.cluster.signal(old, signal.SIGCONT)
        self.in_line(old)
        self.cluster.wait_until_healthy(len(others) + 1)
        self.say(f"in line again after {time.perf_counter() - began:.1f} s, without a copy of the database")
        self.lost_writes(receipts)
        readers.check()

    def lost_writes(self, receipts: list[ExecuteResult]) -> None:
        """Nothing disappears silently: custody has every one of them, and whoever holds a receipt can ask."""
        for line in self.command("lost", "list").splitlines():
            self.say(f"[dim]{escape(line)}[/]")
        kept = json.loads(self.cluster.command("lost", "list", "--json"))["lost"]
        acknowledged = sum(item["acknowledged"] or 0 for item in kept)
        with Client([self.cluster.address(node) for node in self.cluster.nodes()]) as client:
            outcomes = [client.outcome(receipt) for receipt in receipts]
            found = client.query("SELECT count(*) FROM gates", read="linearizable").rows[0][0]
        if set(outcomes) != {"lost"} or found != 0:
            raise Failed(f"{found} of the lost writes are there; the cluster says {set(outcomes)} of them")
        if acknowledged != len(receipts):
            raise Failed(
                f"{len(receipts)} acknowledged writes were lost, {acknowledged} of them are in custody"
            )
        self.say(f"all {acknowledged} in custody with their SQL; whoever asks with a receipt hears 'lost'")
        self.figure(
            "lost acknowledged writes in async mode", f"{acknowledged}, all in custody: paceline lost list"
        )

    def verify(self, writers: Writers, readers: Readers) -> None:
        self.step("Are all nodes equal, bit for bit, at one position? Asked while writes go on")
        for line in self.command("verify").splitlines():
            self.say(f"[dim]{line}[/]")
        writers.mark("verify")
        readers.check()

    def stop(self, writers: Writers, readers: Readers) -> None:
        self.step("Stop writing, stop the cluster")
        done = writers.stop()
        self.say(f"acknowledged: {done['departed']:,} departures, {done['landed']:,} landings")
        self.acknowledgements = done["departed"] + done["landed"]
        self.figure("acknowledged", f"{done['departed'] + done['landed']:,} transactions")
        wait_for("equal positions on all nodes", self.at_one_position, 30)
        seen = readers.stop()
        reads, checks = (sum(reader[what] for reader in seen.values()) for what in ("reads", "checks"))
        self.say(
            f"readers: {reads:,} snapshots and {checks} integrity checks on live files, nothing torn or lost"
        )
        self.figure("plain sqlite3 readers", f"{reads:,} snapshots, {checks} integrity checks, all whole")
        self.command("down")

    def prove(self) -> None:
        self.step("Proof by other means: sqlite3 and SHA-256 on the stopped nodes' files")
        databases = {node: self.cluster.database(node) for node in self.cluster.nodes()}
        counts = {node: proof.sound_and_complete(path, self.acknowledged) for node, path in databases.items()}
        digest = proof.same_bytes(databases)
        for node, count in counts.items():
            self.say(
                f"{node}  {count:,} flights  integrity ok  every acknowledged flight there  {digest[:16]}…"
            )
        if proof.sha256(self.source) != self.source_sha:
            raise Failed(f"{self.source} was changed; it must stay as it was")
        self.figure("lost acknowledged writes at quorum", f"0 of {self.acknowledgements:,}")
        self.figure("databases", f"{len(databases)} nodes, one SHA-256: {digest[:16]}…")

    def report(self) -> None:
        table = Table(
            title="Paceline, in short", title_justify="left", show_header=False, box=None, padding=(0, 2)
        )
        for name, value in self.figures:
            table.add_row(f"[bold]{name}[/]", value)
        self.console.print()
        self.console.print(table)
        self.console.print(f"\n[bold green]All proofs hold.[/] {time.perf_counter() - self._began:.0f} s")

    # -- looking ----------------------------------------------------------------

    def written(self, node: str) -> int:
        """Live transactions in a node's file, read by plain sqlite3; 0 while there is no file."""
        path = self.cluster.database(node)
        try:
            db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
            try:
                return int(db.execute("SELECT departed + landed FROM board").fetchone()[0])
            finally:
                db.close()
        except sqlite3.OperationalError:
            return 0

    def leader_other_than(self, old: str) -> str | None:
        return next(
            (
                node
                for node in self.cluster.nodes()
                if node != old
                and (status := self.cluster.status(node))
                and status["role"] == "leader"
                and status["ready"]
            ),
            None,
        )

    def in_line(self, node: str) -> None:
        """Wait until ``node`` follows and has everything that is written now."""

        def follows() -> bool:
            status = self.cluster.status(node)
            return status is not None and status["role"] == "follower" and bool(status["ready"])

        wait_for(f"{node} following", follows, 60)
        target = self.written(self.cluster.leader())
        wait_for(f"{node} in line", lambda: self.written(node) >= target, 60, every=0.01)

    def at_one_position(self) -> bool:
        statuses: list[dict[str, Any] | None] = [self.cluster.status(node) for node in self.cluster.nodes()]
        positions = {status["position"] if status else None for status in statuses}
        return len(positions) == 1 and None not in positions
