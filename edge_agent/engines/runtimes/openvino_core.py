"""OpenVINO's core, made so that it leaves the caller's signal handling alone.

On processors with AMX the CPU plugin gives the thread that loads it an alternate signal stack, and
frees it when the plugin goes. Two plugins that do not go in the opposite order of their coming
leave the thread with a freed one (seen in 2026.4). Python runs its signal handlers there, so that a
SIGTERM overwrites whatever lies at that place by then. A thread that has ended handles no signals.
"""

from __future__ import annotations

from threading import Thread
from typing import Final

import numpy as np
import openvino as ov
from numpy.typing import NDArray

_CPU: Final = "CPU"


def new_core() -> ov.Core:
    """A core whose CPU plugin is loaded already, by a thread that has ended.

    Raises:
        Exception: whatever OpenVINO raises when it cannot start.
    """
    made: list[ov.Core | BaseException] = []

    def make() -> None:
        try:
            core = ov.Core()
            core.get_property(_CPU, "FULL_DEVICE_NAME")  # Loads the plugin.
            made.append(core)
        except BaseException as error:  # noqa: BLE001  # raised again where it is awaited
            made.append(error)

    thread = Thread(target=make, name="openvino-core")
    thread.start()
    thread.join()
    (core,) = made
    if isinstance(core, BaseException):
        raise core
    return core


def run_request(request: ov.InferRequest, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Run a model on a batch, in the runtime's own threads, and wait.

    Not by `request.infer`: that leaves something to be done at the end of the calling thread, after
    it was joined, and what is done then writes into the model, which may have been freed (OpenVINO
    2026.4.1 wrote four bytes; found with a guarded heap).

    Returns:
        The first output, in the request's own memory: it holds until the request's next use.
    """
    request.start_async({0: batch}, share_inputs=True)
    request.wait()
    output: NDArray[np.float32] = request.get_output_tensor(0).data
    return output
