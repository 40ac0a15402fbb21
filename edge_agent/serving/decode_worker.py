"""What one decode worker does: hostile bytes to pixels, one image after the other."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

from edge_agent.core.geometry import Letterbox
from edge_agent.core.radiograph import Radiograph
from edge_agent.core.study_context import StudyContext
from edge_agent.errors import DecoderFailed
from edge_agent.imaging import Limits
from edge_agent.imaging.letterbox import letterbox
from edge_agent.serving import containment
from edge_agent.serving.decode_messages import (
    MAX_MESSAGE_BYTES,
    READY,
    DecodeRequest,
    failure,
    success,
)
from edge_agent.serving.shared_pixels import Grey, SharedPixels

Reader = Callable[..., tuple[Radiograph, StudyContext]]
"""Called as `edge_agent.imaging.read_study` is: `(data, limits=..., fit=...)`."""
WARM_UP_FIT: Final = (320, 320)


class DecodeWorker:
    """Reads, letterboxes and answers; one of it per process."""

    def __init__(self, reader: Reader, limits: Limits, memory: SharedPixels) -> None:
        self._reader = reader
        self._limits = limits
        self._memory = memory

    def run(self, agent: socket.socket, sample: bytes, memory_bytes: int) -> None:
        """Warm up, say so, then answer until the agent closes its end."""
        containment.give_up_privileges()
        read_and_fit(self._reader, sample, self._limits, WARM_UP_FIT, 0)
        containment.limit_memory(memory_bytes)
        agent.send(READY)
        while packet := agent.recv(MAX_MESSAGE_BYTES):
            agent.send(self._answer(DecodeRequest.from_bytes(packet)))

    def _answer(self, request: DecodeRequest) -> bytes:
        try:
            radiograph, context, model_input = read_and_fit(
                self._reader,
                self._memory.image(request.size_bytes),
                self._limits,
                request.fit,
                request.pad_value,
            )
            pictures = (
                [radiograph.pixels] if model_input is None else [radiograph.pixels, model_input]
            )
            self._memory.put_pixels(*pictures)
            return success(
                request.sequence, radiograph, context, model_input=model_input is not None
            )
        except MemoryError:
            return failure(
                request.sequence,
                DecoderFailed("Decoding this image needs more memory than is allowed."),
            )
        except Exception as error:  # noqa: BLE001  # whatever a decoder raises is this image's answer
            return failure(request.sequence, error)


def read_and_fit(
    reader: Reader,
    data: bytes | memoryview,
    limits: Limits,
    fit: tuple[int, int] | None,
    pad_value: int,
) -> tuple[Radiograph, StudyContext, Grey | None]:
    """Read one study image and, where `fit` is given, letterbox it to that height and width."""
    radiograph, context = reader(data, limits=limits, fit=fit)
    if fit is None:
        return radiograph, context, None
    box = Letterbox.fit(radiograph.rows, radiograph.columns, *fit)
    return radiograph, context, letterbox(radiograph.pixels, box, pad_value)
