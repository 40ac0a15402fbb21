"""Engines that misbehave in their own process, as a runtime on the wrong processor might.

A `ProbeJob` names `open_engine` of this module as its opener. The variant's name is the command.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from edge_agent.engines.base import Engine, Pixels
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.runtimes.factory import open_engine as open_real
from edge_agent.errors import EngineFailed
from hilum.manifest import EngineVariant
from tests.support.engines import bundles
from tests.support.engines.fake_engine import FakeEngine

PATH = "tests.support.engines.hostile:open_engine"


def open_engine(bundle: Bundle, variant: EngineVariant, **options: Any) -> Engine:
    """Open a real engine, unless the variant's name is a command to misbehave."""
    command = variant.name.removeprefix("openvino-")
    if command == "blind":
        return FakeEngine(bundles.SIZE, bundles.SIZE, name=variant.name)
    if act := _ON_OPENING.get(command):
        act()
    engine = open_real(bundle, variant, **options)
    if command == "reports":
        _report(bundle)
    if act := _AFTER_GOLDEN_CASES.get(command):
        return _LateFailure(engine, act)
    return engine


def _raise(error: Exception) -> None:
    raise error


def _eat_memory() -> None:
    """Fill 1 GiB and keep it until the process is killed."""
    eaten = [b"x" * (16 << 20) for _ in range(64)]
    signal.pause()
    del eaten


_ON_OPENING: Final[dict[str, Callable[[], object]]] = {
    "illegal": lambda: os.kill(os.getpid(), signal.SIGILL),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exits": lambda: os._exit(7),
    "hangs": signal.pause,
    "refuses": lambda: _raise(EngineFailed("an unknown instruction set")),
    "breaks": lambda: _raise(LookupError("a library's own words")),
    "eats": _eat_memory,
}
_AFTER_GOLDEN_CASES: Final[dict[str, Callable[[], object]]] = {
    "hangs-later": signal.pause,
    "crashes-later": os.abort,
    "eats-later": _eat_memory,
    "fails-later": lambda: _raise(EngineFailed("an error of the runtime")),
}


def read_report(bundle: Bundle) -> dict[str, Any]:
    """Return the report of a process that opened the variant `reports`."""
    report: dict[str, Any] = json.loads(_report_path(bundle).read_text(encoding="ascii"))
    return report


def _report(bundle: Bundle) -> None:
    """Write the process's niceness, and how soon the kernel kills it without memory."""
    report = {
        "niceness": os.nice(0),
        "oom_score_adj": int(Path("/proc/self/oom_score_adj").read_text(encoding="ascii")),
    }
    _report_path(bundle).write_text(json.dumps(report), encoding="ascii")


def _report_path(bundle: Bundle) -> Path:
    return bundle.path.with_suffix(".json")


class _LateFailure:
    """An engine that misbehaves only after its golden cases have passed."""

    max_batch = 1
    compute_device = "nowhere"

    def __init__(self, engine: Engine, act: Any) -> None:
        self.name = engine.name
        self._engine = engine
        self._act = act
        self._calls = 0

    def infer(self, batch: Pixels) -> Any:
        self._calls += 1
        if self._calls > 2:
            self._act()
            time.sleep(60)
        return self._engine.infer(batch)

    def close(self) -> None:
        self._engine.close()
