"""The demo, `python -m edge_agent.cli.demo`, as `make demo` runs it."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import cv2
import grpc
import pytest
from google.protobuf.json_format import ParseDict

from edge_agent.cli.overlay import COLOURS
from hilum.v1 import detection_pb2 as pb
from hilum.v1 import detection_pb2_grpc
from tests.conftest import pydicom_file

pytestmark = pytest.mark.slow

DEMO = [sys.executable, "-m", "edge_agent.cli.demo"]
ROWS, COLUMNS = 1955, 1841


def demo_once(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DEMO, "--once"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "200"} | environment,
    )


def address_in(text: str) -> str:
    """Return the agent's address in the demo's output."""
    return next(word for word in text.split() if word.startswith("127.0.0.1:"))


def is_port_free(address: str) -> bool:
    host, port = address.split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) != 0


def test_once_shows_findings_writes_them_and_ends_with_0(tmp_path: Path) -> None:
    completed = demo_once(tmp_path)
    assert completed.returncode == 0, completed.stderr
    assert "SERVING" in completed.stdout
    assert f"{COLUMNS} x {ROWS} px, dicom, view PA" in completed.stdout
    assert "Research use only" in completed.stdout
    assert "out/demo/overlay.png" in completed.stdout
    assert "Traceback" not in completed.stderr

    result = json.loads((tmp_path / "out/demo/result.json").read_text())
    response = ParseDict(result, pb.DetectResponse())
    assert (response.image.rows, response.image.columns) == (ROWS, COLUMNS)
    assert response.findings, "the demo must show some of the masses"
    for finding in response.findings:
        assert finding.name in completed.stdout
        assert 0 <= finding.box.x_min < finding.box.x_max <= COLUMNS
        assert 0 <= finding.box.y_min < finding.box.y_max <= ROWS

    overlay = cv2.imread(str(tmp_path / "out/demo/overlay.png"))
    assert overlay.shape[1] == COLUMNS
    assert overlay.shape[0] > ROWS
    for finding in response.findings:
        assert (overlay == COLOURS[finding.index]).all(axis=2).any()
    assert is_port_free(address_in(completed.stdout))


def test_the_agent_stays_up_until_ctrl_c(tmp_path: Path) -> None:
    with subprocess.Popen(
        DEMO, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "200"}
    ) as demo:
        assert demo.stdout
        output = ""
        while "detect --help" not in output:
            line = demo.stdout.readline()
            assert line, "the demo ended early"
            output += line
        assert "Ctrl-C" in output
        program = next(line for line in output.splitlines() if "hilum.client" in line)
        program_run = subprocess.run(
            shlex.split(program), capture_output=True, text=True, check=True
        )
        assert "Finding(" in program_run.stdout
        page = next(word for word in output.split() if word.startswith("http://"))
        with urlopen(page) as answer:  # noqa: S310  # the demo's own agent
            assert b"<html" in answer.read()
        address = address_in(output)
        with grpc.insecure_channel(address) as channel:
            image = pydicom_file("RG1_UNCI.dcm").read_bytes()
            response = detection_pb2_grpc.DetectorStub(channel).Detect(
                pb.DetectRequest(image=image)
            )
        first = json.loads((tmp_path / "out/demo/result.json").read_text())
        assert list(response.findings) == list(ParseDict(first, pb.DetectResponse()).findings)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == 0
    assert is_port_free(address)


def test_where_the_usual_port_is_taken_another_is_used(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        # If another process has the port already, the test is the same.
        with contextlib.suppress(OSError):
            stack.enter_context(socket.create_server(("127.0.0.1", 50051)))
        completed = demo_once(tmp_path)
    assert completed.returncode == 0, completed.stderr
    assert "Port 50051 is in use" in completed.stdout
    assert address_in(completed.stdout.partition("50051 is in use")[2]) != "127.0.0.1:50051"


def test_an_agent_that_cannot_serve_is_no_success(tmp_path: Path) -> None:
    completed = demo_once(tmp_path, HILUM_EDGE__BUNDLE="/nowhere/a.bundle")
    assert completed.returncode == 1
    assert "bundle_invalid" in completed.stderr
    assert "The agent ended with status 1" in completed.stderr
    assert "Traceback" not in completed.stderr
    assert not list(tmp_path.rglob("result.json"))
    assert not list(tmp_path.rglob("overlay.png"))


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    completed = demo_once(tmp_path)
    assert completed.returncode == 1
    assert "out/demo cannot be written" in completed.stderr
    assert "Traceback" not in completed.stderr
