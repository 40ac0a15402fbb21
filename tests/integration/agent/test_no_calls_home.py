"""The libraries that compute send no usage reports: no socket, no child process, no file at home.

Python's audit hook does not see the sockets of native code. So the home folder is checked, too: an
identifier or a queue of events would be written there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

WATCH = """
import json, sys

events = []

def watch(event, arguments):
    if event in {"os.fork", "os.forkpty", "os.posix_spawn", "subprocess.Popen"} or (
        event.startswith("socket.") and event != "socket.__new__"
    ):
        events.append(event + " " + repr(arguments)[-200:])

sys.addaudithook(watch)
"""
AGENT = """
import numpy as np
from edge_agent.engines.bundle import Bundle, starter_bundle_path
from edge_agent.engines.runtimes.factory import open_engine

bundle = Bundle.open(starter_bundle_path())
for name in ("openvino-int8", "onnxruntime-fp32"):
    engine = open_engine(bundle, bundle.variant(name), threads=1)
    engine.infer(np.zeros((1, 1, bundle.manifest.input.height, bundle.manifest.input.width), "u1"))
"""
TRAINING = """
import io
import numpy as np
from edge_agent.engines.bundle import Bundle, starter_bundle_path
from training.export.onnx import convert_to_openvino
from training.export.int8_graph import fuse_swish

fuse_swish(convert_to_openvino(Bundle.open(starter_bundle_path()).read("model.onnx")))
"""
REPORT = """
assert "openvino" in sys.modules
print(json.dumps(events))
"""


def run_watched(script: str, home: Path) -> list[str]:
    """Return the sockets and children of a Python process that runs `script` outside CI."""
    environment = {key: value for key, value in os.environ.items() if key != "CI"}
    root = str(Path(__file__).parents[3])
    completed = subprocess.run(
        [sys.executable, "-c", WATCH + script + REPORT],
        env=environment | {"HOME": str(home), "PYTHONPATH": f"{root}:{root}/proto"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    events: list[str] = json.loads(completed.stdout.splitlines()[-1])
    return events


def test_the_agents_engines_open_no_socket_and_write_nothing(tmp_path: Path) -> None:
    assert run_watched(AGENT, tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.training
def test_export_and_quantization_open_no_socket_and_keep_no_identifier(tmp_path: Path) -> None:
    network = [
        event
        for event in run_watched(TRAINING, tmp_path)
        if not event.startswith("subprocess.Popen")
    ]
    assert network == []
    assert not (tmp_path / "intel").exists()
