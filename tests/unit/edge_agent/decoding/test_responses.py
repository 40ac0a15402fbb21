"""Responses of a worker arrive complete; forged and malformed ones are refused."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import date
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import errors
from edge_agent.core.radiograph import ImageFacts, ImageWarning, Radiograph, Spacing
from edge_agent.core.study_context import StudyContext
from edge_agent.decoding.protocol import (
    MAX_MESSAGE_BYTES,
    DecodeRequest,
    WorkerConfig,
    encode_failure,
    encode_success,
)
from edge_agent.decoding.responses import ProtocolViolation, read_response
from edge_agent.decoding.shared_memory import SharedImageBuffer
from edge_agent.errors import DecoderFailed, HilumError, StudyImageRefused
from hilum.codes import ErrorCode, WarningCode
from tests.support.images.facts import image_facts

PIXELS = np.arange(12, dtype=np.uint8).reshape(3, 4)
RADIOGRAPH = Radiograph(PIXELS, image_facts(300, 400, "dicom", 12))
REQUEST = DecodeRequest(sequence=5, size_bytes=100, fit=None)


@pytest.fixture(scope="module")
def memory() -> Any:
    memory = SharedImageBuffer.create(4096, 4096)
    memory.write_pixels(PIXELS)
    yield memory
    memory.close_fd()


texts = st.text(max_size=40)
contexts = st.builds(
    StudyContext,
    **{
        field.name: st.none() | st.dates() if "date" in field.name else texts
        for field in fields(StudyContext)
    },
)
image_facts_ = st.builds(
    ImageFacts,
    rows=st.integers(1, 20_000),
    columns=st.integers(1, 20_000),
    format=st.sampled_from(["dicom", "jpeg", "png", "tiff"]),
    bits_stored=st.integers(1, 16),
    view=texts,
    laterality=texts,
    body_part=texts,
    manufacturer=texts,
    photometric=texts,
    transfer_syntax=texts,
    spacing=st.none() | st.builds(Spacing, *[st.floats(1e-6, 1e6) | st.integers(1, 9)] * 2),
)
radiographs = st.builds(
    Radiograph,
    pixels=st.just(PIXELS),
    facts=image_facts_,
    warnings=st.lists(st.builds(ImageWarning, st.sampled_from(WarningCode), texts)).map(tuple),
)


@given(radiographs, contexts)
def test_a_decoded_study_survives_the_transfer(
    memory: SharedImageBuffer, radiograph: Radiograph, context: StudyContext
) -> None:
    packet = encode_success(5, radiograph, context)
    decoded = read_response(packet, REQUEST, memory)
    for field in fields(ImageFacts):
        sent, got = (
            getattr(radiograph.facts, field.name),
            getattr(decoded.radiograph.facts, field.name),
        )
        assert got == sent
        assert type(got) is type(sent)
    assert decoded.radiograph.warnings == radiograph.warnings
    assert type(decoded.radiograph.warnings) is tuple
    np.testing.assert_array_equal(decoded.radiograph.pixels, PIXELS)
    assert decoded.context == context


def test_a_header_may_hold_text_that_is_not_utf8(memory: SharedImageBuffer) -> None:
    context = StudyContext(patient_name="M\udcfcller", patient_birth_date=date(1970, 1, 1))
    decoded = read_response(encode_success(5, RADIOGRAPH, context), REQUEST, memory)
    assert decoded.context.patient_name == "M?ller"


def test_texts_that_fill_a_message_are_refused_as_corrupt(memory: SharedImageBuffer) -> None:
    context = StudyContext(patient_name="x" * MAX_MESSAGE_BYTES)
    packet = encode_success(5, RADIOGRAPH, context)
    assert len(packet) < MAX_MESSAGE_BYTES
    with pytest.raises(StudyImageRefused) as refused:
        read_response(packet, REQUEST, memory)
    assert refused.value.code is ErrorCode.CORRUPT


@pytest.mark.parametrize(
    "error_type",
    [t for t in vars(errors).values() if isinstance(t, type) and issubclass(t, HilumError)],
)
def test_every_error_of_the_agent_survives_the_transfer(
    memory: SharedImageBuffer, error_type: type[HilumError]
) -> None:
    with pytest.raises(error_type) as raised:
        read_response(encode_failure(5, error_type("why", hint="what to do")), REQUEST, memory)
    assert type(raised.value) is error_type
    assert (raised.value.message, raised.value.hint) == ("why", "what to do")
    assert raised.value.code is error_type.default_code


def test_the_text_of_an_unexpected_error_is_left_out(memory: SharedImageBuffer) -> None:
    with pytest.raises(DecoderFailed) as raised:
        read_response(encode_failure(5, ValueError("Doe^John")), REQUEST, memory)
    assert "ValueError" in raised.value.message
    assert "Doe" not in raised.value.message


def good() -> dict[str, Any]:
    response: dict[str, Any] = json.loads(encode_success(5, RADIOGRAPH, StudyContext()))
    return response


def error(type_: str = "StudyImageRefused", code: str = "corrupt") -> dict[str, str]:
    return {"type": type_, "code": code, "message": "", "hint": ""}


def with_facts(**facts: Any) -> dict[str, Any]:
    response = good()
    return response | {"facts": response["facts"] | facts}


def without_fact(name: str) -> dict[str, Any]:
    response = good()
    del response["facts"][name]
    return response


@pytest.mark.parametrize(
    "response",
    [
        None,
        [],
        {},
        {"sequence": 5},
        good() | {"sequence": 4},
        good() | {"sequence": "5"},
        good() | {"sequence": None},
        good() | {"extra": 1},
        good() | {"shape": [0, 4]},
        good() | {"shape": [-3, -4]},
        good() | {"shape": [3, 4, 1]},
        good() | {"shape": [3.5, 4]},
        good() | {"shape": [64, 65]},
        good() | {"shape": [1 << 20, 1 << 20]},
        good() | {"shape": [1 << 64, 1]},
        good() | {"context": {"patient_id": 5}},
        good() | {"context": {"study_date": "yesterday"}},
        good() | {"context": None},
        good() | {"error": error()},
        with_facts(rows=0),
        with_facts(format="exe"),
        with_facts(view=None),
        with_facts(pixels=[1]),
        with_facts(spacing={"row_mm": "wide", "column_mm": 1.0}),
        with_facts(warnings=[]),
        with_facts(columns=(1 << 20) + 1),
        with_facts(bits_stored=0),
        with_facts(bits_stored=65),
        without_fact("view"),
        good() | {"warnings": [{"code": "all_is_well", "message": ""}]},
        good() | {"warnings": None},
        {"sequence": 5, "error": error(type_="SystemExit")},
        {"sequence": 5, "error": error(code="fine")},
    ],
)  # fmt: skip
def test_a_malformed_response_is_a_protocol_violation(
    memory: SharedImageBuffer, response: Any
) -> None:
    with pytest.raises(ProtocolViolation):
        read_response(json.dumps(response).encode(), REQUEST, memory)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_protocol_violation(memory: SharedImageBuffer, packet: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        read_response(packet, REQUEST, memory)


@given(
    st.builds(
        DecodeRequest,
        sequence=st.integers(1, 1 << 62),
        size_bytes=st.integers(0, 1 << 40),
        fit=st.none() | st.tuples(st.integers(1, 4096), st.integers(1, 4096)),
    )
)
def test_a_request_survives_the_transfer(request_: DecodeRequest) -> None:
    assert DecodeRequest.from_bytes(request_.to_bytes()) == request_


def test_a_configuration_survives_the_command_line() -> None:
    config = WorkerConfig(1, "a:b", {"max_pixels": 5}, 6, 7, 8)
    assert WorkerConfig.from_json(config.to_json()) == config
