"""What is read of a message with its image left in place is what protobuf reads of the whole."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from edge_agent.serving.grpc.converters import ParsedRequest
from edge_agent.serving.grpc.zero_copy import image_apart
from hilum.v1 import detection_pb2 as pb

REQUESTS = st.builds(
    pb.DetectRequest,
    image=st.binary(max_size=300),
    request_id=st.text(max_size=9),
    options=st.none()
    | st.builds(
        pb.DetectOptions,
        score_threshold=st.none() | st.floats(0, 1, width=32),
        priority=st.sampled_from([0, 1, 2, 77]),
    ),
)
UNKNOWN = st.sampled_from(
    [b"", b"\xf8\x01\x05", b"\xfa\x01\x02ab", b"\xf9\x01" + bytes(8), b"\xfd\x01" + bytes(4)]
)
"""Fields of a newer contract, of each wire type."""


def by_protobuf(data: bytes) -> pb.DetectRequest | None:
    try:
        return pb.DetectRequest.FromString(data)
    except DecodeError:
        return None


@given(REQUESTS, UNKNOWN, UNKNOWN)
def test_a_message_is_read_whole(request: pb.DetectRequest, before: bytes, after: bytes) -> None:
    data = before + request.SerializeToString() + after
    apart = image_apart(data)
    assert apart is not None
    image, rest = apart
    assert image == request.image
    assert image.readonly
    without = pb.DetectRequest.FromString(rest)
    assert not without.image
    without.image = request.image
    assert without.SerializeToString() == by_protobuf(data).SerializeToString()  # type: ignore[union-attr]


@given(st.lists(REQUESTS, min_size=2, max_size=3))
def test_of_several_images_the_last_one_counts(requests: list[pb.DetectRequest]) -> None:
    data = b"".join(request.SerializeToString() for request in requests)
    assert ParsedRequest.read(data).image == pb.DetectRequest.FromString(data).image


@given(st.binary(max_size=60) | REQUESTS.map(lambda it: it.SerializeToString()), st.data())
@example(b"\x8a\x00\x01a", None)  # a tag in more bytes than it needs
@example(b"\x0a\x81\x00a", None)  # a size in more bytes than it needs
@example(b"\x0b\x0c", None)  # a group
@example(b"\x0a\xff\xff\xff\xff\x0fa", None)  # a size beyond the message
@example(b"\x0a" + b"\xff" * 11, None)
def test_damaged_bytes_are_read_as_protobuf_reads_them(data: bytes, draw: st.DataObject) -> None:
    if draw is not None and data:
        at = draw.draw(st.integers(0, len(data) - 1))
        data = data[:at] + bytes([draw.draw(st.integers(0, 255))]) + data[at + 1 :]
    wanted = by_protobuf(data)
    if wanted is None:
        with pytest.raises(DecodeError):
            ParsedRequest.read(data)
        return
    asked = ParsedRequest.read(data)
    assert asked.image == wanted.image
    assert asked.request_id == wanted.request_id


def test_millions_of_fields_are_left_to_protobuf() -> None:
    """Looked at one by one they would hold up the event loop for minutes."""
    options = pb.DetectRequest(options=pb.DetectOptions(score_threshold=0.5)).SerializeToString()
    many = options * 1_000_000 + pb.DetectRequest(image=b"pixels").SerializeToString()
    assert image_apart(many) is None
    asked = ParsedRequest.read(many)
    assert (bytes(asked.image), asked.score_threshold) == (b"pixels", 0.5)
    few = options * 10 + pb.DetectRequest(image=b"pixels").SerializeToString()
    assert image_apart(few) is not None


def test_the_image_is_not_copied() -> None:
    data = pb.DetectRequest(image=b"x" * 1000).SerializeToString()
    image = ParsedRequest.read(data).image
    assert isinstance(image, memoryview)
    assert image.obj is data
