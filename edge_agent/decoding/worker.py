"""The decode worker: turns hostile bytes into pixels, one image after the other."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

from edge_agent.core.radiograph import Radiograph
from edge_agent.core.study_context import StudyContext
from edge_agent.decoding import sandbox
from edge_agent.decoding.protocol import (
    MAX_MESSAGE_BYTES,
    READY,
    DecodeRequest,
    encode_failure,
    encode_success,
)
from edge_agent.decoding.shared_memory import SharedImageBuffer
from edge_agent.errors import DecoderFailed
from edge_agent.imaging import Limits

Reader = Callable[..., tuple[Radiograph, StudyContext]]
"""A function like `edge_agent.imaging.read_study`: `(data, limits=..., fit=...)`."""
_WARM_UP_FIT: Final = (320, 320)


def warm_up(reader: Reader, sample: bytes) -> None:
    """Read a sample image, with default limits: the agent's may be too small for the sample."""
    reader(sample, limits=Limits(), fit=_WARM_UP_FIT)


class DecodeWorker:
    """Serves decode requests; one per process."""

    def __init__(self, reader: Reader, limits: Limits, memory: SharedImageBuffer) -> None:
        self._reader = reader
        self._limits = limits
        self._memory = memory

    def run(self, agent: socket.socket, sample: bytes, memory_bytes: int) -> None:
        """Warm up, report readiness, then serve until the agent closes its end.

        Args:
            agent: the channel, SOCK_SEQPACKET.
            sample: an image to warm up with.
            memory_bytes: address space allowed beyond that of the warm process.
        """
        sandbox.drop_privileges()
        warm_up(self._reader, sample)
        sandbox.limit_memory(memory_bytes)
        agent.send(READY)
        while packet := agent.recv(MAX_MESSAGE_BYTES):
            agent.send(self._handle(DecodeRequest.from_bytes(packet)))

    def _handle(self, request: DecodeRequest) -> bytes:
        try:
            image = self._memory.view_image(request.size_bytes)
            radiograph, context = self._reader(image, limits=self._limits, fit=request.fit)
            self._memory.write_pixels(radiograph.pixels)
            return encode_success(request.sequence, radiograph, context)
        except MemoryError:
            return encode_failure(
                request.sequence,
                DecoderFailed("Decoding this image needs more memory than is allowed."),
            )
        except Exception as error:  # noqa: BLE001  # a decoder's bug is this image's response
            return encode_failure(request.sequence, error)
