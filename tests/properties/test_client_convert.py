"""The client's results carry the content of the agent's messages."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from hilum.catalog import CATALOG
from hilum.client import (
    Box,
    DetectError,
    Finding,
    ImageFacts,
    ImageWarning,
    Result,
    Spacing,
    Timings,
    convert,
)
from hilum.v1 import detection_pb2 as pb

text = st.sampled_from(["", "PA", "dicom", "Überlandwerk", "胸部"])
floats32 = st.floats(0, 2**20, width=32)
scores = st.floats(0, 1, width=32)
sizes = st.integers(1, 2**20)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    (x_min, x_max), (y_min, y_max) = (
        sorted((draw(floats32), draw(floats32))),
        sorted((draw(floats32), draw(floats32))),
    )
    return Box(x_min, y_min, x_max, y_max)


results = st.builds(
    Result,
    request_id=text,
    findings=st.lists(
        st.builds(Finding, entry=st.sampled_from(CATALOG), score=scores, box=boxes()), max_size=4
    ).map(tuple),
    image=st.builds(
        ImageFacts,
        rows=sizes,
        columns=sizes,
        format=text,
        transfer_syntax=text,
        photometric=text,
        bits_stored=st.integers(0, 16),
        view=text,
        laterality=text,
        body_part=text,
        manufacturer=text,
        spacing=st.none() | st.builds(Spacing, st.floats(0, 1), st.floats(0, 1)),
    ),
    warnings=st.lists(st.builds(ImageWarning, text, text), max_size=3).map(tuple),
    bundle_digest=digests,
    engine=st.sampled_from(["openvino-int8", "onnxruntime-fp32"]),
    timings=st.builds(Timings, *[floats32] * 5),
)


def to_message(result: Result) -> pb.DetectResponse:
    """Return the message that an agent sends for a result."""

    def fields(value: Any, *names: str) -> dict[str, Any]:
        return {name: getattr(value, name) for name in names}

    image = {name: getattr(result.image, name) for name in ImageFacts.__slots__}
    if result.image.spacing is not None:
        image["spacing"] = pb.Spacing(**fields(result.image.spacing, "row_mm", "column_mm"))
    return pb.DetectResponse(
        request_id=result.request_id,
        findings=[
            pb.Finding(
                index=finding.entry.index,
                slug=finding.slug,
                name=finding.name,
                score=finding.score,
                box=pb.Box(**fields(finding.box, *Box.__slots__)),
            )
            for finding in result.findings
        ],
        image=pb.ImageFacts(**image),
        warnings=[pb.Warning(code=w.code, message=w.message) for w in result.warnings],
        bundle_digest=result.bundle_digest,
        engine=result.engine,
        timings=pb.Timings(**fields(result.timings, *Timings.__slots__)),
    )


@given(results)
def test_a_result_is_unchanged_after_encoding_and_decoding(result: Result) -> None:
    wire = to_message(result).SerializeToString()
    assert convert.to_result(pb.DetectResponse.FromString(wire), result.request_id) == result


@given(results, text)
def test_a_response_to_another_request_is_never_a_result(result: Result, other: str) -> None:
    if other == result.request_id:
        other += "x"
    with pytest.raises(DetectError, match="wrong_answer"):
        convert.to_result(to_message(result), other)


@given(results, st.binary(max_size=64))
def test_noise_gives_a_complete_result_or_an_error(result: Result, noise: bytes) -> None:
    wire = to_message(result).SerializeToString()
    try:
        parsed = pb.DetectResponse.FromString(wire + noise)
    except DecodeError:
        return
    try:
        converted = convert.to_result(parsed, result.request_id)
    except DetectError:
        return
    assert len(converted.bundle_digest) == 64
    assert converted.image.rows > 0
    assert all(0 <= finding.score <= 1 for finding in converted.findings)


@given(boxes(), sizes, sizes)
def test_fractions_times_size_are_pixels(box: Box, rows: int, columns: int) -> None:
    x_min, y_min, x_max, y_max = box.fractions(ImageFacts(rows, columns, "png"))
    restored = (x_min * columns, y_min * rows, x_max * columns, y_max * rows)
    assert restored == pytest.approx((box.x_min, box.y_min, box.x_max, box.y_max))
