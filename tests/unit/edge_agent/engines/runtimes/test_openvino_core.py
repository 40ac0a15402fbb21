"""Creating and deleting a core leaves the calling thread unchanged."""

from __future__ import annotations

import threading

from edge_agent.engines.runtimes.openvino_core import new_core
from tests.support.system.signal_stack import SignalStack


def test_the_callers_signal_stack_is_unchanged_in_any_order_of_deletion() -> None:
    before = SignalStack.of_this_thread()
    first, second = new_core(), new_core()
    assert SignalStack.of_this_thread() == before
    del first
    assert SignalStack.of_this_thread() == before
    del second
    assert SignalStack.of_this_thread() == before


def test_a_core_has_the_processor_and_its_thread_has_ended() -> None:
    assert "CPU" in new_core().available_devices
    assert "openvino-core" not in {thread.name for thread in threading.enumerate()}
