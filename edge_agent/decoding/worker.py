"""What one decode worker does: hostile bytes to pixels, one image after the other."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

from edge_agent.core.radiograph import Radiograph
from edge_agent.core.study_context import StudyContext
from edge_agent.decoding import sandbox
from edge_agent.decoding.protocol import MAX_MESSAGE_BYTES, READY, DecodeRequest, failure, success
from edge_agent.decoding.shared_memory import SharedImageBuffer
from edge_agent.errors import DecoderFailed
from edge_agent.imaging import Limits

Reader = Callable[..., tuple[Radiograph, StudyContext]]
"""Called as `edge_agent.imaging.read_study` is: `(data, limits=..., fit=...)`."""
_WARM_UP_FIT: Final = (320, 320)


def warm_up(reader: Reader, sample: bytes) -> None:
    """Read our own sample, whatever little the agent's limits let callers send."""
    reader(sample, limits=Limits(), fit=_WARM_UP_FIT)


class DecodeWorker:
    """Reads and answers; one of it per process."""

    def __init__(self, reader: Reader, limits: Limits, memory: SharedImageBuffer) -> None:
        self._reader = reader
        self._limits = limits
        self._memory = memory

    def run(self, agent: socket.socket, sample: bytes, memory_bytes: int) -> None:
        """Warm up, say so, then answer until the agent closes its end."""
        sandbox.give_up_privileges()
        warm_up(self._reader, sample)
        sandbox.limit_memory(memory_bytes)
        agent.send(READY)
        while packet := agent.recv(MAX_MESSAGE_BYTES):
            agent.send(self._answer(DecodeRequest.from_bytes(packet)))

    def _answer(self, request: DecodeRequest) -> bytes:
        try:
            image = self._memory.image(request.size_bytes)
            radiograph, context = self._reader(image, limits=self._limits, fit=request.fit)
            self._memory.put_pixels(radiograph.pixels)
            return success(request.sequence, radiograph, context)
        except MemoryError:
            return failure(
                request.sequence,
                DecoderFailed("Decoding this image needs more memory than is allowed."),
            )
        except Exception as error:  # noqa: BLE001  # whatever a decoder raises is this image's answer
            return failure(request.sequence, error)
