"""Validation of a decode worker's responses: a compromised worker may send anything.

It can return wrong pixels for its own image. It cannot make the agent run code, allocate without
bound, or mistake one image's response for another's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from edge_agent import errors
from edge_agent.core.radiograph import ImageFacts, ImageWarning, Radiograph
from edge_agent.core.study_context import StudyContext
from edge_agent.decoding.protocol import DecodeRequest
from edge_agent.decoding.shared_memory import SharedImageBuffer
from edge_agent.errors import DecoderFailed, HilumError
from hilum.codes import ErrorCode

_MAX_SIDE: Final = 1 << 20
_MAX_BITS: Final = 64
_Side = Annotated[int, Field(ge=1, le=_MAX_SIDE)]
_ERROR_TYPES: Final = {
    name: type_
    for name, type_ in vars(errors).items()
    if isinstance(type_, type) and issubclass(type_, HilumError)
}


class ProtocolViolation(DecoderFailed):
    """The worker's response breaks the protocol; nothing in it is used."""


@dataclass(frozen=True, slots=True, eq=False)
class DecodedStudy:
    """A decoded study image; the pixels are the agent's own copy."""

    radiograph: Radiograph
    context: StudyContext


class _StrictModel(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def _check_sizes(facts: ImageFacts) -> ImageFacts:
    sides = (facts.rows, facts.columns)
    if not (min(sides) >= 1 and max(sides) <= _MAX_SIDE and 1 <= facts.bits_stored <= _MAX_BITS):
        raise ValueError("impossible image size or bit depth")
    return facts


class _ErrorFields(_StrictModel):
    type: str
    code: ErrorCode
    message: str
    hint: str


class _Response(_StrictModel):
    sequence: int
    error: _ErrorFields | None = None
    shape: tuple[_Side, _Side] | None = None
    facts: Annotated[ImageFacts, AfterValidator(_check_sizes)] | None = None
    warnings: tuple[ImageWarning, ...] | None = None
    context: StudyContext | None = None

    @model_validator(mode="after")
    def _is_error_or_image(self) -> _Response:
        is_complete = None not in (self.shape, self.facts, self.warnings, self.context)
        if is_complete == (self.error is not None):
            raise ValueError("neither an error nor a complete image")
        return self


def read_response(packet: bytes, request: DecodeRequest, memory: SharedImageBuffer) -> DecodedStudy:
    """Validate a response and copy its pixels out of the shared memory.

    Args:
        packet: the response as received.
        request: the request that it must belong to.
        memory: the worker's shared memory.

    Returns:
        The decoded study image.

    Raises:
        ProtocolViolation: it is malformed, or belongs to another request.
        HilumError: the error that the worker raised: same type, code, message and hint.
    """
    try:
        response = _Response.model_validate_json(packet)
    except ValidationError as error:
        problems = ", ".join(sorted({problem["type"] for problem in error.errors()}))
        raise ProtocolViolation(f"The decoder's response cannot be read ({problems}).") from None
    if response.sequence != request.sequence:
        raise ProtocolViolation("The decoder's response belongs to another request.")
    if response.error is not None:
        raise _rebuild_error(response.error)
    if (
        response.shape is None
        or response.facts is None
        or response.warnings is None
        or response.context is None
    ):
        raise ProtocolViolation("The decoder's response is incomplete.")
    if response.shape[0] * response.shape[1] > memory.output_bytes:
        raise ProtocolViolation("The decoder's response has more pixels than there is room for.")
    pixels = memory.copy_pixels(response.shape)
    return DecodedStudy(Radiograph(pixels, response.facts, response.warnings), response.context)


def _rebuild_error(fields: _ErrorFields) -> HilumError:
    type_ = _ERROR_TYPES.get(fields.type)
    if type_ is None:
        raise ProtocolViolation("The decoder raised an error of an unknown type.")
    return type_(fields.message, code=fields.code, hint=fields.hint)
