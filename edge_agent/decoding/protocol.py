"""What the agent and its decode workers say to each other, as JSON; the worker's side of it.

Never pickle: the worker reads hostile bytes with native code, and a pickle from a worker that was
taken over would run in the agent. The agent reads answers with `decode_answers`.
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
    """How the workers of one agent are made; `limits` are those of `edge_agent.imaging.Limits`."""

    agent_pid: int
    reader: str
    limits: dict[str, int]
    memory_bytes: int
    input_bytes: int
    output_bytes: int

    def to_json(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """One study image, whose bytes lie in the shared memory. `fit` is (height, width)."""

    sequence: int
    size_bytes: int
    fit: tuple[int, int] | None

    def to_bytes(self) -> bytes:
        """One packet."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, packet: bytes) -> Self:
        """What `to_bytes` wrote."""
        values = json.loads(packet)
        fit = values.pop("fit")
        return cls(**values, fit=None if fit is None else (fit[0], fit[1]))


def success(sequence: int, radiograph: Radiograph, context: StudyContext) -> bytes:
    """The packet that says: the pixels lie in the shared memory, these are the facts."""
    packet = _packet(
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
    return failure(
        sequence,
        StudyImageRefused(
            "The header's texts are larger than any header's should be.", code=ErrorCode.CORRUPT
        ),
    )


def failure(sequence: int, error: Exception) -> bytes:
    """The packet that says why there are no pixels. An unforeseen error keeps its text back."""
    if not isinstance(error, HilumError):
        error = DecoderFailed(f"The decoder raised {_where(error)}.")
    said = {
        "kind": type(error).__name__,
        "code": error.code,
        "message": error.message[:1000],
        "hint": error.hint[:1000],
    }
    return _packet({"sequence": sequence, "error": said})


def _where(error: Exception) -> str:
    # The text may quote the header; the place cannot.
    trace = error.__traceback__
    if trace is None:
        return type(error).__name__
    while trace.tb_next is not None:
        trace = trace.tb_next
    name = PurePath(trace.tb_frame.f_code.co_filename).name
    return f"{type(error).__name__} at {name}:{trace.tb_lineno}"


def _packet(values: Mapping[str, Any]) -> bytes:
    # Lone surrogates, which a header may hold, are no UTF-8: they become question marks.
    return json.dumps(values, ensure_ascii=False, default=_plain).encode("utf-8", "replace")


def _plain(value: object) -> object:
    if isinstance(value, date):
        return value.isoformat()
    if hasattr(value, "item"):  # A number of numpy's.
        return value.item()
    raise TypeError(f"{type(value).__name__} is not plain")
