from __future__ import annotations

import json
from dataclasses import fields

import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from edge_agent.core.admission import Priority
from edge_agent.core.findings import Box, Finding
from edge_agent.core.radiograph import ImageFacts, ImageWarning, Spacing
from edge_agent.errors import InvalidRequest, Overloaded
from edge_agent.serving.grpc import converters
from edge_agent.serving.types import DetectionRequest, DetectionResult, Timings
from hilum import client
from hilum.catalog import CATALOG
from hilum.codes import WarningCode
from hilum.v1 import detection_pb2 as pb
from tests.support.agents.tagged import DIGEST, fake_pipeline, settings


def answer(*findings: Finding, spacing: Spacing | None = None) -> DetectionResult:
    return DetectionResult(
        request_id="r",
        findings=findings,
        image=ImageFacts(
            rows=2000,
            columns=1800,
            format="dicom",
            bits_stored=15,
            view="PA",
            laterality="U",
            body_part="CHEST",
            manufacturer="Acme",
            photometric="MONOCHROME1",
            transfer_syntax="1.2.840.10008.1.2",
            spacing=spacing,
        ),
        warnings=(ImageWarning(WarningCode.MISSING_WINDOW, "No window."),),
        bundle_digest=DIGEST,
        engine="openvino-int8",
        timings=Timings(1, 2, 3, 4, 10),
    )


def asked(message: pb.DetectRequest) -> DetectionRequest:
    read = converters.ParsedRequest.from_bytes(message.SerializeToString())
    return converters.to_detection_request(read, request_id="a", deadline=None)


def test_every_image_fact_is_in_the_contract_and_in_the_client() -> None:
    facts = {field.name for field in fields(ImageFacts)}
    assert facts == {field.name for field in pb.ImageFacts.DESCRIPTOR.fields}
    assert facts == {field.name for field in fields(client.ImageFacts)}


@pytest.mark.parametrize("kind", CATALOG, ids=lambda kind: kind.slug)
def test_a_finding_carries_its_kind_and_concept(kind: object) -> None:
    catalogued = CATALOG[CATALOG.index(kind)]  # type: ignore[arg-type]
    response = converters.to_detect_response(
        answer(Finding(catalogued.index, 0.5, Box(1, 2, 3, 4)))
    )
    (found,) = response.findings
    assert (found.index, found.slug, found.name) == (
        catalogued.index,
        catalogued.slug,
        catalogued.name,
    )
    assert found.concept.value == catalogued.concept.value
    assert found.concept.scheme == catalogued.concept.scheme
    assert (found.score, found.box.x_min, found.box.y_max) == (0.5, 1, 4)


def test_every_image_fact_is_converted() -> None:
    response = converters.to_detect_response(answer(spacing=Spacing(0.15, 0.2)))
    facts = response.image
    assert (facts.rows, facts.columns, facts.bits_stored) == (2000, 1800, 15)
    assert (facts.format, facts.view, facts.laterality) == ("dicom", "PA", "U")
    assert (facts.body_part, facts.manufacturer) == ("CHEST", "Acme")
    assert (facts.photometric, facts.transfer_syntax) == ("MONOCHROME1", "1.2.840.10008.1.2")
    assert (facts.spacing.row_mm, facts.spacing.column_mm) == (0.15, 0.2)
    assert not converters.to_detect_response(answer()).image.HasField("spacing")
    assert json.loads(json.dumps(converters.to_json(response)["warnings"])) == [
        {"code": "missing_window", "message": "No window."}
    ]
    assert response.timings.total_ms == 10


def test_json_has_the_contracts_fields_in_order_and_empty_lists() -> None:
    document = converters.to_json(converters.to_detect_response(answer()))
    assert document["findings"] == []
    assert list(document) == [field.name for field in pb.DetectResponse.DESCRIPTOR.fields]
    assert list(document["image"])[:3] == ["rows", "columns", "format"]
    assert document["bundle_digest"] == DIGEST
    again = ParseDict(document, pb.DetectResponse())
    assert again == converters.to_detect_response(answer())


def test_a_threshold_of_zero_is_not_an_absent_threshold() -> None:
    message = pb.DetectRequest(options=pb.DetectOptions(score_threshold=0))
    assert (
        converters.to_detection_request(
            converters.ParsedRequest.from_bytes(message.SerializeToString()),
            request_id="a",
            deadline=None,
        ).score_threshold
        == 0
    )
    bare = asked(pb.DetectRequest())
    assert bare.score_threshold is None


@pytest.mark.parametrize(
    ("number", "priority"),
    [(0, Priority.ROUTINE), (1, Priority.ROUTINE), (2, Priority.STAT), (77, Priority.ROUTINE)],
)
def test_an_unknown_priority_is_routine(number: int, priority: Priority) -> None:
    message = pb.DetectRequest()
    message.options.priority = number  # type: ignore[assignment]
    assert (
        converters.to_detection_request(
            converters.ParsedRequest.from_bytes(message.SerializeToString()),
            request_id="a",
            deadline=None,
        ).priority
        is priority
    )


@given(st.binary(max_size=60))
@example(b"\x8a\x00\x01a")  # a tag in more bytes than it needs
@example(b"\x0b\x0c")  # a group
@example(b"\x0a\xff\xff\xff\xff\x0fa")  # a size beyond the message
def test_bytes_that_are_not_protobuf_are_a_malformed_message(data: bytes) -> None:
    deserialize = converters.make_deserializer(pb.DetectRequest.FromString)
    message = deserialize(data)
    try:
        expected = pb.DetectRequest.FromString(data)
    except DecodeError:
        assert isinstance(message, converters.MalformedMessage)
        with pytest.raises(InvalidRequest):
            converters.to_detection_request(message, request_id="a", deadline=None)
    else:
        assert (message.image, message.request_id) == (expected.image, expected.request_id)


def test_a_converted_error_has_its_code_message_and_hint_only() -> None:
    message = converters.to_error_message(Overloaded("Full."))
    assert (message.code, message.message) == ("overloaded", "Full.")
    assert message.hint == "Try again in a moment."


async def test_the_facts_about_the_model_are_converted() -> None:
    service = fake_pipeline(settings())
    try:
        response = converters.to_model_response(service.model)
    finally:
        await service.close()
    assert (response.name, response.version, response.bundle_digest) == ("toy", "0.0.1", DIGEST)
    assert [f.slug for f in response.findings] == [kind.slug for kind in CATALOG]
    assert {f.operating_point for f in response.findings} == {0.25}
    assert response.engine_reason == "a test"
