"""`hilum-edge bench` measures a real agent over a toy bundle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.cli.benchmark import COLUMNS, ROWS, isolate_settings, make_dicom, measure_memory_mb
from edge_agent.config import (
    AccessSettings,
    AuditSettings,
    DecodeSettings,
    GrpcSettings,
    HttpSettings,
    Settings,
    TlsSettings,
)
from edge_agent.engines.bundle import Bundle
from edge_agent.imaging import read_study
from tests.support.agents.tagged import write_toy_bundle


@pytest.mark.slow
def test_the_report_tells_what_the_box_does(tmp_path: Path) -> None:
    toy = write_toy_bundle(tmp_path / "toy.bundle")
    command = [sys.executable, "-m", "edge_agent.cli.main", "bench", "--bundle", str(toy)]
    report = tmp_path / "box.json"
    ran = subprocess.run(
        [*command, "--output", str(report)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ
        | {"XDG_CACHE_HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}
        | {"HILUM_EDGE__AUDIT__FOLDER": str(tmp_path / "audit")},
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(report.read_text())
    assert found["bundle"].startswith("toy-0.0.1 ")
    assert found["engines"][0]["name"] == found["engine"] == "openvino-fp32"
    assert 0 < found["decode_ms"] < found["round_trip_ms"]
    assert found["images_per_s"] > 0
    assert found["memory_idle_mb"] > 50
    for name in ("hilum", "audit"):
        assert not (tmp_path / name).exists(), "it keeps its hands off the serving agent's folders"


def test_nothing_that_the_serving_agent_keeps_or_needs_is_used(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    serving = Settings(
        bundle=theirs / "a.bundle",
        cache_dir=theirs / "cache",
        state_dir=theirs / "state",
        grpc=GrpcSettings(host="0.0.0.0", port=50051, stream_concurrency=3),  # noqa: S104
        http=HttpSettings(host="0.0.0.0", port=8080),  # noqa: S104
        tls=TlsSettings(certificate=theirs / "a.pem", key=theirs / "a.key"),
        access=AccessSettings(keys=theirs / "keys.json"),
        audit=AuditSettings(folder=theirs / "audit"),
        decode=DecodeSettings(workers=3),
    )
    apart = isolate_settings(serving, tmp_path / "ours")
    assert (apart.bundle, apart.decode) == (serving.bundle, serving.decode)
    assert apart.grpc.stream_concurrency == 3
    assert apart.audit.enabled
    others = apart.model_copy(update={"bundle": None}).model_dump_json()
    assert str(theirs) not in others
    assert apart.audit_dir == tmp_path / "ours" / "state" / "audit"
    assert (apart.grpc.host, apart.grpc.port, apart.http.host, apart.http.port) == (
        *("127.0.0.1", 0),
        *("127.0.0.1", 0),
    )


def test_the_picture_is_one_that_the_agent_takes(tmp_path: Path) -> None:
    toy = Bundle.open(write_toy_bundle(tmp_path / "toy.bundle"))
    radiograph, context = read_study(make_dicom(toy))
    assert (radiograph.facts.rows, radiograph.facts.columns) == (ROWS, COLUMNS)
    assert radiograph.facts.view == "PA"
    assert radiograph.facts.bits_stored == 12
    assert not context.patient_name


def test_memory_counts_children_too() -> None:
    alone = measure_memory_mb()
    code = "held = b'x' * 60_000_000; print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout
        child.stdout.readline()
        assert measure_memory_mb() > alone + 50
        child.communicate("\n")
