"""Engines that misbehave in their own process, as a runtime on the wrong processor might.

A `ProbeJob` names `open_engine` of this module as its opener. The variant's name is the command.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

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
    match variant.name.removeprefix("openvino-"):
        case "illegal":
            os.kill(os.getpid(), signal.SIGILL)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exits":
            os._exit(7)
        case "hangs":
            signal.pause()
        case "refuses":
            raise EngineFailed("an unknown instruction set")
        case "breaks":
            raise LookupError("a library's own words")
        case "blind":
            return FakeEngine(bundles.SIZE, bundles.SIZE, name=variant.name)
        case "hangs-later":
            return _LateFailure(open_real(bundle, variant, **options), signal.pause)
        case "crashes-later":
            return _LateFailure(open_real(bundle, variant, **options), os.abort)
        case "reports":
            engine = open_real(bundle, variant, **options)
            _report(bundle)
            return engine
        case "eats":
            _eat_memory()
    return open_real(bundle, variant, **options)


def read_report(bundle: Bundle) -> dict[str, Any]:
    """Return the report of a process that opened the variant `reports`."""
    report: dict[str, Any] = json.loads(_report_path(bundle).read_text(encoding="ascii"))
    return report


def _report(bundle: Bundle) -> None:
    """Write the process's niceness, and the scheduling policy of each of its threads."""
    threads = [int(thread.name) for thread in Path("/proc/self/task").iterdir()]
    report = {
        "niceness": os.nice(0),
        "policies": [os.sched_getscheduler(thread) for thread in threads],
        "oom_score_adj": int(Path("/proc/self/oom_score_adj").read_text(encoding="ascii")),
    }
    _report_path(bundle).write_text(json.dumps(report), encoding="ascii")


def _report_path(bundle: Bundle) -> Path:
    return bundle.path.with_suffix(".json")


def _eat_memory() -> None:
    """Fill 1 GiB and keep it until the process is killed."""
    eaten = [b"x" * (16 << 20) for _ in range(64)]
    signal.pause()
    del eaten


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
