"""Fixtures: clusters of real processes that never outlive their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster

MakeCluster = Callable[..., Cluster]


@pytest.fixture
def make_cluster(tmp_path: Path) -> Iterator[MakeCluster]:
    made: list[Cluster] = []

    def make(count: int = 3, *, root: Path | None = None, **options: Any) -> Cluster:
        cluster = Cluster(root or tmp_path / f"cluster{len(made)}", count, **options)
        made.append(cluster)
        return cluster

    try:
        yield make
    finally:
        for cluster in made:
            cluster.clean_up()
            cluster.print_output()  # pytest shows it when the test fails
    for cluster in made:
        cluster.assert_clean_output()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A healthy cluster of three for all tests of a module; they leave it healthy."""
    cluster = Cluster(tmp_path_factory.mktemp("shared") / "cluster")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.clean_up()
    cluster.assert_clean_output()
