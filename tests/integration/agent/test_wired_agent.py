"""The whole agent: both transports, decode workers, audit log, access control, log lines."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from edge_agent.app.agent import Agent
from edge_agent.audit.database import DATABASE
from edge_agent.audit.verify import verify
from edge_agent.errors import ConfigInvalid
from hilum.client import Client, DetectError, Result, Tls
from hilum.v1 import detection_pb2 as pb
from tests.conftest import pydicom_file
from tests.support.agents.audit_logs import read_lines
from tests.support.agents.certificates import Authority
from tests.support.agents.tagged import (
    SIDE,
    LatchedPipeline,
    agent_process,
    eventually,
    fake_pipeline,
    hilum_error,
    open_channel,
    open_detector,
    serving_line,
    settings,
    tag_of,
    tagged_png,
    write_toy_bundle,
)
from tests.support.engines.fake_engine import FakeEngine

pytestmark = pytest.mark.slow

HTTP = {"enabled": True, "port": 0}


def hilum_edge(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_agent.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("toy") / "toy.bundle")


@pytest.fixture(scope="module")
def log_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit") / "log"


@pytest.fixture(scope="module")
def process(toy: Path, log_folder: Path) -> Iterator[subprocess.Popen[str]]:
    audit = {"HILUM_EDGE__AUDIT__FOLDER": str(log_folder)}
    with agent_process("--port", "0", "--bundle", str(toy), environment=audit) as process:
        yield process


@pytest.fixture(scope="module")
def serving(process: subprocess.Popen[str]) -> dict[str, str]:
    return serving_line(process)


@pytest.fixture(scope="module")
def http(serving: dict[str, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=serving["page"], timeout=60) as client:
        yield client


def score_of(outcome: Result | DetectError) -> int:
    """Return the score in 255ths: the toy model's is the brightest pixel, which is the tag."""
    assert isinstance(outcome, Result), outcome
    return round(outcome.findings[0].score * 255)


def metric(http: httpx.Client, name: str) -> float:
    (line,) = re.findall(rf"^{re.escape(name)} (\S+)$", http.get("/metrics").text, re.MULTILINE)
    return float(line)


def test_both_transports_return_the_same_result(
    serving: dict[str, str], http: httpx.Client
) -> None:
    image = pydicom_file("RG1_UNCI.dcm").read_bytes()
    with Client(serving["address"]) as client:
        over_grpc = client.detect(image)
    over_http = http.post("/predict", files={"file": ("rg1.dcm", image)}).json()
    assert [it["confidence"] for it in over_http["predictions"]] == pytest.approx(
        [it.score for it in over_grpc.findings], abs=1e-6
    )
    assert over_http["bundle_digest"] == over_grpc.bundle_digest
    assert over_http["image"]["rows"] == over_grpc.image.rows == 1955


def test_the_page_readiness_and_metrics_are_served(http: httpx.Client) -> None:
    assert "<html" in http.get("/").text
    assert http.get("/readyz").json() == {"status": "ready"}
    assert metric(http, "hilum_ready") == 1
    assert metric(http, "hilum_decode_workers") == 2
    picture = http.post("/render", files={"file": ("a.png", tagged_png(200))})
    assert picture.headers["content-type"] == "image/png"


def descendants(pid: int) -> list[int]:
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            found += [child, *descendants(child)]
    return found


def test_a_killed_decoder_fails_at_most_its_own_image(
    process: subprocess.Popen[str], serving: dict[str, str], http: httpx.Client
) -> None:
    lost = 0
    with Client(serving["address"]) as client:
        for turn in range(4):
            images = {tag: tagged_png(tag) for tag in range(150 + 10 * turn, 160 + 10 * turn)}
            for number, (tag, outcome) in enumerate(client.detect_many(images.items())):
                if number == 3:
                    for pid in descendants(process.pid):
                        os.kill(pid, signal.SIGKILL)
                if isinstance(outcome, DetectError):
                    assert outcome.code == "decoder_failed"
                    lost += 1
                else:
                    assert score_of(outcome) == tag
        assert score_of(client.detect(tagged_png(201))) == 201
    assert lost <= 4 * 2, "more than were being decoded"
    assert metric(http, "hilum_decode_worker_restarts_total") >= 4
    assert process.poll() is None


def test_on_sighup_the_golden_cases_are_run_again(
    process: subprocess.Popen[str], http: httpx.Client
) -> None:
    process.send_signal(signal.SIGHUP)
    assert process.stderr
    line = next(line for line in process.stderr if "golden cases run" in line)
    assert "passed=True" in line
    assert http.get("/readyz").status_code == 200


def test_stop_ends_all_processes_and_completes_the_audit_log(
    process: subprocess.Popen[str], serving: dict[str, str], log_folder: Path, http: httpx.Client
) -> None:
    requests = 5
    for tag in range(requests):
        files = {"file": ("a.png", tagged_png(200 + tag))}
        assert http.post("/predict", files=files).status_code == 200
    children = descendants(process.pid)
    assert len(children) >= 3, "the zygote and its workers"
    process.terminate()
    assert process.wait(60) == 0
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert verify(log_folder).is_intact
    checked = hilum_edge("audit", "verify", "--folder", log_folder)
    assert (checked.returncode, checked.stdout[:7]) == (0, "Intact:")
    assert b"".join(read_lines(log_folder)).count(b'"action":"detect"') >= requests
    log = log_folder / DATABASE
    log.write_bytes(log.read_bytes().replace(b'"loopback"', b'"unknown0"', 1))
    checked = hilum_edge("audit", "verify", "--folder", log_folder)
    assert (checked.returncode, checked.stdout[:6]) == (1, "BROKEN")


def test_with_tls_and_keys_only_callers_with_a_role_are_admitted(toy: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server = authority.server()
    keys = tmp_path / "keys.json"
    key_by_role = {
        role: hilum_edge("keys", "add", "--role", role, "--file", keys).stdout.strip()
        for role in ("viewer", "clinic")
    }
    variables = {
        "HILUM_EDGE__TLS__CERTIFICATE": str(server.certificate),
        "HILUM_EDGE__TLS__KEY": str(server.key),
        "HILUM_EDGE__ACCESS__KEYS": str(keys),
        "HILUM_EDGE__GRPC__HOST": "0.0.0.0",  # noqa: S104  # TLS and roles allow it
        "HILUM_EDGE__AUDIT__FOLDER": str(tmp_path / "log"),
    }
    image = tmp_path / "a.png"
    image.write_bytes(tagged_png(200))
    with agent_process("--port", "0", "--bundle", str(toy), environment=variables) as process:
        serving = serving_line(process)
        address = "localhost:" + serving["address"].rpartition(":")[2]
        tls = Tls(authority.certificate)
        for key, code in ((None, "unauthenticated"), (key_by_role["viewer"], "forbidden")):
            with Client(address, tls=tls, api_key=key) as client:
                with pytest.raises(DetectError) as caught:
                    client.detect(image)
                assert caught.value.code == code
        key_file = tmp_path / "clinic.key"
        key_file.write_text(key_by_role["clinic"])
        options = ("--server", address, "--ca", authority.certificate)
        completed = hilum_edge("detect", image, *options, "--api-key-file", key_file, "--json")
        assert completed.returncode == 0, completed.stderr
        assert '"slug": "nodule_mass"' in completed.stdout
        assert "unauthenticated" in hilum_edge("detect", image, *options).stderr
        assert serving["page"].startswith("https://")
        trusted = ssl.create_default_context(cafile=authority.certificate)
        with httpx.Client(base_url=serving["page"], verify=trusted, timeout=60) as http:
            files = {"file": ("a.png", image.read_bytes())}
            assert http.post("/predict", files=files).status_code == 401
            bearer = {"Authorization": f"Bearer {key_by_role['clinic']}"}
            assert http.post("/predict", files=files, headers=bearer).status_code == 200
            # A key that is removed from the file is refused at once.
            listed = hilum_edge("keys", "list", "--file", keys).stdout
            assert "clinic" in listed
            assert key_by_role["clinic"] not in listed
            key_id = key_by_role["clinic"].split("_")[1]
            assert hilum_edge("keys", "remove", key_id, "--file", keys).returncode == 0
            assert http.post("/predict", files=files, headers=bearer).status_code == 401
        process.terminate()
        assert process.wait(60) == 0
    assert verify(tmp_path / "log").is_intact
    entries = b"".join(read_lines(tmp_path / "log")).decode()
    for outcome in ("no_credential", "role_too_low", "unknown_credential", f"key:{key_id}"):
        assert f'"{outcome}"' in entries


async def test_a_client_certificate_is_accepted_where_the_rules_name_it(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server = authority.server()
    rules = tmp_path / "rules.toml"
    rules.write_text('[[certificate]]\nsubject = "CN=pacs"\nrole = "clinic"\n')
    files = {"certificate": server.certificate, "key": server.key}
    agent_settings = settings(
        tls=files | {"client_ca": authority.certificate}, access={"certificate_rules": rules}
    )
    agent = Agent(agent_settings, fake_pipeline)
    await agent.start()
    await agent.load()
    try:
        for name, admitted in (("pacs", True), ("stranger", False)):
            issued = authority.client(f"CN={name}")
            tls = Tls(authority.certificate, issued.certificate, issued.key)
            outcome = await asyncio.to_thread(_ask, f"localhost:{agent.port}", tls)
            assert isinstance(outcome, Result) == admitted, outcome
    finally:
        assert await agent.stop()


async def test_rules_for_certificates_do_not_leave_http_open(tmp_path: Path) -> None:
    """HTTP identifies callers by key alone: without keys, any local program could use it."""
    authority = Authority(tmp_path)
    server = authority.server()
    rules = tmp_path / "rules.toml"
    rules.write_text('[[certificate]]\nsubject = "CN=pacs"\nrole = "clinic"\n')
    agent_settings = settings(
        tls={
            "certificate": server.certificate,
            "key": server.key,
            "client_ca": authority.certificate,
        },
        access={"certificate_rules": rules},
        http=HTTP,
    )
    with pytest.raises(ConfigInvalid, match="HTTP identifies callers by API key alone"):
        await Agent(agent_settings, fake_pipeline).start()


def _ask(address: str, tls: Tls) -> Result | DetectError:
    with Client(address, tls=tls) as client:
        try:
            return client.detect(tagged_png(200))
        except DetectError as error:
            return error


async def test_overload_has_a_retry_time_on_both_transports() -> None:
    latched = LatchedPipeline()
    agent = Agent(settings(limits={"queue_size": 1}, http=HTTP), latched)
    await agent.start()
    await agent.load()
    try:
        async with open_detector(agent) as detector, httpx.AsyncClient(base_url=agent.page) as http:
            first = detector.Detect(pb.DetectRequest(image=tagged_png(150)))
            await latched.latch.wait_for_arrival(150)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await detector.Detect(pb.DetectRequest(image=tagged_png(151)))
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert hilum_error(caught.value).code == "overloaded"
            metadata = dict(caught.value.trailing_metadata() or ())
            assert int(metadata["hilum-retry-after-ms"]) > 0
            refused = await http.post("/predict", files={"file": ("a", tagged_png(151))})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
            assert int(refused.headers["retry-after"]) > 0
            latched.latch.release(150)
            assert tag_of(await first) == 150
    finally:
        assert await agent.stop()


async def test_a_batch_alone_does_not_overload_a_short_queue() -> None:
    agent = Agent(settings(limits={"queue_size": 1}, http=HTTP), fake_pipeline)
    await agent.start()
    await agent.load()
    try:
        async with httpx.AsyncClient(base_url=agent.page, timeout=60) as http:
            files = [("files", ("image", tagged_png(tag))) for tag in range(150, 158)]
            batch = await http.post("/predict/batch", files=files)
    finally:
        assert await agent.stop()
    assert [item["status"] for item in batch.json()["results"]] == [200] * 8


async def test_an_agent_that_fails_its_self_test_does_not_serve_and_gives_the_reason() -> None:
    problem = ["openvino-int8 does not answer the bundle's golden cases as recorded."]

    def load(settings: Any, decoder: Any) -> Any:
        engine = FakeEngine(SIDE, SIDE)
        return fake_pipeline(settings, decoder, engine, find_problem=lambda: problem[0])

    agent = Agent(settings(http=HTTP), load)
    await agent.start()
    await agent.load()
    image = pb.DetectRequest(image=tagged_png(200))
    try:
        async with (
            open_detector(agent) as detector,
            open_channel(agent) as channel,
            httpx.AsyncClient(base_url=agent.page) as http,
        ):
            health = health_pb2_grpc.HealthStub(channel)

            async def status() -> int:
                return (await health.Check(health_pb2.HealthCheckRequest())).status

            assert await status() == health_pb2.HealthCheckResponse.NOT_SERVING
            not_ready = await http.get("/readyz")
            assert not_ready.status_code == 503
            assert "golden cases" in not_ready.json()["error"]["message"]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await detector.Detect(image)
            assert "golden cases" in (caught.value.details() or "")
            assert (await http.get("/model")).status_code == 503

            problem[0] = ""
            await agent.recheck()
            assert await status() == health_pb2.HealthCheckResponse.SERVING
            assert (await http.get("/readyz")).status_code == 200
            assert tag_of(await detector.Detect(image)) == 200

            problem[0] = "It does not any more."
            await agent.recheck()
            assert await status() == health_pb2.HealthCheckResponse.NOT_SERVING
    finally:
        assert await agent.stop()


async def test_a_call_that_its_caller_cancels_is_logged(tmp_path: Path) -> None:
    latched = LatchedPipeline()
    agent_settings = settings(http=HTTP, audit={"enabled": True, "folder": tmp_path / "log"})
    agent = Agent(agent_settings, latched)
    await agent.start()
    await agent.load()
    async with open_detector(agent) as detector, httpx.AsyncClient(base_url=agent.page) as http:
        first = detector.Detect(pb.DetectRequest(image=tagged_png(149)))
        await latched.latch.wait_for_arrival(149)
        # These two wait behind it; their places are free once the agent has seen the cancellation.
        call = detector.Detect(pb.DetectRequest(image=tagged_png(150)))
        posted = asyncio.ensure_future(
            http.post("/predict", files={"file": ("a", tagged_png(151))})
        )
        await eventually(lambda: latched.in_flight == 3)
        call.cancel()
        posted.cancel()
        await eventually(lambda: latched.in_flight == 1)
        latched.latch.release(149)
        assert tag_of(await first) == 149
        await asyncio.wait([posted])
    assert await agent.stop()
    entries = b"".join(read_lines(tmp_path / "log")).decode()
    assert entries.count('"action":"detect","outcome":"deadline_exceeded"') == 2
