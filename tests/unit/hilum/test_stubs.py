"""The committed protocol modules are those that protoc generates from the .proto files."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
from grpc_tools import protoc

PROTO = Path(__file__).parents[3] / "proto"
SOURCES = sorted(PROTO.glob("hilum/v1/*.proto"))


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stubs")
    well_known = files("grpc_tools") / "_proto"
    arguments = [
        "protoc",
        f"-I{PROTO}",
        f"-I{well_known}",
        *(f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")),
        *map(str, SOURCES),
    ]
    assert protoc.main(arguments) == 0
    return folder / "hilum" / "v1"


def test_the_detection_service_has_a_proto_file() -> None:
    assert "detection.proto" in {source.name for source in SOURCES}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
@pytest.mark.parametrize("ending", ["_pb2.py", "_pb2.pyi", "_pb2_grpc.py"])
def test_the_committed_module_is_the_generated_one(
    generated: Path, source: Path, ending: str
) -> None:
    committed = source.with_name(source.stem + ending)
    assert committed.read_bytes() == (generated / committed.name).read_bytes(), "run `make proto`"


def test_every_committed_module_has_a_source(generated: Path) -> None:
    committed = {path.name for path in SOURCES[0].parent.glob("*_pb2*")}
    assert committed == {path.name for path in generated.iterdir()}
