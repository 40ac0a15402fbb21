"""The software bill of materials of a model (CycloneDX 1.6, JSON): data, weights and libraries.

The same input gives the same bytes: it has no time stamp, and its serial number is a digest of the
content.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from training.config import TrainConfig
from training.train.dependencies import Library
from training.train.run_manifest import RunManifest

_MODEL, _DATA, _BASE = "model", "dataset", "base-weights"
_NAMESPACE: Final = uuid.UUID("6f0a4ad4-5a0c-5b52-9f4c-7f8c2a1d3e10")


@dataclass(frozen=True, slots=True)
class SbomInput:
    """The input of an SBOM. `weights_sha256` is that of the trained weights."""

    name: str
    version: str
    intended_use: str
    weights_sha256: str
    data: str
    train: TrainConfig
    run_manifest: RunManifest


def build_sbom(made: SbomInput) -> bytes:
    """Return the SBOM as UTF-8 JSON with two-space indent and a final newline."""
    parts = [_dataset(made)]
    if made.train.weights is not None:
        parts.append(_base(made.train))
    libraries = made.run_manifest.libraries
    parts += [_library(library) for library in libraries]
    content = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": _model(made)},
        "components": parts,
        "dependencies": [
            {"ref": _MODEL, "dependsOn": sorted(part["bom-ref"] for part in parts)},
            *_dependencies(libraries),
        ],
    }
    canonical = json.dumps(content, sort_keys=True)
    content["serialNumber"] = f"urn:uuid:{uuid.uuid5(_NAMESPACE, canonical)}"
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _model(made: SbomInput) -> dict[str, Any]:
    return {
        "type": "machine-learning-model",
        "bom-ref": _MODEL,
        "name": made.name,
        "version": made.version,
        "description": made.intended_use,
        "hashes": [_sha256(made.weights_sha256)],
        "modelCard": {
            "modelParameters": {
                "approach": {"type": "supervised"},
                "task": "object detection",
                "architectureFamily": "YOLO11",
                "modelArchitecture": f"{made.train.architecture}, {made.train.activation}",
                "datasets": [{"ref": _DATA}],
            },
        },
        "properties": _properties(
            {"git_revision": made.run_manifest.git_revision, "python": made.run_manifest.python}
        ),
    }


def _dataset(made: SbomInput) -> dict[str, Any]:
    return {
        "type": "data",
        "bom-ref": _DATA,
        "name": made.data,
        "data": [{"type": "dataset", "name": made.data}],
        "properties": _properties({"split_digest": made.run_manifest.split_digest}),
    }


def _base(config: TrainConfig) -> dict[str, Any]:
    assert config.weights is not None  # noqa: S101 - the caller has checked
    return {
        "type": "machine-learning-model",
        "bom-ref": _BASE,
        "name": config.weights.name,
        "hashes": [_sha256(config.weights_sha256 or "")],
    }


def _library(library: Library) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": _purl(library),
        "name": library.name,
        "version": library.version,
        "purl": _purl(library),
    }
    if library.licence:
        component["licenses"] = [{"expression": library.licence}]
    return component


def _dependencies(libraries: tuple[Library, ...]) -> list[dict[str, Any]]:
    by_name = {library.name: _purl(library) for library in libraries}
    return [
        {"ref": _purl(library), "dependsOn": [by_name[name] for name in library.needs]}
        for library in libraries
    ]


def _purl(library: Library) -> str:
    return f"pkg:pypi/{library.name}@{library.version.replace('+', '%2B')}"


def _sha256(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest}


def _properties(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": f"hilum:{name}", "value": value} for name, value in values.items() if value]
