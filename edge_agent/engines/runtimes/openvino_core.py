"""Creates OpenVINO's core without a change to the caller's signal stack.

On processors with AMX the CPU plugin gives the thread that loads it an alternate signal stack, and
frees that stack when the plugin is unloaded. If two plugins are not unloaded in the reverse order
of their loading, the thread is left with a freed stack (seen in 2026.4). Python's signal handlers
run on it, so that a SIGTERM overwrites other memory. The plugin is therefore loaded in a thread
that then ends, because an ended thread handles no signals.
"""

from __future__ import annotations

from threading import Thread
from typing import Final

import numpy as np
import openvino as ov
from numpy.typing import NDArray

_CPU: Final = "CPU"


def new_core() -> ov.Core:
    """Return a core whose CPU plugin was loaded by a thread that has ended.

    Raises:
        Exception: OpenVINO's error, if it cannot start.
    """
    outcome: list[ov.Core | BaseException] = []

    def create() -> None:
        try:
            core = ov.Core()
            core.get_property(_CPU, "FULL_DEVICE_NAME")  # Loads the plugin.
            outcome.append(core)
        except BaseException as error:  # noqa: BLE001  # raised again where it is awaited
            outcome.append(error)

    thread = Thread(target=create, name="openvino-core")
    thread.start()
    thread.join()
    (core,) = outcome
    if isinstance(core, BaseException):
        raise core
    return core


def run_request(request: ov.InferRequest, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Run a model on a batch in the runtime's own threads and wait.

    `request.infer` is not used, because it leaves work for the end of the calling thread, after the
    thread was joined. That work writes into the model, which may have been freed (OpenVINO 2026.4.1
    wrote four bytes; found with a guarded heap).

    Args:
        request: the infer request to use.
        batch: u8, of the model's input shape.

    Returns:
        The first output, f32, in the request's own memory: valid until the request's next use.
    """
    request.start_async({0: batch}, share_inputs=True)
    request.wait()
    output: NDArray[np.float32] = request.get_output_tensor(0).data
    return output
