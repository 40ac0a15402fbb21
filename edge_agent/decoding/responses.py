"""What a decode worker answers, checked: a worker that was taken over may answer anything.

It can lie about its own image; it cannot make the agent run code, allocate without bound or take
one image's answer for another's.
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
_KINDS: Final = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, HilumError)
}


class ProtocolViolation(DecoderFailed):
    """The worker broke the agreement; nothing it says can be used."""


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """One study image, decoded; the pixels are the agent's own copy."""

    radiograph: Radiograph
    context: StudyContext


class _Plain(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def _check_sizes(facts: ImageFacts) -> ImageFacts:
    sides = (facts.rows, facts.columns)
    if not (min(sides) >= 1 and max(sides) <= _MAX_SIDE and 1 <= facts.bits_stored <= _MAX_BITS):
        raise ValueError("impossible image size or bit depth")
    return facts


class _Error(_Plain):
    kind: str
    code: ErrorCode
    message: str
    hint: str


class _Answer(_Plain):
    sequence: int
    error: _Error | None = None
    shape: tuple[_Side, _Side] | None = None
    facts: Annotated[ImageFacts, AfterValidator(_check_sizes)] | None = None
    warnings: tuple[ImageWarning, ...] | None = None
    context: StudyContext | None = None

    @model_validator(mode="after")
    def _is_one_or_the_other(self) -> _Answer:
        whole = None not in (self.shape, self.facts, self.warnings, self.context)
        if whole == (self.error is not None):
            raise ValueError("neither an error nor a whole image")
        return self


def read_answer(packet: bytes, request: DecodeRequest, memory: SharedImageBuffer) -> Decoded:
    """Read an answer and copy its pixels out of the shared memory.

    Raises:
        InvalidAnswer: it is not of the agreed form, or belongs to another request.
        HilumError: what the worker raised: same type, code, message and hint.
    """
    try:
        answer = _Answer.model_validate_json(packet)
    except ValidationError as error:
        problems = ", ".join(sorted({problem["type"] for problem in error.errors()}))
        raise ProtocolViolation(f"The decoder's answer cannot be read ({problems}).") from None
    if answer.sequence != request.sequence:
        raise ProtocolViolation("The decoder answered another request.")
    if answer.error is not None:
        raise _rebuilt(answer.error)
    if (
        answer.shape is None
        or answer.facts is None
        or answer.warnings is None
        or answer.context is None
    ):
        raise ProtocolViolation("The decoder's answer is not whole.")
    if answer.shape[0] * answer.shape[1] > memory.output_bytes:
        raise ProtocolViolation("The decoder claims more pixels than there is room for.")
    pixels = memory.take_pixels(answer.shape)
    return Decoded(Radiograph(pixels, answer.facts, answer.warnings), answer.context)


def _rebuilt(said: _Error) -> HilumError:
    kind = _KINDS.get(said.kind)
    if kind is None:
        raise ProtocolViolation("The decoder raised an error of an unknown kind.")
    return kind(said.message, code=said.code, hint=said.hint)
