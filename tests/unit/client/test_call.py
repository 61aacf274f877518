"""The table of ``call.py``, row by row."""

from __future__ import annotations

import pytest

from paceline.client import protocol as p
from paceline.client.call import Call, RequestIds, execute_message, result_of, timeout_of
from paceline.client.results import ExecuteResult, Receipt
from paceline.errors import (
    NoQuorum,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    PacelineError,
    ProtocolError,
    SqlError,
    TimedOut,
    Unavailable,
    UsageError,
    WritesStopped,
    to_wire,
)
from paceline.ids import split_counted

BROKEN = Unavailable("broken")
READ = p.Query(0, "SELECT 1")
WITH_ID = p.Execute(0, [], None, b"id")
WITHOUT_ID = p.Execute(0, [])
ADMIN = p.Admin(0, "x")


def call(message: p.Message) -> Call:
    return Call(message, 0.0)


@pytest.mark.parametrize("message", [READ, WITH_ID])
def test_a_repeatable_call_is_sent_again_after_a_broken_connection(message: p.Message) -> None:
    assert call(message).lost(BROKEN) is None


@pytest.mark.parametrize("message", [WITHOUT_ID, ADMIN])
def test_what_may_not_be_repeated_ends_unknown_after_a_broken_connection(message: p.Message) -> None:
    assert isinstance(call(message).lost(BROKEN), OutcomeUnknown)


@pytest.mark.parametrize("error", [NotLeader("x"), Unavailable("x")])
@pytest.mark.parametrize("message", [READ, WITH_ID, WITHOUT_ID, ADMIN])
def test_not_leader_and_unavailable_are_tried_again(message: p.Message, error: PacelineError) -> None:
    if message is ADMIN and not isinstance(error, NotLeader):
        assert call(message).refused(error) is error, "an operator's action may have happened in part"
    else:
        assert call(message).refused(error) is None


@pytest.mark.parametrize("error", [Overloaded("x"), TimedOut("x"), WritesStopped("x"), NoQuorum("x")])
@pytest.mark.parametrize("message", [READ, WITH_ID, WITHOUT_ID])
def test_other_refusals_are_raised(message: p.Message, error: PacelineError) -> None:
    assert call(message).refused(error) is error


def test_a_write_in_doubt_is_not_declared_refused() -> None:
    """The first attempt may have been applied: 'overloaded' on the second proves nothing."""
    write = call(WITH_ID)
    write.lost(BROKEN)
    assert write.refused(Overloaded("x")) is None
    assert isinstance(write.expired(sent=False), OutcomeUnknown)


def test_a_verdict_on_the_sql_ends_the_doubt() -> None:
    write = call(WITH_ID)
    write.lost(BROKEN)
    error = SqlError("x", code=1, extended=1, name="SQLITE_ERROR")
    assert write.refused(error) is error


def test_unknown_from_the_server_is_asked_again_only_under_an_id() -> None:
    unknown = OutcomeUnknown("x")
    assert call(WITH_ID).refused(unknown) is None
    assert call(WITHOUT_ID).refused(unknown) is unknown


def test_the_end_of_the_time_limit_is_told_honestly() -> None:
    assert isinstance(call(WITH_ID).expired(sent=True), OutcomeUnknown)
    assert isinstance(call(WITH_ID).expired(sent=False), TimedOut)
    assert isinstance(call(READ).expired(sent=True), TimedOut)
    waiting = call(WITH_ID)
    waiting.last_error = NotLeader("no leader found")
    assert waiting.expired(sent=False) is waiting.last_error


def test_request_ids_never_repeat_and_fit() -> None:
    one, other = RequestIds(), RequestIds()
    ids = [ids.next() for ids in (one, other) for _ in range(1000)]
    assert len(set(ids)) == 2000
    assert {len(i) for i in ids} == {17}
    assert [split_counted(i) for i in ids[:2]] == [(ids[0][1:9], 1), (ids[0][1:9], 2)]


def test_statements_may_be_written_in_short() -> None:
    message = execute_message(["A", ("B",), ("C", [1]), ("D", {"x": 1})], "quorum", b"i", 5)
    assert message.statements == [("A", ()), ("B", ()), ("C", [1]), ("D", {"x": 1})]
    assert execute_message("A", None, None, 5).statements == [("A", ())]
    with pytest.raises(UsageError):
        execute_message([("A", [], 3)], None, None, 5)  # type: ignore[list-item]


@pytest.mark.parametrize("wrong", [0, -1, 10**12])
def test_a_time_limit_out_of_range_is_refused(wrong: int) -> None:
    with pytest.raises(UsageError):
        timeout_of(wrong)


def test_replies_become_results() -> None:
    receipt = Receipt("p", 1, 1, "local", [], [], "n")
    assert result_of(p.Written(1, [], None, None, receipt)) == ExecuteResult([], receipt)
    failed = result_of(p.Failure(1, to_wire(NotLeader("x", leader="n2")), None, 1))
    assert isinstance(failed, NotLeader) and failed.leader == "n2"
    assert isinstance(result_of(p.Welcome(1, "n", "c", None, 0)), ProtocolError)
