"""Engine processes of tests at a normal priority.

A process at idle priority gets 0.3 % of a core that another process keeps busy, as other tests may.
"""

from __future__ import annotations

import pytest

from edge_agent.engines import shadow_process
from edge_agent.engines.engine_process import ProcessLimits
from edge_agent.engines.selection import in_service


def run_at_normal_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have probes in service and shadows not run at idle priority."""
    for module in (in_service, shadow_process):
        monkeypatch.setattr(module, "ProcessLimits", _make_limits)


def _make_limits(*, is_idle: bool, memory_bytes: int) -> ProcessLimits:
    assert is_idle
    return ProcessLimits(is_idle=False, memory_bytes=memory_bytes)
