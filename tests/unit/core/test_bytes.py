"""Entries and messages as bytes: what goes in comes out, and a wrong bit is found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.core.entry import (
    EntryFlags,
    EntryKind,
    decode_entries,
    decode_entry,
    encode_entry,
    encode_local,
)
from paceline.core.messages import (
    Append,
    AppendResponse,
    Heartbeat,
    Message,
    SnapshotNeeded,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from paceline.core.wire import decode_message, encode_message
from paceline.errors import BadEntry, ProtocolError
from paceline.ids import Index, Slot, Term

U63 = st.integers(0, 2**63 - 1)
INDEX, TERM = U63.map(Index), U63.map(Term)
SLOT = Slot(Term(3), Index(7), bytes(range(16)))
ENTRY = encode_entry(SLOT, EntryKind.TXN, b"what changed", time_us=123)

MESSAGES = st.one_of(
    st.builds(VoteRequest, TERM, TERM, INDEX, st.booleans(), st.booleans()),
    st.builds(VoteResponse, TERM, st.booleans(), st.booleans(), st.text(max_size=20), st.text(max_size=50)),
    st.builds(
        AppendResponse, TERM, st.booleans(), INDEX, INDEX, INDEX, TERM, INDEX, U63, st.text(max_size=9)
    ),
    st.builds(Heartbeat, TERM, INDEX, U63),
    st.builds(SnapshotNeeded, TERM, INDEX),
    st.builds(TimeoutNow, TERM),
)


def through_the_wire(message: Message) -> Message:
    frame = b"".join(encode_message(message))
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4
    return decode_message(frame[4:])


@given(MESSAGES)
def test_message_comes_out_as_it_went_in(message: Message) -> None:
    assert through_the_wire(message) == message


@given(st.lists(st.binary(max_size=200), max_size=5), TERM, INDEX)
def test_append_carries_its_entries(bodies: list[bytes], term: Term, commit: Index) -> None:
    slot, entries = SLOT, []
    for body in bodies:
        entries.append(encode_entry(slot, EntryKind.TXN, body, time_us=1))
        slot = entries[-1].next_slot
    append = Append(term, SLOT.term, Index(SLOT.index - 1), SLOT.prev_chain, commit, tuple(entries))
    assert through_the_wire(append) == append


@given(st.binary(max_size=300))
def test_garbage_is_a_protocol_error(data: bytes) -> None:
    try:
        decode_message(data)
    except ProtocolError:
        pass


@given(st.data())
def test_flipped_bit_in_an_append_never_becomes_another_entry(data: st.DataObject) -> None:
    append = Append(Term(3), Term(3), Index(6), bytes(16), Index(5), (ENTRY,))
    payload = bytearray(b"".join(encode_message(append))[4:])
    records_at = len(payload) - len(ENTRY.record)
    bit = data.draw(st.integers(8 * records_at, 8 * len(payload) - 1))
    payload[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ProtocolError):
        decode_message(bytes(payload))


def test_every_flipped_bit_of_a_record_is_found() -> None:
    for bit in range(8 * len(ENTRY.record)):
        record = bytearray(ENTRY.record)
        record[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadEntry):
            decode_entry(bytes(record))


@pytest.mark.parametrize("size", [0, 3, 55, len(ENTRY.record) - 1])
def test_cut_record_is_found(size: int) -> None:
    with pytest.raises(BadEntry):
        decode_entry(ENTRY.record[:size])


def test_record_comes_out_as_it_went_in() -> None:
    entry = decode_entry(ENTRY.record)
    assert entry == ENTRY
    assert bytes(entry.body) == b"what changed"
    assert decode_entries(ENTRY.record * 2) == [ENTRY, ENTRY]


def test_chain_depends_on_everything_before_and_within() -> None:
    other = Slot(SLOT.term, SLOT.index, b"z" * 16)
    variants = {
        ENTRY.chain,
        encode_entry(other, EntryKind.TXN, b"what changed", time_us=123).chain,
        encode_entry(SLOT, EntryKind.TXN, b"what changed!", time_us=123).chain,
        encode_entry(SLOT, EntryKind.TXN, b"what changed", time_us=124).chain,
        encode_entry(SLOT, EntryKind.TXN_PART, b"what changed", time_us=123).chain,
        encode_entry(SLOT, EntryKind.TXN, b"what changed", time_us=123, flags=EntryFlags.ZSTD).chain,
    }
    assert len(variants) == 6
    following = encode_entry(ENTRY.next_slot, EntryKind.TXN, b"", time_us=0)
    assert following.follows(ENTRY.position)
    assert not ENTRY.follows(following.position)


def test_local_record_is_no_part_of_the_history() -> None:
    record = decode_entry(encode_local(EntryKind.REQUESTS, Term(3), Index(7), b"sql", time_us=0))
    assert record.chain == bytes(16)
    assert record.kind is EntryKind.REQUESTS
