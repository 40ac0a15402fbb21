"""The libraries that we compute with report to nobody: no socket, no child, nothing in the home.

Native code opens sockets where Python cannot see it; what it leaves in the home (an identifier, a
queue of events to send) tells on it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WATCH = """
import json, sys

seen = []

def watch(event, arguments):
    if event in {"os.fork", "os.forkpty", "os.posix_spawn", "subprocess.Popen"} or (
        event.startswith("socket.") and event != "socket.__new__"
    ):
        seen.append(event + " " + repr(arguments)[-200:])

sys.addaudithook(watch)
"""
AGENT = """
import numpy as np
from edge_agent.engines.bundle import Bundle, starter_bundle_path
from edge_agent.engines.runtimes import open_engine

bundle = Bundle.open(starter_bundle_path())
for name in ("openvino-int8", "onnxruntime-fp32"):
    engine = open_engine(bundle, bundle.variant(name), threads=1)
    engine.infer(np.zeros((1, 1, bundle.manifest.input.height, bundle.manifest.input.width), "u1"))
"""
TRAINING = """
import io
import numpy as np
from edge_agent.engines.bundle import Bundle, starter_bundle_path
from training.export import to_openvino
from training.export.int8_graph import fuse_swish

fuse_swish(to_openvino(Bundle.open(starter_bundle_path()).read("model.onnx")))
"""
REPORT = """
assert "openvino" in sys.modules
print(json.dumps(seen))
"""


def seen_in(script: str, home: Path) -> list[str]:
    """Sockets and children of a Python process that runs `script` as on a customer's machine."""
    environment = {key: value for key, value in os.environ.items() if key != "CI"}
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", WATCH + script + REPORT],
        env=environment | {"HOME": str(home), "PYTHONPATH": f"{root}:{root}/proto"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen: list[str] = json.loads(done.stdout.splitlines()[-1])
    return seen


def test_the_agents_engines(tmp_path: Path) -> None:
    assert seen_in(AGENT, tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.training
def test_export_and_quantisation(tmp_path: Path) -> None:
    network = [
        event for event in seen_in(TRAINING, tmp_path) if not event.startswith("subprocess.Popen")
    ]
    assert network == []
    assert not (tmp_path / "intel").exists()
