"""Real ``paceline serve`` processes for tests: started from TOML files, killed, paused, and asked how they are.

A test waits for a state with ``eventually``, never for a time.  Only processes started here are ever signalled.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from proxy import Proxy

from paceline.client.blocking import Client
from paceline.config.shape import Member, NodeConfig, Settings, to_toml
from paceline.errors import PacelineError, Unavailable
from paceline.ids import NodeId

__all__ = ["Cluster", "Node", "eventually", "free_ports"]

T = TypeVar("T")
START_SECONDS = 20.0
_POLL_SECONDS = 0.02
_PORTS = range(15_000, 31_000)  # below the ports that the kernel gives to callers
_GIVEN: set[int] = set()


def eventually(what: str, probe: Callable[[], T], seconds: float = 20.0) -> T:
    """The first true value of ``probe``; errors of the cluster count as 'not yet'."""
    deadline = time.monotonic() + seconds
    last: object = None
    while True:
        try:
            if last := probe():
                return last
        except (PacelineError, OSError) as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what} (last: {last!r})")
        time.sleep(_POLL_SECONDS)


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses now, from a range of this test worker's own; each is given once."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 8
    own = _PORTS[worker * 2000 : worker * 2000 + 2000]
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().choice(own)
        if port in _GIVEN:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _GIVEN.add(port)
        found.append(port)
    return found


class Node:
    """One node's directory and, while it runs, its process."""

    def __init__(self, root: Path, name: str, *, host: str = "127.0.0.1", prefix: Sequence[str] = ()) -> None:
        self.name = name
        self._prefix = prefix
        self.data = root / name
        self.config_path = root / f"{name}.toml"
        self.output_path = root / f"{name}.log"
        self.listen, self.http, self.peer = (f"{host}:{port}" for port in free_ports(3))
        self.advertise, self.advertise_peer = self.listen, self.peer
        """What the other nodes are told: the proxy's addresses where there is one."""
        self.process: subprocess.Popen[bytes] | None = None
        """What the test expects to run now."""
        self._started: list[subprocess.Popen[bytes]] = []

    @property
    def database(self) -> Path:
        return self.data / "db" / "main.db"

    @property
    def output(self) -> str:
        return self.output_path.read_text() if self.output_path.exists() else ""

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self, *, env: dict[str, str] | None = None) -> None:
        """Start the process; does not wait for anything."""
        assert not self.running
        with open(self.output_path, "ab") as output:
            self.process = subprocess.Popen(
                [*self._prefix, sys.executable, "-m", "paceline", "serve", "--config", str(self.config_path)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(env or {})},
            )
        self._started.append(self.process)

    def clean_up(self) -> None:
        """End whatever still runs of what was ever started here."""
        for process in self._started:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def signal_stop(self) -> None:
        """It stands still; ``paused`` does it for a block."""
        self.signal(signal.SIGSTOP)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> None:
        self.signal(signal.SIGTERM)
        assert self.wait() == 0, self.output

    def wait(self, seconds: float = 20.0) -> int:
        """Exit code of the process, which is no longer expected to run."""
        assert self.process is not None
        code = self.process.wait(seconds)
        self.process = None
        return code

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    def fails_to_start(self, *, env: dict[str, str] | None = None) -> str:
        """Start it; returns what the user sees: one error, and no traceback."""
        before = len(self.output)
        self.start(env=env)
        code = self.wait()
        said = self.output[before:]
        assert code in (1, 2), f"exit code {code}: {said}"
        assert "Traceback" not in said, said
        assert said.count("\npaceline: ") + said.startswith("paceline: ") == 1, f"not one error: {said}"
        return said

    def client(self, timeout_ms: int = 15_000, *, request_ids: bool = True) -> Client:
        return Client([self.listen], timeout_ms=timeout_ms, request_ids=request_ids)

    def status(self, timeout_ms: int = 2_000) -> dict[str, Any]:
        with self.client(timeout_ms=timeout_ms) as client:
            status = client.status()
        assert status["node"] == self.name
        return status

    def query(self, sql: str, args: Sequence[Any] = (), **options: Any) -> list[list[Any]]:
        with self.client() as client:
            return client.query(sql, args, **options).rows

    def memory_peak_bytes(self) -> int:
        text = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", text)
        assert found
        return int(found[1]) * 1024


class Cluster:
    """Nodes n1, n2, ...; with authority ``designated`` n1 leads, with ``auto`` whom they elect.

    ``proxied``: all that nodes say to each other passes ``proxy``.  ``places``: where each node lives (its host, and
    the command that runs a program there), instead of loopback.
    """

    def __init__(
        self,
        root: Path,
        count: int = 3,
        *,
        name: str = "main",
        durability: str = "quorum",
        authority: str = "designated",
        proxied: bool = False,
        places: Mapping[str, tuple[str, Sequence[str]]] | None = None,
        **settings: Any,
    ) -> None:
        self.root = root
        self.name = name
        self.authority = authority
        root.mkdir(exist_ok=True)
        self.settings = Settings(durability=durability, **settings)
        self._proxy = Proxy() if proxied else None
        self._places = places
        self._made: list[Node] = []
        self.nodes = {f"n{number}": self._make(f"n{number}") for number in range(1, count + 1)}
        members = tuple(
            Member(name=NodeId(n.name), listen=n.advertise, http=n.http, peer=n.advertise_peer)
            for n in self.nodes.values()
        )
        for node in self.nodes.values():
            self.configure(node, leader=NodeId("n1"), members=members, authority=authority)

    def _make(self, name: str) -> Node:
        host, prefix = self._places[name] if self._places else ("127.0.0.1", ())
        node = Node(self.root, name, host=host, prefix=prefix)
        self._made.append(node)
        if self._proxy is not None:
            client, peer = free_ports(2)
            node.advertise, node.advertise_peer = f"127.0.0.1:{client}", f"127.0.0.1:{peer}"
            self._proxy.forward(client, name, node.listen)
            self._proxy.forward(peer, name, node.peer)
        return node

    @property
    def proxy(self) -> Proxy:
        assert self._proxy is not None, "the cluster was made without proxied=True"
        return self._proxy

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    @property
    def leader(self) -> Node:
        """The node that leads now; with authority ``auto`` it is asked for, and waited for."""
        if self.authority == "designated":
            return self.nodes["n1"]
        return self.wait_for_leader()

    def wait_for_leader(self, *, among: Sequence[Node] = (), after: int = 0, seconds: float = 20.0) -> Node:
        """The leader of the highest term, in a term above ``after``, ready to write."""
        return eventually("somebody leads", lambda: self._leading(among or self.running, after), seconds)

    def _leading(self, nodes: Sequence[Node], after: int) -> Node | None:
        found: list[tuple[int, Node]] = []
        for node in nodes:
            try:
                status = node.status(timeout_ms=500)
            except (PacelineError, OSError):
                continue
            if status["role"] == "leader" and status["ready"] and status["term"] > after:
                found.append((status["term"], node))
        return max(found, key=lambda pair: pair[0])[1] if found else None

    @property
    def followers(self) -> list[Node]:
        return [node for node in self.nodes.values() if node is not self.leader]

    @property
    def running(self) -> list[Node]:
        """Nodes that were started and not ended by the test."""
        return [node for node in self.nodes.values() if node.process is not None]

    def reigns(self) -> dict[int, str]:
        """Term -> who led it, as the nodes themselves said since their files began."""
        found: dict[int, str] = {}
        for node in self._made:
            for term in re.findall(r" leading \{'term': (\d+)\}", node.output):
                assert found.setdefault(int(term), node.name) == node.name, f"two leaders in term {term}"
        return found

    def configure(self, node: Node, **fields: Any) -> None:
        """Write the node's TOML file."""
        values: dict[str, Any] = {"leader": None, "settings": self.settings, **fields}
        values["insecure"] = self._places is not None
        config = NodeConfig(
            name=NodeId(node.name),
            data=str(node.data),
            listen=node.listen,
            http=node.http,
            peer=node.peer,
            advertise=node.advertise,
            advertise_http=node.http,
            advertise_peer=node.advertise_peer,
            cluster=self.name,
            **values,
        )
        node.config_path.write_text(to_toml(config))

    def new_node(self, name: str, *, join: Sequence[Node] = (), **settings: Any) -> Node:
        """A node that will join; not started, and no part of ``nodes`` yet."""
        node = self._make(name)
        via = tuple(member.advertise_peer for member in (join or self.nodes.values()))
        self.configure(node, join=via, **settings)
        return node

    def add(self, name: str, **options: Any) -> Node:
        """Let a new node join, and wait until it votes."""
        node = self.nodes[name] = self.new_node(name, **options)
        node.start()
        self.wait_for_voter(node)
        return node

    def start(self, order: Sequence[str] | None = None) -> None:
        """Start all nodes, in this order, and wait until everyone votes and has caught up."""
        for name in order or self.nodes:
            self.nodes[name].start()
        self.wait_ready()

    def stop(self) -> None:
        for node in self.running:
            node.signal(signal.SIGTERM)
        for node in self.running:
            assert node.wait() == 0, node.output

    def kill(self) -> None:
        """All at once."""
        for node in self.running:
            node.signal(signal.SIGKILL)
        for node in self.running:
            node.wait()

    def clean_up(self) -> None:
        for node in self._made:
            node.clean_up()
        if self._proxy is not None:
            self._proxy.close()

    def client(self, *names: str, timeout_ms: int = 15_000) -> Client:
        addresses = [self.nodes[name].listen for name in names or self.nodes]
        return Client(addresses, timeout_ms=timeout_ms)

    def wait_ready(self, seconds: float = START_SECONDS) -> None:
        """The leader leads, nobody is missing, every running node follows and has applied all."""
        expected = self.running

        def ready() -> bool:
            for node in expected:
                assert node.running, f"{node.name} ended:\n{node.output}"
            status = self.leader.status()
            voters = {m["name"] for m in status["members"] if m["voting"] == "voter"}
            return status["ready"] and not status["forming"] and voters >= {n.name for n in expected}

        eventually("the cluster is whole", ready, seconds)
        self.wait_level(seconds)

    def wait_level(self, seconds: float = START_SECONDS) -> None:
        """Every running node has applied what the leader has committed now."""
        commit = eventually("everything is committed", self._all_committed, seconds)
        for node in self.running:
            eventually(
                f"{node.name} has applied {commit}",
                lambda: self._is_level(node, commit),  # noqa: B023
                seconds,
            )

    def _all_committed(self) -> int:
        status = self.leader.status()
        return status["commit"] if status["commit"] == status["log"]["last"] else 0

    @staticmethod
    def _is_level(node: Node, commit: int) -> bool:
        """What it has applied may be of another history until its own commit index, too, has come that far."""
        status = node.status()
        far = min(status["applied"], status["commit"]) >= commit
        return far and status["health"] == "ok" and status["ready"]

    def wait_for_voter(self, node: Node, seconds: float = START_SECONDS) -> None:
        def votes() -> bool:
            assert node.running, node.output
            return any(
                m["name"] == node.name and m["voting"] == "voter" for m in self.leader.status()["members"]
            )

        eventually(f"{node.name} votes", votes, seconds)

    def verify(self, seconds: float = 30.0) -> dict[str, Any]:
        """What the nodes' databases digest to at one position."""
        with self.leader.client() as client:
            key = client.admin("verify")["id"]

            def done() -> dict[str, Any]:
                report: dict[str, Any] = client.admin("verify_result", id=key)
                if not report["done"]:
                    raise Unavailable(f"not all have digested: {report['nodes']}")
                return report

            return eventually("all nodes have digested", done, seconds)

    def assert_equal(self) -> None:
        """Every member runs, and all databases are bit-identical at one position."""
        self.wait_level()
        report = self.verify()
        digests = {node["name"]: node.get("digest") or node.get("error") for node in report["nodes"]}
        assert set(digests) >= set(self.nodes), report
        assert len(set(digests.values())) == 1, report

    def print_output(self) -> None:
        for node in self._made:
            print(f"-- {node.output_path}", *node.output.splitlines()[-25:], sep="\n")

    def assert_clean_output(self) -> None:
        for node in self._made:
            assert "Traceback" not in node.output, node.output
            assert "Exception" not in node.output, node.output
