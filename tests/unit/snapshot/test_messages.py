import pytest
from snapshot_fakes import END, STANDS

from paceline.errors import Overloaded, ProtocolError
from paceline.limits import PEER_FRAME_BYTES_MAX
from paceline.snapshot.messages import (
    FrameDecoder,
    RangeHashes,
    SnapshotDone,
    SnapshotFailed,
    SnapshotOffer,
    SnapshotRequest,
    SnapshotWait,
    encode_frame,
    expect,
)

MESSAGES = [
    SnapshotRequest(1, "join", None, 0, 0),
    SnapshotRequest(1, "resync", STANDS, 4096, 9),
    SnapshotOffer(1, "s", str(END), STANDS, 4096, 9, b"\x00config"),
    RangeHashes(1, 2, bytes(32)),
    SnapshotWait("commit"),
    SnapshotDone(bytes(16), str(END)),
]


@pytest.mark.parametrize("step", [1, 3, 7, 1000])
def test_messages_survive_any_cut_of_the_stream(step: int) -> None:
    stream = b"".join(map(encode_frame, MESSAGES))
    decoder = FrameDecoder()
    seen = []
    for at in range(0, len(stream), step):
        decoder.feed(stream[at : at + step])
        while (message := decoder.next_message()) is not None:
            seen.append(message)
    assert seen == MESSAGES


def test_frame_over_the_limit_is_refused_by_its_length_alone() -> None:
    decoder = FrameDecoder()
    decoder.feed((PEER_FRAME_BYTES_MAX + 1).to_bytes(4, "big"))
    with pytest.raises(ProtocolError):
        decoder.next_message()


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x81\xa4type\xa4nope", b"GET / HTTP/1.1"])
def test_bytes_that_are_no_message_are_a_protocol_error(body: bytes) -> None:
    decoder = FrameDecoder()
    decoder.feed(len(body).to_bytes(4, "big") + body)
    with pytest.raises(ProtocolError):
        decoder.next_message()


def test_error_travels_with_kind_and_hint() -> None:
    failed = SnapshotFailed.of(Overloaded("full", hint="later"))
    with pytest.raises(Overloaded, match="later"):
        expect(SnapshotOffer, failed)


def test_message_out_of_place_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError, match="expected SnapshotOffer"):
        expect(SnapshotOffer, SnapshotWait("x"))
