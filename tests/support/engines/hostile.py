"""Engines that misbehave in their own process, as a runtime on the wrong processor might.

A `ProbeJob` names `open_engine` of this module as its opener. The variant's name is the command.
"""

from __future__ import annotations

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
            Path(bundle.path.with_suffix(".nice")).write_text(str(os.nice(0)), encoding="ascii")
    return open_real(bundle, variant, **options)


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
