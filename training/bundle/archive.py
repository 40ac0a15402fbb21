"""Writes the archive of a bundle: the same bytes for the same content.

Members are ordered by name and have one fixed time stamp. Texts are deflated, weights are stored.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import cv2

from edge_agent.engines.base import Pixels
from edge_agent.engines.bundle import Bundle
from hilum.manifest import (
    MANIFEST_NAME,
    ChangeControl,
    ContentCheckSpec,
    ContentCheckThresholds,
    EngineVariant,
    GoldenCase,
    GoldenCases,
    InputSpec,
    Manifest,
    Member,
    Provenance,
    bundle_digest,
)
from training.bundle.layout import CONTENT_BIN, CONTENT_XML, GOLDEN_CASES, MODEL_CARD, SBOM
from training.bundle.variants import TOLERANCES, VARIANTS, ModelFiles
from training.errors import TrainingError

_TEXTS: Final = {".xml", ".json", ".md"}
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class ContentCheckFiles:
    """The files of a content check: IR, thresholds, and its section of the model card."""

    xml: bytes
    weights: bytes
    input: InputSpec
    thresholds: ContentCheckThresholds
    card: str


@dataclass(frozen=True, slots=True)
class BundleContents:
    """The content of a bundle.

    Attributes:
        operating_points: per variant, a threshold for each finding's slug. The bundle has exactly
            these variants.
        pictures: candidates for golden cases by a lower-case name: synthetic images, u8 (H, W), of
            the input's size.
        evidence: further members by their paths.
    """

    name: str
    version: str
    intended_use: str
    graphs: ModelFiles
    operating_points: Mapping[str, Mapping[str, float]]
    pictures: Mapping[str, Pixels]
    model_card: str
    provenance: Provenance
    content_check: ContentCheckFiles | None = None
    change_control: ChangeControl | None = None
    sbom: bytes | None = None
    evidence: Mapping[str, bytes] = field(default_factory=dict)


def write_archive(path: Path, parts: BundleContents, cases: tuple[GoldenCase, ...]) -> Bundle:
    """Write the archive; only the form of the manifest is checked.

    Args:
        path: the archive; replaced if it exists.
        parts: the content.
        cases: the golden cases.

    Returns:
        The bundle, which may have no golden case.
    """
    tolerances = {name: TOLERANCES[name] for name in VARIANTS if name in parts.operating_points}
    golden = GoldenCases.model_construct(tolerances=tolerances, cases=cases)
    graphs = parts.graphs
    used = {path for name in parts.operating_points for path in graphs.files_of(name)}
    content = {
        **{path: graphs.members[path] for path in used},
        GOLDEN_CASES: golden.to_bytes(),
        MODEL_CARD: join_card(parts.model_card, parts.content_check).encode(),
    }
    if parts.content_check:
        content |= {
            CONTENT_XML: parts.content_check.xml,
            CONTENT_BIN: parts.content_check.weights,
        }
    if parts.sbom:
        content[SBOM] = parts.sbom
    content |= parts.evidence
    content |= {case.image: _encode_png(parts.pictures[case.name]) for case in cases}
    manifest = _build_manifest(parts, content)
    manifest_bytes = manifest.to_bytes()
    pack(path, {MANIFEST_NAME: manifest_bytes, **content})
    return Bundle(path, manifest, bundle_digest(manifest_bytes), golden)


def pack(path: Path, members: Mapping[str, bytes]) -> None:
    """Write a zip whose bytes depend only on its members: order and time stamps are fixed."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, member in sorted(members.items()):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system = 3  # Unix, on any machine.
            info.external_attr = 0o644 << 16
            info.compress_type = (
                zipfile.ZIP_DEFLATED if Path(name).suffix in _TEXTS else zipfile.ZIP_STORED
            )
            archive.writestr(info, member)


def _build_manifest(parts: BundleContents, content: Mapping[str, bytes]) -> Manifest:
    points = {name: dict(of) for name, of in parts.operating_points.items()}
    return Manifest(
        name=parts.name,
        version=parts.version,
        intended_use=parts.intended_use,
        findings=parts.graphs.findings,
        input=parts.graphs.input,
        head=parts.graphs.head,
        engines=tuple(
            EngineVariant(
                **parts.graphs.describe_variant(name),
                name=name,
                operating_points=points[name],
                targets=parts.graphs.targets.get(name, ()),
            )
            for name in VARIANTS
            if name in points
        ),
        golden_cases=GOLDEN_CASES,
        model_card=MODEL_CARD,
        provenance=parts.provenance,
        content_check=content_check_spec(parts.content_check) if parts.content_check else None,
        change_control=parts.change_control,
        sbom=SBOM if parts.sbom else None,
        files=describe_members(content),
    )


def describe_members(content: Mapping[str, bytes]) -> dict[str, Member]:
    """Return digest and size of each member."""
    return {
        name: Member(sha256=hashlib.sha256(member).hexdigest(), size_bytes=len(member))
        for name, member in sorted(content.items())
    }


def content_check_spec(check: ContentCheckFiles) -> ContentCheckSpec:
    """Return the manifest's entry for a content check."""
    return ContentCheckSpec(
        input=check.input, model=CONTENT_XML, weights=CONTENT_BIN, thresholds=check.thresholds
    )


def join_card(model_card: str, check: ContentCheckFiles | None) -> str:
    """Return the model card, with the section of the content check if there is one."""
    return f"{model_card.rstrip()}\n\n{check.card.strip()}\n" if check else model_card


def _encode_png(pixels: Pixels) -> bytes:
    done, encoded = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    if not done:
        raise TrainingError(f"a golden picture of shape {pixels.shape} cannot be encoded as PNG")
    return bytes(encoded)
