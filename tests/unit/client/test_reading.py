"""Read levels as people write them."""

from __future__ import annotations

import pytest

from paceline.client.reading import READ_LEVELS, any_member_answers, bounded, parse_read
from paceline.errors import UsageError
from paceline.limits import TIMEOUT_MS_MAX
from paceline.node.reads import _BOUNDED


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("local", "local"),
        (" Linearizable ", "linearizable"),
        ("bounded 500", "bounded 500"),
        ("bounded(500)", "bounded 500"),
        ("bounded (500 ms)", "bounded 500"),
        ("BOUNDED  0500ms", "bounded 500"),
        (f"bounded {TIMEOUT_MS_MAX}", f"bounded {TIMEOUT_MS_MAX}"),
    ],
)
def test_levels_have_one_spelling_on_the_wire(text: str, level: str) -> None:
    assert parse_read(text) == level == parse_read(level)


@pytest.mark.parametrize("text", ["bounded 1", f"bounded {TIMEOUT_MS_MAX}"])
def test_the_node_understands_every_bound_that_passes(text: str) -> None:
    assert _BOUNDED.match(parse_read(text))


@pytest.mark.parametrize("text", ["", "stale", "local session", "session 5"])
def test_unknown_levels_are_refused_with_the_list(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_read(text)
    assert all(level in str(caught.value.hint) for level in READ_LEVELS)


@pytest.mark.parametrize("text", ["bounded", "bounded x", "bounded -1", "bounded 1.5", "bounded 5 s"])
def test_a_bound_is_whole_milliseconds(text: str) -> None:
    with pytest.raises(UsageError, match="how old"):
        parse_read(text)


@pytest.mark.parametrize("lag_ms", [0, -1, TIMEOUT_MS_MAX + 1])
def test_bounds_have_a_range(lag_ms: int) -> None:
    with pytest.raises(UsageError, match="not between"):
        bounded(lag_ms)


def test_bounded_reads_go_to_any_member() -> None:
    assert any_member_answers("bounded 500") and any_member_answers("local")
    assert not any_member_answers("leader") and not any_member_answers("linearizable")
