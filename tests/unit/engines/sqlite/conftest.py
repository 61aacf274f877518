from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_support import Cluster
from exec_support import Leader


@pytest.fixture
def make_leader(tmp_path: Path) -> Iterator[Callable[..., Leader]]:
    """Writers on fresh databases, closed afterwards."""
    made: list[Leader] = []

    def make(**options: Any) -> Leader:
        made.append(Leader(str(tmp_path / f"leader{len(made)}.db"), **options))
        return made[-1]

    yield make
    for leader in made:
        leader.close()


@pytest.fixture
def leader(make_leader: Callable[..., Leader]) -> Leader:
    return make_leader()


@pytest.fixture
def make_cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Clusters whose nodes are closed afterwards."""
    made: list[Cluster] = []

    def make(nodes: int = 2, **options: Any) -> Cluster:
        made.append(Cluster(tmp_path / f"cluster{len(made)}", nodes, **options))
        return made[-1]

    yield make
    for cluster in made:
        cluster.close()


@pytest.fixture
def cluster(make_cluster: Callable[..., Cluster]) -> Cluster:
    return make_cluster()
