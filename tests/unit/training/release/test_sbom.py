"""The list of parts: complete, valid by the published schema, and the same each time."""

from __future__ import annotations

import json
from importlib.metadata import version

from training.config import ParityBounds, TrainConfig
from training.release.sbom import SbomInput, build_sbom
from training.train.dependencies import list_libraries
from training.train.run_manifest import RunManifest

RUN_MANIFEST = RunManifest(
    bounds=ParityBounds(),
    split="test",
    split_digest="2" * 64,
    git_revision="abc-dirty",
    python="3.11.2",
    libraries=list_libraries(),
)
MADE = SbomInput(
    name="chest",
    version="1.2.3",
    intended_use="Tests.",
    weights_sha256="1" * 64,
    data="240 painted radiographs",
    train=TrainConfig(weights="base/yolo11n.pt", weights_sha256="3" * 64),  # type: ignore[arg-type]
    run_manifest=RUN_MANIFEST,
)


def test_the_published_schema_takes_it() -> None:
    # Imported here: its schemas' formats take seconds.
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(build_sbom(MADE).decode())
    assert fault is None, fault


def test_it_names_libraries_base_weights_and_the_split() -> None:
    content = json.loads(build_sbom(MADE))
    by_ref = {part["bom-ref"]: part for part in content["components"]}
    assert by_ref[f"pkg:pypi/ultralytics@{version('ultralytics')}"]["type"] == "library"
    assert by_ref["base-weights"]["hashes"] == [{"alg": "SHA-256", "content": "3" * 64}]
    properties = {it["name"]: it["value"] for it in by_ref["dataset"]["properties"]}
    assert properties == {"hilum:split_digest": "2" * 64}
    depends = {it["ref"]: it["dependsOn"] for it in content["dependencies"]}
    assert set(depends["model"]) == set(by_ref)


def test_the_same_parts_give_the_same_bytes_and_others_another_serial_number() -> None:
    assert build_sbom(MADE) == build_sbom(MADE)
    plain = SbomInput(**{k: getattr(MADE, k) for k in MADE.__slots__} | {"train": TrainConfig()})
    one, other = (json.loads(build_sbom(made)) for made in (MADE, plain))
    assert one["serialNumber"] != other["serialNumber"]
    assert "base-weights" not in {part["bom-ref"] for part in other["components"]}


def test_indirect_libraries_are_listed_and_none_that_is_not_installed() -> None:
    listed = {library.name: library for library in list_libraries()}
    assert {"torch", "numpy", "openvino", "pydantic-core"} <= set(listed)
    assert "opencv-python" not in listed
    assert "pytest" not in listed
    assert "pydantic-core" in listed["pydantic"].needs
    assert all(set(library.needs) <= set(listed) for library in listed.values())
