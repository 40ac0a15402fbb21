"""Answers, errors and model facts in the contract's messages."""

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
from edge_agent.serving.grpc.zero_copy import image_apart
from edge_agent.serving.types import DetectionRequest, DetectionResult
from hilum.catalog import BY_SLUG, CATALOG, Concept
from hilum.client import DetectError
from hilum.v1 import detection_pb2 as pb

_PRIORITIES: Final = {
    pb.PRIORITY_UNSPECIFIED: Priority.ROUTINE,
    pb.PRIORITY_ROUTINE: Priority.ROUTINE,
    pb.PRIORITY_STAT: Priority.STAT,
}


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A `DetectRequest` as plain values; the image lies in the message as it came."""

    request_id: str
    image: bytes | memoryview
    score_threshold: float | None
    priority: Priority
    model: str = ""

    @classmethod
    def read(cls, data: bytes) -> Self:
        """Read a message. A priority of a newer contract counts as routine.

        Raises:
            DecodeError: these bytes are not protobuf.
        """
        image, rest = image_apart(data) or (None, data)
        message = pb.DetectRequest.FromString(rest)
        options = message.options
        return cls(
            request_id=message.request_id,
            image=message.image if image is None else image,
            score_threshold=(
                options.score_threshold if options.HasField("score_threshold") else None
            ),
            priority=_PRIORITIES.get(options.priority, Priority.ROUTINE),
            model=message.model,
        )


@dataclass(frozen=True, slots=True)
class MalformedMessage:
    """Stands for a message whose bytes are not protobuf."""

    request_id: str = ""


def received(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Deserialise a message: `ParsedRequest` for a `DetectRequest`, `MalformedMessage` for none.

    Left to gRPC, bytes that cannot be read would end the call with a status that means an
    unforeseen error, and no code.
    """
    parse = ParsedRequest.read if parse == pb.DetectRequest.FromString else parse

    def read(data: bytes) -> Any:  # noqa: ANN401  # whatever message it parses
        try:
            return parse(data)
        except DecodeError:
            return MalformedMessage()

    return read


def unreadable() -> InvalidRequest:
    """What a caller is told whose message cannot be read."""
    return InvalidRequest(
        "The message cannot be read: its bytes are not protobuf.",
        hint="Use the client made from detection.proto, or `hilum.client`.",
    )


def study_request(
    asked: ParsedRequest | MalformedMessage, *, request_id: str, deadline: float | None
) -> DetectionRequest:
    """A request as the pipeline takes it.

    Raises:
        InvalidRequest: the message could not be read.
    """
    if isinstance(asked, MalformedMessage):
        raise unreadable()
    return DetectionRequest(
        request_id=request_id,
        image=asked.image,
        score_threshold=asked.score_threshold,
        priority=asked.priority,
        deadline=deadline,
        model=asked.model,
    )


def detect_response(answer: DetectionResult) -> pb.DetectResponse:
    """An answer on the wire."""
    return pb.DetectResponse(
        request_id=answer.request_id,
        findings=[_finding(finding) for finding in answer.findings],
        image=pb.ImageFacts(**asdict(answer.image)),
        warnings=[pb.Warning(code=w.code, message=w.message) for w in answer.warnings],
        bundle_digest=answer.bundle_digest,
        engine=answer.engine,
        timings=pb.Timings(**asdict(answer.timings)),
    )


def error_message(error: HilumError | DetectError) -> pb.Error:
    """An error on the wire; carries what the error's own sentences say and nothing else."""
    return pb.Error(code=error.code, message=error.message, hint=error.hint)


def model_response(model: LoadedModel) -> pb.GetModelResponse:
    """Which model answers, on which engine, from which scores on."""
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
                concept=_concept(finding.concept),
                operating_point=model.variant.operating_points[finding.slug],
            )
            for finding in findings
        ],
        intended_use=manifest.intended_use,
    )


def as_json(message: Message) -> dict[str, Any]:
    """A message in the contract's own JSON: its names and order, empty lists and zeros included."""
    document = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return _in_order(document, cast("Descriptor", message.DESCRIPTOR))


def _in_order(document: dict[str, Any], descriptor: Descriptor) -> dict[str, Any]:
    """The same document in the order of declaration (protobuf puts zeros last)."""
    ordered = {}
    for field in descriptor.fields:
        value = document.get(field.name)
        if isinstance(value, dict) and field.message_type:
            value = _in_order(value, field.message_type)
        elif isinstance(value, list) and field.message_type:
            value = [_in_order(one, field.message_type) for one in value]
        if value is not None:
            ordered[field.name] = value
    return ordered


def _finding(finding: Finding) -> pb.Finding:
    kind = CATALOG[finding.index]
    return pb.Finding(
        index=kind.index,
        slug=kind.slug,
        name=kind.name,
        concept=_concept(kind.concept),
        score=finding.score,
        box=pb.Box(**asdict(finding.box)),
    )


def _concept(concept: Concept) -> pb.Concept:
    return pb.Concept(**asdict(concept))
