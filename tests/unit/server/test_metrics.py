"""The page that Prometheus reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from paceline.server.metrics import METRICS, metrics_text

STATUS: dict[str, Any] = {
    "cluster": 'a"b\\c',
    "node": "n1",
    "role": "leader",
    "leader": "n1",
    "ready": True,
    "term": 3,
    "commit": 42,
    "applied": 42,
    "uptime_s": 1234567.5,
    "members": [
        {"name": "n1", "lag_entries": 0, "lag_ms": 0, "reachable": True},
        {"name": "n2", "lag_entries": 5, "lag_ms": 1200, "reachable": False},
        {"name": "n3"},
    ],
    "voters": {"count": 3, "reachable": 2},
    "log": {"durable": 42, "last": 43, "bytes": 10},
    "database": {"bytes": 4096, "wal_bytes": 0},
    "counters": {"elections_started": 1, "elections_won": 1, "leader_changes": 2, "requests": 9, "groups": 4},
    "lost": {"ranges": 1, "entries": 2, "requests": 3, "bytes": 512},
}
_SAMPLE = re.compile(r'^paceline_[a-z_]+\{(?:[a-z]+="(?:[^"\\\n]|\\.)*",?)+\} -?[0-9.e+]+$')


def lines(**changes: Any) -> list[str]:
    text = metrics_text(STATUS | changes)
    assert text.endswith("\n")
    return text.splitlines()


def test_every_line_is_prometheus_text_and_types_come_first() -> None:
    seen = set()
    for line in lines():
        if line.startswith("# TYPE"):
            seen.add(line.split()[2])
        elif not line.startswith("#"):
            assert _SAMPLE.match(line), line
            assert line.partition("{")[0] in seen


def test_values_come_from_the_status() -> None:
    text = metrics_text(STATUS)
    labels = r'cluster="a\"b\\c",node="n1"'
    for sample in (
        f'paceline_role{{{labels},role="leader"}} 1',
        f'paceline_role{{{labels},role="follower"}} 0',
        f"paceline_term{{{labels}}} 3",
        f"paceline_ready{{{labels}}} 1",
        f"paceline_uptime_seconds{{{labels}}} 1234567.5",
        f'paceline_follower_lag_seconds{{{labels},follower="n2"}} 1.2',
        f'paceline_follower_reachable{{{labels},follower="n2"}} 0',
        f"paceline_lost_requests{{{labels}}} 3",
        f"paceline_leader_changes_total{{{labels}}} 2",
    ):
        assert sample in text, sample
    assert 'follower="n1"' not in text and 'follower="n3"' not in text


def test_degraded_levels_are_counted_and_named() -> None:
    text = metrics_text(STATUS | {"unreached": "degrade", "degraded": ["all", "any 2"]})
    assert re.search(r"paceline_degraded_levels\{.*\} 2\n", text)
    assert 'durability="all"} 1' in text and 'durability="any 2"} 1' in text
    assert 'policy="degrade"} 1' in text and 'policy="wait"} 0' in text
    whole = metrics_text(STATUS | {"unreached": "wait", "degraded": []})
    assert re.search(r"paceline_degraded_levels\{.*\} 0\n", whole) and "durability=" not in whole
    assert "paceline_degraded" not in metrics_text(STATUS | {"role": "follower"})


def test_what_only_the_leader_knows_is_left_out_elsewhere() -> None:
    text = "\n".join(lines(role="follower", node="n2", leader=None, voters={"count": 3, "reachable": None}))
    assert "follower_lag" not in text and "voters_reachable" not in text
    assert re.search(r"paceline_has_leader\{.*\} 0", text)


def test_names_are_unique_counters_end_in_total_and_all_are_documented() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    assert all((metric.kind == "counter") == metric.name.endswith("_total") for metric in METRICS)
    page = (Path(__file__).parents[3] / "docs" / "reference" / "metrics.md").read_text()
    assert not [name for name in names if f"`paceline_{name}`" not in page]
