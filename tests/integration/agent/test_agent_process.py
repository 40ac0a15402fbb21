"""The agent as a process: signals, ports, settings and its log."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pydicom
import pytest

from hilum.v1 import detection_pb2 as pb
from hilum.v1 import detection_pb2_grpc
from tests.support.agents.tagged import (
    agent_process,
    serving_line,
    tagged_png,
    wait_serving,
    write_toy_bundle,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("toy") / "toy.bundle")


@pytest.fixture
def agent(toy: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    cache = {"HILUM_EDGE__CACHE_DIR": str(tmp_path / "cache")}
    with agent_process("--port", "0", "--bundle", str(toy), environment=cache) as process:
        yield process


def wait_for_end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Return the exit status and the rest of the log."""
    assert process.stderr
    log = process.stderr.read()
    return process.wait(30), log


def test_one_log_line_names_address_and_model(agent: subprocess.Popen[str]) -> None:
    line = serving_line(agent)
    assert line["address"].startswith("127.0.0.1:")
    assert line["bundle"] == "toy-0.0.1"
    assert len(line["digest"]) == 12
    assert line["engine"] == "openvino-fp32"
    assert line["compute_device"].startswith("CPU")
    with grpc.insecure_channel(line["address"]) as channel:
        wait_serving(channel)
        model = detection_pb2_grpc.DetectorStub(channel).GetModel(pb.GetModelRequest())
        assert model.bundle_digest.startswith(line["digest"])


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_on_a_stop_signal_it_answers_requests_in_flight_and_exits_with_0(
    agent: subprocess.Popen[str], rg1: bytes, signum: signal.Signals
) -> None:
    with grpc.insecure_channel(serving_line(agent)["address"]) as channel:
        detector = detection_pb2_grpc.DetectorStub(channel)
        answered = threading.Event()

        def requests() -> Iterator[pb.DetectRequest]:
            for number in range(4):
                yield pb.DetectRequest(request_id=str(number), image=rg1)
            assert answered.wait(30)  # The stream stays open: the agent is to end it.

        stream = detector.DetectStream(requests(), timeout=60)
        first = next(stream)
        agent.send_signal(signum)
        responses = {first.request_id: first}
        with pytest.raises(grpc.RpcError) as caught:
            responses |= {answer.request_id: answer for answer in stream}
        answered.set()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert all(answer.WhichOneof("outcome") == "response" for answer in responses.values())
    status, log = wait_for_end(agent)
    assert status == 0
    assert f"stopping signal={signum.name}" in log
    assert log.endswith("INFO stopped\n")


def test_a_second_signal_ends_the_agent_at_once(toy: Path) -> None:
    with agent_process("--port", "0", "--bundle", str(toy)) as agent:
        address = serving_line(agent)["address"]
        with grpc.insecure_channel(address) as channel:
            hold = threading.Event()

            def requests() -> Iterator[pb.DetectRequest]:
                yield pb.DetectRequest(request_id="1", image=tagged_png(200))
                hold.wait(30)

            stream = detection_pb2_grpc.DetectorStub(channel).DetectStream(requests())
            assert next(stream).request_id == "1"
            agent.send_signal(signal.SIGSTOP)  # Both signals are pending when it continues.
            agent.send_signal(signal.SIGTERM)
            agent.send_signal(signal.SIGINT)
            agent.send_signal(signal.SIGCONT)
            status = agent.wait(30)
            hold.set()
        assert status in {128 + signal.SIGTERM, 128 + signal.SIGINT}


def test_a_port_that_is_taken_is_reported(toy: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        with agent_process("--port", port, "--bundle", str(toy)) as agent:
            status, log = wait_for_end(agent)
    assert status == 2
    assert f"127.0.0.1:{port}" in log
    assert "the port is in use" in log
    assert "--port" in log
    assert "Traceback" not in log


def test_two_agents_do_not_share_a_port(agent: subprocess.Popen[str], toy: Path) -> None:
    port = serving_line(agent)["address"].rpartition(":")[2]
    with agent_process("--port", port, "--bundle", str(toy)) as second:
        status, log = wait_for_end(second)
    assert status == 2
    assert "the port is in use" in log


@pytest.mark.parametrize(
    ("environment", "status", "text"),
    [
        ({"HILUM_EDGE__GRPC__HOST": "0.0.0.0"}, 2, "Refusing to start open"),  # noqa: S104
        ({"HILUM_EDGE__ENGINE__VARIANT": "onnx-fp32"}, 2, "no engine 'onnx-fp32'"),
        ({"HILUM_EDGE__BUNDLE": "/nowhere/a.bundle"}, 1, "bundle_invalid"),
    ],
)
def test_the_reason_for_not_serving_is_reported(
    toy: Path, environment: dict[str, str], status: int, text: str
) -> None:
    variables = {"HILUM_EDGE__BUNDLE": str(toy)} | environment
    with agent_process("--port", "0", environment=variables) as agent:
        exit_status, log = wait_for_end(agent)
    assert exit_status == status
    assert text in log
    assert "Traceback" not in log


def test_the_log_contains_no_patient_data(agent: subprocess.Popen[str], rg1: bytes) -> None:
    """Neither from valid files, nor from damaged headers, nor from callers that disconnect."""
    dataset = pydicom.dcmread(pydicom.filebase.DicomBytesIO(rg1))
    address = serving_line(agent)["address"]
    with grpc.insecure_channel(address) as channel:
        detector = detection_pb2_grpc.DetectorStub(channel)
        broken = rg1.replace(b"CHEST", b"C\xff\xfeST")[:20000]
        for image in (rg1, broken, rg1[:4000], b"Doe^Jane" * 50):
            try:
                detector.Detect(pb.DetectRequest(request_id="Doe^Jane", image=image), timeout=30)
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.INVALID_ARGUMENT  # noqa: PT017
        for _ in range(20):
            detector.Detect.future(pb.DetectRequest(image=rg1)).cancel()
    agent.terminate()
    status, log = wait_for_end(agent)
    assert status == 0
    for secret in ("Doe^Jane", str(dataset.PatientID), str(dataset.StudyInstanceUID)):
        assert secret not in log
    assert all("INFO" in line for line in log.splitlines()), log


def test_serve_needs_no_torch(toy: Path) -> None:
    code = (
        "import sys; import edge_agent.cli.demo, edge_agent.cli.detect, edge_agent.cli.serve; "
        "print([m for m in ('torch', 'ultralytics', 'nncf') if m in sys.modules])"
    )
    completed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert completed.stdout.strip() == "[]"
