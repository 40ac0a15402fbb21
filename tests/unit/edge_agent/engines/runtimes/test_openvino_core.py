"""Cores come and go without a trace in the thread that asked for them."""

from __future__ import annotations

import threading

from edge_agent.engines.runtimes.openvino_core import new_core
from tests.support.system.signal_stack import SignalStack


def test_the_callers_signal_stack_stays_in_whatever_order_cores_go() -> None:
    before = SignalStack.of_this_thread()
    first, second = new_core(), new_core()
    assert SignalStack.of_this_thread() == before
    del first
    assert SignalStack.of_this_thread() == before
    del second
    assert SignalStack.of_this_thread() == before


def test_it_computes_on_the_processor_and_leaves_no_thread_of_ours() -> None:
    assert "CPU" in new_core().available_devices
    assert "openvino-core" not in {thread.name for thread in threading.enumerate()}
