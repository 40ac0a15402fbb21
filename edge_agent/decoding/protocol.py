"""Messages between the agent and its decode workers, as JSON.

Never pickle: the worker reads hostile bytes with native code, and a pickle from a compromised
worker would run in the agent. The agent reads responses with `decoding.responses`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import PurePath
from typing import Any, Final, Self

from edge_agent.core.radiograph import Radiograph
from edge_agent.core.study_context import StudyContext
from edge_agent.errors import DecoderFailed, HilumError, StudyImageRefused
from hilum.codes import ErrorCode

MAX_MESSAGE_BYTES: Final = 1 << 16
READY: Final = b"ready"


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """Configuration of all workers of an agent.

    `reader` names the function that reads study images, as `package.module:name`. `limits` are the
    fields of `edge_agent.imaging.Limits`.
    """

    agent_pid: int
    reader: str
    limits: dict[str, int]
    memory_bytes: int
    input_bytes: int
    output_bytes: int

    def to_json(self) -> str:
        """Return the configuration as text for a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse the text that `to_json` returned."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """A request to decode the study image in the shared memory. `fit` is (height, width)."""

    sequence: int
    size_bytes: int
    fit: tuple[int, int] | None

    def to_bytes(self) -> bytes:
        """Return the request as a packet."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, packet: bytes) -> Self:
        """Parse the packet that `to_bytes` returned."""
        values = json.loads(packet)
        fit = values.pop("fit")
        return cls(**values, fit=None if fit is None else (fit[0], fit[1]))


def encode_success(sequence: int, radiograph: Radiograph, context: StudyContext) -> bytes:
    """Return the response to a request whose pixels are in the shared memory."""
    packet = _encode(
        {
            "sequence": sequence,
            "shape": radiograph.pixels.shape,
            "facts": asdict(radiograph.facts),
            "warnings": [asdict(warning) for warning in radiograph.warnings],
            "context": asdict(context),
        }
    )
    if len(packet) <= MAX_MESSAGE_BYTES:
        return packet
    return encode_failure(
        sequence,
        StudyImageRefused(
            "The header's texts are larger than any header's should be.", code=ErrorCode.CORRUPT
        ),
    )


def encode_failure(sequence: int, error: Exception) -> bytes:
    """Return the response to a request that failed.

    The text of an unexpected error is left out, because it may quote the header.
    """
    if not isinstance(error, HilumError):
        error = DecoderFailed(f"The decoder raised {_describe(error)}.")
    fields = {
        "type": type(error).__name__,
        "code": error.code,
        "message": error.message[:1000],
        "hint": error.hint[:1000],
    }
    return _encode({"sequence": sequence, "error": fields})


def _describe(error: Exception) -> str:
    trace = error.__traceback__
    if trace is None:
        return type(error).__name__
    while trace.tb_next is not None:
        trace = trace.tb_next
    name = PurePath(trace.tb_frame.f_code.co_filename).name
    return f"{type(error).__name__} at {name}:{trace.tb_lineno}"


def _encode(values: Mapping[str, Any]) -> bytes:
    # Lone surrogates, which a header may hold, are not valid UTF-8: they become question marks.
    return json.dumps(values, ensure_ascii=False, default=_to_json_value).encode("utf-8", "replace")


def _to_json_value(value: object) -> object:
    if isinstance(value, date):
        return value.isoformat()
    if hasattr(value, "item"):  # A NumPy scalar.
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form")
