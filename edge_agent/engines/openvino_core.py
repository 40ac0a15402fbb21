"""OpenVINO's core, made so that it leaves the caller's signal handling alone.

On processors with AMX the CPU plugin gives the thread that loads it an alternate signal stack, and
frees it when the plugin goes. Two plugins that do not go in the opposite order of their coming
leave the thread with a freed one (seen in 2026.4). Python runs its signal handlers there, so that a
SIGTERM overwrites whatever lies at that place by then. A thread that has ended handles no signals.
"""

from __future__ import annotations

from threading import Thread
from typing import Final

import openvino as ov

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
