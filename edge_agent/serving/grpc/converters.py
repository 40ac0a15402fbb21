"""Converts between the contract's messages and the agent's own types."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final, Self, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError, Message

from edge_agent.core.admission import Priority
from edge_agent.core.findings import Finding
from edge_agent.engines.model import LoadedModel
from edge_agent.errors import HilumError, InvalidRequest
from edge_agent.serving.types import DetectionRequest, DetectionResult
from hilum.catalog import BY_SLUG, CATALOG, Concept
from hilum.v1 import detection_pb2 as pb

_PRIORITIES: Final = {
    pb.PRIORITY_UNSPECIFIED: Priority.ROUTINE,
    pb.PRIORITY_ROUTINE: Priority.ROUTINE,
    pb.PRIORITY_STAT: Priority.STAT,
}


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A `DetectRequest` as plain values.

    gRPC keeps a request until its call has ended. The message would hold a second copy of the
    image for as long.
    """

    request_id: str
    image: bytes
    score_threshold: float | None
    priority: Priority
    model: str = ""

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse a message. A priority of a newer contract counts as routine.

        Raises:
            DecodeError: the bytes are not protobuf.
        """
        message = pb.DetectRequest.FromString(data)
        options = message.options
        return cls(
            request_id=message.request_id,
            image=message.image,
            score_threshold=(
                options.score_threshold if options.HasField("score_threshold") else None
            ),
            priority=_PRIORITIES.get(options.priority, Priority.ROUTINE),
            model=message.model,
        )


@dataclass(frozen=True, slots=True)
class MalformedMessage:
    """A message whose bytes are not protobuf."""

    request_id: str = ""


def make_deserializer(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Return a deserializer that never raises.

    If a deserializer raises, gRPC ends the call with a status that means an unforeseen error, and
    without an error code.

    Args:
        parse: parses a message; that of `DetectRequest` is replaced by `ParsedRequest.from_bytes`.

    Returns:
        A function that returns the parsed message, or `MalformedMessage`.
    """
    if parse == pb.DetectRequest.FromString:
        parse = ParsedRequest.from_bytes

    def deserialize(data: bytes) -> Any:  # noqa: ANN401  # any message of the contract
        try:
            return parse(data)
        except DecodeError:
            return MalformedMessage()

    return deserialize


def malformed_message_error() -> InvalidRequest:
    """Return the error for a message that cannot be parsed."""
    return InvalidRequest(
        "The message cannot be parsed: its bytes are not protobuf.",
        hint="Use the client made from detection.proto, or `hilum.client`.",
    )


def to_detection_request(
    message: ParsedRequest | MalformedMessage, *, request_id: str, deadline: float | None
) -> DetectionRequest:
    """Convert a request.

    Args:
        message: the parsed message.
        request_id: replaces the message's own, which may be empty.
        deadline: on the event loop's clock, in seconds.

    Raises:
        InvalidRequest: the message could not be parsed.
    """
    if isinstance(message, MalformedMessage):
        raise malformed_message_error()
    return DetectionRequest(
        request_id=request_id,
        image=message.image,
        score_threshold=message.score_threshold,
        priority=message.priority,
        deadline=deadline,
        model=message.model,
    )


def to_detect_response(result: DetectionResult) -> pb.DetectResponse:
    """Convert a detection result."""
    return pb.DetectResponse(
        request_id=result.request_id,
        findings=[_to_finding(finding) for finding in result.findings],
        image=pb.ImageFacts(**asdict(result.image)),
        warnings=[pb.Warning(**asdict(warning)) for warning in result.warnings],
        bundle_digest=result.bundle_digest,
        engine=result.engine,
        timings=pb.Timings(**asdict(result.timings)),
    )


def to_error_message(error: HilumError) -> pb.Error:
    """Convert an error; the message carries its code, message and hint and nothing else."""
    return pb.Error(code=error.code, message=error.message, hint=error.hint)


def to_model_response(model: LoadedModel) -> pb.GetModelResponse:
    """Convert the facts about a model: name, digest, engine and operating points."""
    manifest = model.manifest
    findings = [BY_SLUG[slug] for slug in manifest.findings]
    return pb.GetModelResponse(
        name=manifest.name,
        version=manifest.version,
        bundle_digest=model.digest,
        engine=model.engine.name,
        engine_reason=model.reason,
        compute_device=model.engine.compute_device,
        input_height=manifest.input.height,
        input_width=manifest.input.width,
        findings=[
            pb.ModelFinding(
                index=finding.index,
                slug=finding.slug,
                name=finding.name,
                concept=_to_concept(finding.concept),
                operating_point=model.variant.operating_points[finding.slug],
            )
            for finding in findings
        ],
        intended_use=manifest.intended_use,
    )


def to_json(message: Message) -> dict[str, Any]:
    """Return a message as JSON values with the contract's names, in its order of fields.

    Empty lists and zeros are included.
    """
    document = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return _sort_fields(document, cast("Descriptor", message.DESCRIPTOR))


def _sort_fields(document: dict[str, Any], descriptor: Descriptor) -> dict[str, Any]:
    """Return the document in the order of declaration; protobuf puts zeros last."""
    ordered = {}
    for field in descriptor.fields:
        value = document.get(field.name)
        if isinstance(value, dict) and field.message_type:
            value = _sort_fields(value, field.message_type)
        elif isinstance(value, list) and field.message_type:
            value = [_sort_fields(item, field.message_type) for item in value]
        if value is not None:
            ordered[field.name] = value
    return ordered


def _to_finding(finding: Finding) -> pb.Finding:
    entry = CATALOG[finding.index]
    return pb.Finding(
        index=entry.index,
        slug=entry.slug,
        name=entry.name,
        concept=_to_concept(entry.concept),
        score=finding.score,
        box=pb.Box(**asdict(finding.box)),
    )


def _to_concept(concept: Concept) -> pb.Concept:
    return pb.Concept(**asdict(concept))
