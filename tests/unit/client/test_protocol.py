"""Frames and messages: what goes in comes out, and nothing hostile gets further than ProtocolError."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.client import protocol as p
from paceline.client.results import Receipt, StatementResult
from paceline.errors import ProtocolError, TooLarge, UsageError
from paceline.limits import CLIENT_FRAME_BYTES_BEFORE_HELLO, MIB, TIMEOUT_MS_MAX

RECEIPT = Receipt("pos", 1, 2, "quorum", ["n1", "n2"], ["n1"], "n1")

REQUESTS: list[p.Request] = [
    p.Execute(1, [("INSERT INTO t VALUES (?)", [1]), ("x", {"a": b"b"})], "quorum", b"id", 5),
    p.Execute(2, []),
    p.Query(3, "SELECT 1", [None, 1, 1.5, "t", b"b"], "session", "pos", 5),
    p.Status(4),
    p.Leader(5),
    p.Subscribe(6),
    p.Admin(7, "node_add", {"name": "n4", "deep": [1, {"x": None}]}),
    p.Ping(0xFFFF_FFFF),
]
REPLIES: list[p.Reply] = [
    p.Welcome(1, "n1", "c", "n2", 3, "h:1"),
    p.Written(1, [StatementResult(1, 2, ["a"], [[b"x", None]])], None, None, RECEIPT),
    p.Written(2, None, {"kind": "SqlError"}, 7, None),
    p.Rows(3, ["a"], [None], [[1]], "pos", None, 1, "n1"),
    p.Info(4, {"a": 1}),
    p.Pong(5),
    p.Event(6, {"event": "role"}),
    p.Failure(None, {"kind": "ProtocolError"}, None, 0),
]


def body(message: p.Message) -> bytes:
    return p.encode_frame(message)[p.HEADER_BYTES :]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda m: type(m).__name__)
def test_every_request_comes_out_as_it_went_in(request_: p.Request) -> None:
    out = p.decode_request(body(request_))
    assert type(out) is type(request_)
    # Statement pairs are tuples on both sides, arguments keep list or dict.
    assert out == request_


@pytest.mark.parametrize("reply", REPLIES, ids=lambda m: type(m).__name__)
def test_every_reply_comes_out_as_it_went_in(reply: p.Reply) -> None:
    assert p.decode_reply(body(reply)) == reply


def test_the_bytes_are_those_of_the_reference_page() -> None:
    assert p.encode_frame(p.Hello("paceline", [1], "c")) == bytes.fromhex("0000000f 94 00 a8") + (
        b"paceline" + bytes.fromhex("91 01 a1 63")
    )
    assert p.encode_frame(p.Ping(7)) == bytes.fromhex("00000003 92 07 07")
    assert body(p.Execute(1, [("X", [5])])) == bytes.fromhex("96 01 01 91 92 a1 58 91 05 c0 c0 c0")


def test_fields_that_a_later_version_adds_are_ignored() -> None:
    assert p.decode_request(msgspec.msgpack.encode([7, 9, "new", {"x": 1}])) == p.Ping(9)


def test_missing_trailing_fields_take_their_defaults() -> None:
    assert p.decode_request(msgspec.msgpack.encode([2, 1, "SELECT 1"])) == p.Query(1, "SELECT 1")


scalars: Any = (
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary()
)


@given(st.lists(scalars), st.dictionaries(st.text(), scalars))
def test_all_values_survive(values: list[Any], named: dict[str, Any]) -> None:
    message = p.Execute(1, [("X", values), ("Y", named)])
    out = p.decode_request(body(message))
    assert isinstance(out, p.Execute)
    assert out.statements == [("X", values), ("Y", named)]
    assert [type(v) for v in out.statements[0][1]] == [type(v) for v in values]


@pytest.mark.parametrize(
    "bad",
    [
        [1, 1],
        [1, -1, []],
        [1, 2**32, []],
        [1, 1, [["X"]]],
        [1, 1, [["X", 5]]],
        [1, 1, [], None, b""],
        [1, 1, [], None, b"x" * 65],
        [1, 1, [], None, None, 0],
        [1, 1, [], None, None, TIMEOUT_MS_MAX + 1],
        [2, 1, "S", [], 5],
        [99, 1],
        {"a": 1},
        5,
    ],
)
def test_what_is_not_a_request_is_refused(bad: Any) -> None:
    with pytest.raises(ProtocolError):
        p.decode_request(msgspec.msgpack.encode(bad))


@given(st.binary(max_size=200))
def test_random_bytes_raise_only_protocol_errors(data: bytes) -> None:
    for decode in (p.decode_request, p.decode_reply, p.decode_hello):
        try:
            decode(data)
        except ProtocolError:
            pass


@given(st.sampled_from([*REQUESTS, *REPLIES]), st.data())
def test_damaged_messages_raise_only_protocol_errors(message: p.Message, data: st.DataObject) -> None:
    damaged = bytearray(body(message))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    for decode in (p.decode_request, p.decode_reply):
        try:
            decode(bytes(damaged))
        except ProtocolError:
            pass


def test_deep_nesting_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError):
        p.decode_request(b"\x94\x06\x01\xa1x\x81\xa1y" + b"\x91" * 100_000)


@given(st.lists(st.binary(max_size=300), max_size=8), st.data())
def test_frames_come_whole_however_the_bytes_are_cut(bodies: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(len(one).to_bytes(4, "big") + one for one in bodies)
    reader, got, at = p.FrameReader(), [], 0
    while at < len(stream):
        end = data.draw(st.integers(at + 1, len(stream)))
        reader.feed(stream[at:end])
        at = end
        while data.draw(st.booleans()) and (one := reader.next()) is not None:
            got.append(bytes(one))
    while (one := reader.next()) is not None:
        got.append(bytes(one))
    assert got == bodies
    assert reader.buffered == 0


@given(st.binary())
def test_the_reader_never_raises_anything_else_nor_hangs(data: bytes) -> None:
    reader = p.FrameReader()
    reader.feed(data)
    try:
        while (one := reader.next()) is not None:
            assert len(one) <= CLIENT_FRAME_BYTES_BEFORE_HELLO
    except ProtocolError:
        pass


def test_a_large_frame_in_small_pieces_is_whole() -> None:
    content = bytes(range(256)) * (MIB // 128)
    reader = p.FrameReader(4 * MIB)
    stream = len(content).to_bytes(4, "big") + content + b"\0\0\0\1x"
    for at in range(0, len(stream), 100_000):
        reader.feed(stream[at : at + 100_000])
    assert reader.next() == content
    assert reader.next() == b"x"


def test_no_memory_is_set_aside_for_a_hostile_length() -> None:
    tracemalloc.start()
    try:
        reader = p.FrameReader(512 * MIB)
        reader.feed((500 * MIB).to_bytes(4, "big") + b"x")
        assert reader.next() is None
        for hostile in (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"):
            with pytest.raises(ProtocolError):
                p.decode_request(b"\x93\x01\x01" + hostile)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "looks like HTTP"),
        (b"\x16\x03\x01\x02\x00\x01", "looks like TLS"),
        (b"\xff\xff\xff\xff", "4294967295 bytes is over the limit of 4096"),
    ],
)
def test_other_protocols_are_named(data: bytes, says: str) -> None:
    reader = p.FrameReader()
    reader.feed(data)
    with pytest.raises(ProtocolError, match=says):
        reader.next()


def test_a_frame_at_the_limit_passes_and_one_byte_more_does_not() -> None:
    reader = p.FrameReader(10)
    reader.feed(b"\0\0\0\x0a" + b"x" * 10 + b"\0\0\0\x0b")
    assert reader.next() == b"x" * 10
    with pytest.raises(ProtocolError, match="over the limit of 10"):
        reader.next()


def test_the_common_version_is_chosen() -> None:
    hello, version = p.decode_hello(body(p.Hello(p.MAGIC, [9, 1], "me")))
    assert (hello.client, version) == ("me", 1)


@pytest.mark.parametrize(
    ("hello", "says"),
    [
        (p.Hello("other", [1], ""), "not Paceline's hello"),
        (p.Hello(p.MAGIC, [2, 3], ""), "no protocol version in common"),
        (p.Ping(1), "bad hello"),
    ],
)
def test_a_wrong_hello_is_refused_with_the_reason(hello: p.Message, says: str) -> None:
    with pytest.raises(ProtocolError, match=says):
        p.decode_hello(body(hello))


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, "\ud800", object()])
def test_what_cannot_travel_is_a_usage_error(value: Any) -> None:
    with pytest.raises(UsageError):
        p.encode_frame(p.Query(1, "X", [value]))


def test_a_frame_over_the_limit_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p, "CLIENT_FRAME_BYTES_MAX", 100)
    with pytest.raises(TooLarge):
        p.encode_frame(p.Query(1, "x" * 100))
