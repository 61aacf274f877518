"""The same faults on a real network stack: each node in a network namespace of its own, joined by a bridge.

Nothing leaves these namespaces.  The test itself moves into the one with the bridge.  A link is cut in one
direction by a neighbour entry that names a card that nobody has: frames leave and arrive nowhere.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from cluster import Cluster, Node
from conftest import MakeCluster
from load import Load, make_tables

from paceline.limits import ELECTION_TIMEOUT_MS

NODES = ("n1", "n2", "n3")
PATIENCE_SECONDS = 2 * ELECTION_TIMEOUT_MS / 1000
NOBODY = "02:00:de:ad:00:01"
_CLONE_NEWNET = 0x4000_0000


class Network:
    def __init__(self) -> None:
        self._mark = f"pl{os.getpid() % 100_000}"
        self._made: list[str] = []

    def build(self) -> None:
        """Raises ``CalledProcessError`` where it is not permitted."""
        self._space("hub")
        _ip("-n", self.name("hub"), "link", "add", "br0", "type", "bridge")
        _ip("-n", self.name("hub"), "addr", "add", "10.77.0.254/24", "dev", "br0")
        _ip("-n", self.name("hub"), "link", "set", "br0", "up")
        for node in NODES:
            self._space(node)
            wire = ("link", "add", f"to-{node}", "type", "veth", "peer", "name", "eth0")
            _ip("-n", self.name("hub"), *wire, "netns", self.name(node))
            _ip("-n", self.name("hub"), "link", "set", f"to-{node}", "master", "br0", "up")
            _ip("-n", self.name(node), "addr", "add", f"{self.host(node)}/24", "dev", "eth0")
            _ip("-n", self.name(node), "link", "set", "eth0", "up")

    def _space(self, short: str) -> None:
        _ip("netns", "add", self.name(short))
        self._made.append(self.name(short))
        _ip("-n", self.name(short), "link", "set", "lo", "up")

    def remove(self) -> None:
        for name in self._made:
            subprocess.run(["ip", "netns", "del", name], check=False)

    def name(self, short: str) -> str:
        return f"{self._mark}-{short}"

    def host(self, node: str) -> str:
        return f"10.77.0.{node[1:]}"

    @property
    def places(self) -> dict[str, tuple[str, Sequence[str]]]:
        return {node: (self.host(node), ("ip", "netns", "exec", self.name(node))) for node in NODES}

    def cut_one_way(self, source: str, target: str) -> None:
        entry = (self.host(target), "lladdr", NOBODY, "dev", "eth0", "nud", "permanent")
        _ip("-n", self.name(source), "neigh", "replace", *entry)

    def cut(self, one: str, other: str) -> None:
        self.cut_one_way(one, other)
        self.cut_one_way(other, one)

    def heal(self) -> None:
        for source in NODES:
            for target in NODES:
                if source != target:
                    entry = (self.host(target), "dev", "eth0")
                    subprocess.run(
                        ["ip", "-n", self.name(source), "neigh", "del", *entry],
                        check=False,
                        capture_output=True,
                    )

    def delay(self, node: str, milliseconds: int) -> None:
        """Everything that ``node`` sends takes this long."""
        command = ["tc", "-n", self.name(node), "qdisc", "replace", "dev", "eth0", "root", "netem"]
        done = subprocess.run([*command, "delay", f"{milliseconds}ms"], capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"this kernel cannot delay packets (netem): {done.stderr.strip()}")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextmanager
def _inside(name: str) -> Iterator[None]:
    """This thread, and whatever it starts, in a namespace."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(path: str) -> None:
        fd = os.open(path, os.O_RDONLY)
        try:
            if libc.setns(fd, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(fd)

    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        enter(f"/run/netns/{name}")
        try:
            yield
        finally:
            enter(f"/proc/self/fd/{home}")
    finally:
        os.close(home)


@pytest.fixture
def network() -> Iterator[Network]:
    if shutil.which("ip") is None or shutil.which("tc") is None:
        pytest.skip("no iproute2 here (on Debian: apt install iproute2)")
    made = Network()
    try:
        try:
            made.build()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are not permitted here: {str(error.stderr).strip()}")
        with _inside(made.name("hub")):
            yield made
    finally:
        made.remove()


def started(make_cluster: MakeCluster, network: Network) -> tuple[Cluster, Node, list[Node]]:
    cluster = make_cluster(authority="auto", places=network.places)
    cluster.start()
    make_tables(cluster)
    leader = cluster.leader
    return cluster, leader, [node for node in cluster.nodes.values() if node is not leader]


def assert_settled(cluster: Cluster, load: Load) -> None:
    before = cluster.reigns()
    until = time.monotonic() + 3 * PATIENCE_SECONDS
    while time.monotonic() < until:
        load.more(5)
    assert cluster.reigns() == before


def assert_whole(cluster: Cluster, load: Load) -> None:
    cluster.wait_ready(40)  # a connection that was cut for long is tried again with growing pauses
    load.assert_kept()
    assert not load.refused


def test_cut_leader_is_replaced(network: Network, make_cluster: MakeCluster) -> None:
    cluster, old, rest = started(make_cluster, network)
    term = old.status()["term"]
    with Load(cluster, through=(rest[0].name, rest[1].name)) as load:
        load.more()
        for node in rest:
            network.cut(old.name, node.name)
        cluster.wait_for_leader(among=rest, after=term)
        load.more()
        assert old.status()["role"] != "leader"  # the test's own way to it is not cut
        assert_settled(cluster, load)
        network.heal()
        load.more()
    assert_whole(cluster, load)


@pytest.mark.slow
@pytest.mark.parametrize("deaf", [True, False], ids=["hears nobody", "is heard by nobody"])
def test_one_way_cut_costs_one_change_at_most(
    network: Network, make_cluster: MakeCluster, deaf: bool
) -> None:
    cluster, old, rest = started(make_cluster, network)
    reigns = len(cluster.reigns())
    with Load(cluster, through=(rest[0].name, rest[1].name)) as load:
        load.more()
        for node in rest:
            network.cut_one_way(*((node.name, old.name) if deaf else (old.name, node.name)))
        cluster.wait_for_leader(among=rest)
        load.more()
        assert_settled(cluster, load)
        assert len(cluster.reigns()) <= reigns + 1
        network.heal()
        load.more()
    assert_whole(cluster, load)


@pytest.mark.slow
def test_slow_network_changes_no_leader(network: Network, make_cluster: MakeCluster) -> None:
    cluster, leader, _ = started(make_cluster, network)
    with Load(cluster) as load:
        load.more()
        for node in NODES:
            network.delay(node, 100)
        assert_settled(cluster, load)
    assert cluster.leader is leader
    assert not load.unknown
    assert_whole(cluster, load)
