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

pytestmark = pytest.mark.slow


@pytest.mark.slow
def test_the_report_holds_the_measurements(tmp_path: Path) -> None:
    toy = write_toy_bundle(tmp_path / "toy.bundle")
    command = [sys.executable, "-m", "edge_agent.cli.main", "bench", "--bundle", str(toy)]
    report = tmp_path / "box.json"
    result = subprocess.run(
        [*command, "--output", str(report)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ
        | {"XDG_CACHE_HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}
        | {"HILUM_EDGE__AUDIT__FOLDER": str(tmp_path / "audit")},
    )
    assert result.returncode == 0, result.stderr
    measured = json.loads(report.read_text())
    assert measured["bundle"].startswith("toy-0.0.1 ")
    assert measured["engines"][0]["name"] == measured["engine"] == "openvino-fp32"
    assert 0 < measured["decode_ms"] < measured["round_trip_ms"]
    assert measured["images_per_s"] > 0
    assert measured["memory_idle_mb"] > 50
    for name in ("hilum", "audit"):
        assert not (tmp_path / name).exists(), "the serving agent's folders are not used"


def test_nothing_of_the_serving_agent_is_used(tmp_path: Path) -> None:
    serving_folder = tmp_path / "serving_folder"
    serving = Settings(
        bundle=serving_folder / "a.bundle",
        cache_dir=serving_folder / "cache",
        state_dir=serving_folder / "state",
        grpc=GrpcSettings(host="0.0.0.0", port=50051, stream_concurrency=3),  # noqa: S104
        http=HttpSettings(host="0.0.0.0", port=8080),  # noqa: S104
        tls=TlsSettings(certificate=serving_folder / "a.pem", key=serving_folder / "a.key"),
        access=AccessSettings(keys=serving_folder / "keys.json"),
        audit=AuditSettings(folder=serving_folder / "audit"),
        decode=DecodeSettings(workers=3),
    )
    isolated = isolate_settings(serving, tmp_path / "isolated")
    assert (isolated.bundle, isolated.decode) == (serving.bundle, serving.decode)
    assert isolated.grpc.stream_concurrency == 3
    assert isolated.audit.enabled
    rest = isolated.model_copy(update={"bundle": None}).model_dump_json()
    assert str(serving_folder) not in rest
    assert isolated.audit_dir == tmp_path / "isolated" / "state" / "audit"
    assert (isolated.grpc.host, isolated.grpc.port, isolated.http.host, isolated.http.port) == (
        *("127.0.0.1", 0),
        *("127.0.0.1", 0),
    )


def test_the_synthetic_radiograph_is_accepted(tmp_path: Path) -> None:
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
