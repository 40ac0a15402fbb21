"""Write a bundle: one model version as one archive, always the same bytes for the same parts.

Layout:

    manifest.json             what it is (hilum.manifest.Manifest); its SHA-256 is the digest
    openvino/int8.xml, .bin   INT8 IR                                -> openvino-int8
    openvino/float.xml, .bin  f32 IR, weights stored as f16          -> openvino-bf16, -fp32
    model.onnx                f32 graph, weights stored as f16       -> onnxruntime-fp32, and the
                              two above where there is no f32 IR
    onnx/int8.onnx            INT8 as pairs around convolutions      -> onnxruntime-int8
    tensorrt/int8.onnx        the same, its float parts in f16       -> tensorrt-int8
    tensorrt/fp16.onnx        f16 graph                              -> tensorrt-fp16
    tensorrt/*.plan           engines for stated cards, of either    -> EngineVariant.targets
    golden/cases.json         hilum.manifest.GoldenCases
    content-check/*.xml, .bin the content check's network, where the bundle has one
    golden/<case>.png         8-bit grey pictures of the input's size, synthetic
    model-card.md             for whom, on what, how good, what not
    sbom.cdx.json             what it was made with, as CycloneDX
    evidence/*.json           what the manifest's change_control rests on

Members are ordered by name and carry one fixed time stamp; texts are deflated, weights stored.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import cv2

from edge_agent.core.findings import Finding
from edge_agent.engines.base import Engine, Pixels
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.content_check import OpenVinoContentChecker
from edge_agent.engines.golden import compare_findings, read_golden_image, run_cases, run_golden
from edge_agent.engines.runtimes.onnxruntime import OnnxRuntimeEngine, OnnxRuntimeOptions
from edge_agent.engines.runtimes.openvino import DEFAULT_OPTIONS, OpenVinoEngine, OpenVinoOptions
from hilum.catalog import CATALOG
from hilum.manifest import (
    MANIFEST_NAME,
    ChangeControl,
    ContentCheckSpec,
    ContentCheckThresholds,
    EngineTarget,
    EngineVariant,
    GoldenCase,
    GoldenCases,
    GoldenFinding,
    GoldenTolerance,
    HeadSpec,
    InputSpec,
    Manifest,
    Member,
    Provenance,
    bundle_digest,
)
from training.data.atomic_files import replace_files
from training.errors import TrainingError

INT8: Final = "openvino-int8"
BF16: Final = "openvino-bf16"
FP32: Final = "openvino-fp32"
ORT_INT8: Final = "onnxruntime-int8"
ORT_FP32: Final = "onnxruntime-fp32"
TRT_INT8: Final = "tensorrt-int8"
TRT_FP16: Final = "tensorrt-fp16"
VARIANTS: Final = (INT8, BF16, FP32, ORT_INT8, ORT_FP32, TRT_INT8, TRT_FP16)
"""All that a bundle may hold, in its order."""

TOLERANCES: Final = {
    INT8: GoldenTolerance(score=0.1, min_iou=0.7),
    BF16: GoldenTolerance(score=0.1, min_iou=0.7),
    FP32: GoldenTolerance(score=0.05, min_iou=0.8),
    ORT_INT8: GoldenTolerance(score=0.1, min_iou=0.7),
    ORT_FP32: GoldenTolerance(score=0.05, min_iou=0.8),
    TRT_INT8: GoldenTolerance(score=0.1, min_iou=0.7),
    TRT_FP16: GoldenTolerance(score=0.05, min_iou=0.8),
}
"""Wide enough for another processor's rounding (INT8's float parts are BF16 where that is native),
far too narrow for a saturated INT8 convolution."""

INT8_XML, INT8_BIN = "openvino/int8.xml", "openvino/int8.bin"
FLOAT_XML, FLOAT_BIN = "openvino/float.xml", "openvino/float.bin"
ONNX, ONNX_INT8 = "model.onnx", "onnx/int8.onnx"
CARD_INT8, CARD_FP16 = "tensorrt/int8.onnx", "tensorrt/fp16.onnx"
_FORMS: Final[dict[str, dict[str, Any]]] = {
    INT8: {"runtime": "openvino", "precision": "int8", "model": INT8_XML, "weights": INT8_BIN},
    BF16: {"runtime": "openvino", "precision": "bf16", "model": FLOAT_XML, "weights": FLOAT_BIN},
    FP32: {"runtime": "openvino", "precision": "fp32", "model": FLOAT_XML, "weights": FLOAT_BIN},
    ORT_INT8: {"runtime": "onnxruntime", "precision": "int8", "model": ONNX_INT8},
    ORT_FP32: {"runtime": "onnxruntime", "precision": "fp32", "model": ONNX},
    TRT_INT8: {"runtime": "tensorrt", "precision": "int8", "model": CARD_INT8},
    TRT_FP16: {"runtime": "tensorrt", "precision": "fp16", "model": CARD_FP16},
}
_CONTENT_XML, _CONTENT_BIN = "content-check/content-check.xml", "content-check/content-check.bin"
_CASES, _CARD, _SBOM = "golden/cases.json", "model-card.md", "sbom.cdx.json"
_TEXTS: Final = {".xml", ".json", ".md"}
MOST_CASES: Final = 12
CONTENT_CHECK_HEADING: Final = "## Content check"
"""Heading of the content check's section in the model card."""
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_UNDECIDED: Final = Provenance(trained_on="draft", command="draft", seed=0, base_weights="draft")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The model itself: files by the paths that the layout above gives them.

    `targets` gives, per variant of TensorRT, the engines compiled ahead of time. `findings` are the
    slugs of the model's classes, in their order.
    """

    members: Mapping[str, bytes]
    input: InputSpec
    head: HeadSpec
    targets: Mapping[str, tuple[EngineTarget, ...]] = field(default_factory=dict)
    findings: tuple[str, ...] = tuple(finding.slug for finding in CATALOG)

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants that there are files for, in the bundle's order."""
        return tuple(name for name in VARIANTS if set(self.files_of(name)) <= set(self.members))

    def form_of(self, variant: str) -> dict[str, Any]:
        """Runtime, precision and files; OpenVINO reads the ONNX graph where there is no IR."""
        form = _FORMS[variant]
        if form["model"] == FLOAT_XML and FLOAT_XML not in self.members:
            return {**form, "model": ONNX, "weights": None}
        return form

    def files_of(self, variant: str) -> tuple[str, ...]:
        """The paths of all that a variant needs."""
        form = self.form_of(variant)
        graphs = (form["model"], form.get("weights"))
        plans = (target.model for target in self.targets.get(variant, ()))
        return tuple(path for path in (*graphs, *plans) if path)


@dataclass(frozen=True, slots=True)
class ContentCheckFiles:
    """A content check: IR, its thresholds, and its section of the model card."""

    xml: bytes
    weights: bytes
    input: InputSpec
    thresholds: ContentCheckThresholds
    card: str


@dataclass(frozen=True, slots=True)
class BundleContents:
    """All that a bundle is made of.

    `operating_points` gives, per variant, a threshold for each finding's slug; the bundle has just
    these variants. `pictures` are candidates for golden cases: synthetic, u8 (H, W) of the input's
    size, by a lower-case name. `evidence` are further members by their paths.
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


def draft_bundle(path: Path, graphs: ModelFiles) -> Bundle:
    """A bundle to measure with before operating points and golden cases are known.

    Every threshold is the head's score floor. It has no golden case, so `Bundle.open`, and with it
    every agent, refuses the file.
    """
    floor = dict.fromkeys(graphs.findings, graphs.head.score_floor)
    parts = BundleContents(
        name="draft",
        version="0.0.0",
        intended_use="Measuring while a bundle is made.",
        graphs=graphs,
        operating_points=dict.fromkeys(graphs.variants, floor),
        pictures={},
        model_card="",
        provenance=_UNDECIDED,
    )
    return _write(path, parts, ())


def write_bundle(
    path: Path, parts: BundleContents, options: OpenVinoOptions = DEFAULT_OPTIONS
) -> Bundle:
    """Record the golden cases, write the archive, open it again and let it prove itself.

    A picture becomes a golden case if each variant says the same of it, within its tolerance, in
    f32 and in the runtime's own choice of precision, alone and together with others. What is
    recorded is the f32 answer; pictures on which rounding decides are left out, and of the others
    those that show the most are taken, at most `MOST_CASES`.

    Args:
        path: where to; replaced at once when all is well, untouched otherwise.
        parts: what goes in.
        options: how the engines run here; the precision is ours to choose.

    Returns:
        The opened bundle.

    Raises:
        TrainingError: operating points are for no variant or an unknown one, no picture is fit to
            be a golden case, or the written bundle fails its own cases.
    """
    there = parts.graphs.variants
    if not parts.operating_points or not set(parts.operating_points) <= set(there):
        raise TrainingError(
            f"operating points for {sorted(parts.operating_points)}, not for some of {there}"
        )
    with replace_files(path.parent) as temporary_path:
        temporary = temporary_path(path.name)
        draft = _write(temporary, parts, ())
        cases = _record(draft, parts.pictures, options)
        written = _write(temporary, parts, cases)
        proven = Bundle.open(written.path)
        for variant in proven.manifest.engines:
            _prove(proven, variant, options)
        _prove_content_check(proven)
    return Bundle.open(path)


def with_content_check(
    bundle: Bundle, check: ContentCheckFiles, version: str, path: Path
) -> Bundle:
    """Pack a bundle again with this content check, in place of another or of none.

    Engines, operating points and golden cases stay as they are, byte by byte. The digest becomes
    another one; a version that was ever released must become another one too.

    Raises:
        TrainingError: the content check refuses a golden image.
    """
    stays = set(bundle.manifest.files) - {_CONTENT_XML, _CONTENT_BIN}
    content = {name: bundle.read(name) for name in stays}
    card, _, _ = (
        content[bundle.manifest.model_card].decode().partition(f"\n\n{CONTENT_CHECK_HEADING}\n")
    )
    content[bundle.manifest.model_card] = _card(card, check).encode()
    content |= {_CONTENT_XML: check.xml, _CONTENT_BIN: check.weights}
    manifest = bundle.manifest.model_copy(
        update={
            "version": version,
            "content_check": _content_check_spec(check),
            "files": _files(content),
        }
    )
    with replace_files(path.parent) as temporary_path:
        temporary = temporary_path(path.name)
        _pack(temporary, {MANIFEST_NAME: manifest.to_bytes(), **content})
        _prove_content_check(Bundle.open(temporary))
    return Bundle.open(path)


def _prove_content_check(bundle: Bundle) -> None:
    """Refuse a content check that refuses a golden image: each of them shows a chest."""
    checker = OpenVinoContentChecker.of(bundle)
    if checker is None:
        return
    for case in bundle.golden.cases:
        verdict = checker.judge(read_golden_image(bundle.read(case.image), bundle.manifest.input))
        if verdict.refusal:
            raise TrainingError(
                f"the content check refuses the golden case {case.name}: {verdict.refusal}"
            )
    checker.close()


def _record(
    draft: Bundle, pictures: Mapping[str, Pixels], options: OpenVinoOptions
) -> tuple[GoldenCase, ...]:
    """What every variant says of each picture, where rounding does not change it."""
    said = {of.name: _recordings(draft, of, pictures, options) for of in draft.manifest.engines}
    stable = [case for case in sorted(pictures) if all(case in of for of in said.values())]
    for name, of in said.items():
        if not any(of[case] for case in stable):
            raise TrainingError(f"no golden picture shows {name} anything it finds reliably")
    # All of them run at every start: a dozen of those that show the most.
    stable.sort(key=lambda case: -min(len(of[case]) for of in said.values()))
    return tuple(
        GoldenCase(
            name=case,
            image=_picture_path(case),
            expected={name: of[case] for name, of in said.items()},
        )
        for case in sorted(stable[:MOST_CASES])
    )


def _recordings(
    draft: Bundle, variant: EngineVariant, pictures: Mapping[str, Pixels], options: OpenVinoOptions
) -> dict[str, tuple[GoldenFinding, ...]]:
    exact, *others = (
        said
        for engine in (
            measuring_engine(draft, variant, replace(options, inference_precision="f32")),
            measuring_engine(draft, variant, options),
        )
        for said in run_cases(engine, list(pictures.values()), draft.manifest, variant)
    )
    tolerance = TOLERANCES[variant.name]
    recorded = [_golden(findings) for findings in exact]
    return {
        case: findings
        for case, findings, *found in zip(pictures, recorded, *others, strict=True)
        if not any(
            compare_findings(findings, it, variant.operating_points, tolerance) for it in found
        )
    }


def _golden(findings: Sequence[Finding]) -> tuple[GoldenFinding, ...]:
    """Findings as they are written down: rounded to what matters."""
    return tuple(
        GoldenFinding(
            finding=CATALOG[finding.index].slug,
            score=round(finding.score, 4),
            box=tuple(
                round(edge, 2)
                for edge in (
                    finding.box.x_min,
                    finding.box.y_min,
                    finding.box.x_max,
                    finding.box.y_max,
                )
            ),
        )
        for finding in findings
    )


def _prove(bundle: Bundle, variant: EngineVariant, options: OpenVinoOptions) -> None:
    engine = measuring_engine(bundle, variant, options)
    for verdict in run_golden(bundle, engine):
        if not verdict.passed:
            raise TrainingError(
                f"{variant.name} fails its golden case {verdict.case}: {verdict.problems}"
            )
    engine.close()


def measuring_engine(
    bundle: Bundle, variant: EngineVariant, options: OpenVinoOptions = DEFAULT_OPTIONS
) -> Engine:
    """An engine for a variant of a bundle in the making; ONNX Runtime heeds only the threads.

    A variant of TensorRT is measured on its very graph, but by ONNX Runtime on the processor: the
    same INT8 and f16 steps, in another order of rounding. The card itself is asked by the golden
    cases, on every box that has one.

    Raises:
        EngineFailed: this processor cannot run the variant, say for want of BF16.
    """
    if variant.runtime in {"onnxruntime", "tensorrt"}:
        stand_in = variant.model_copy(update={"runtime": "onnxruntime", "targets": ()})
        return OnnxRuntimeEngine(bundle, stand_in, OnnxRuntimeOptions(threads=options.threads))
    return OpenVinoEngine(bundle, variant, options)


def _write(path: Path, parts: BundleContents, cases: tuple[GoldenCase, ...]) -> Bundle:
    """Write the archive as it is described; nothing is checked beyond the manifest's own form."""
    tolerances = {name: TOLERANCES[name] for name in VARIANTS if name in parts.operating_points}
    golden = GoldenCases.model_construct(tolerances=tolerances, cases=cases)
    graphs = parts.graphs
    used = {path for name in parts.operating_points for path in graphs.files_of(name)}
    content = {
        **{path: graphs.members[path] for path in used},
        _CASES: golden.to_bytes(),
        _CARD: _card(parts.model_card, parts.content_check).encode(),
    }
    if parts.content_check:
        content |= {
            _CONTENT_XML: parts.content_check.xml,
            _CONTENT_BIN: parts.content_check.weights,
        }
    if parts.sbom:
        content[_SBOM] = parts.sbom
    content |= parts.evidence
    content |= {case.image: _png(parts.pictures[case.name]) for case in cases}
    manifest = _manifest(parts, content)
    manifest_bytes = manifest.to_bytes()
    _pack(path, {MANIFEST_NAME: manifest_bytes, **content})
    return Bundle(path, manifest, bundle_digest(manifest_bytes), golden)


def _pack(path: Path, members: Mapping[str, bytes]) -> None:
    """A zip whose bytes depend on nothing but its members'."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, member in sorted(members.items()):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system = 3  # Unix, whatever this machine is.
            info.external_attr = 0o644 << 16
            info.compress_type = (
                zipfile.ZIP_DEFLATED if Path(name).suffix in _TEXTS else zipfile.ZIP_STORED
            )
            archive.writestr(info, member)


def _manifest(parts: BundleContents, content: Mapping[str, bytes]) -> Manifest:
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
                **parts.graphs.form_of(name),
                name=name,
                operating_points=points[name],
                targets=parts.graphs.targets.get(name, ()),
            )
            for name in VARIANTS
            if name in points
        ),
        golden_cases=_CASES,
        model_card=_CARD,
        provenance=parts.provenance,
        content_check=_content_check_spec(parts.content_check) if parts.content_check else None,
        change_control=parts.change_control,
        sbom=_SBOM if parts.sbom else None,
        files=_files(content),
    )


def _files(content: Mapping[str, bytes]) -> dict[str, Member]:
    return {
        name: Member(sha256=hashlib.sha256(member).hexdigest(), size_bytes=len(member))
        for name, member in sorted(content.items())
    }


def _content_check_spec(check: ContentCheckFiles) -> ContentCheckSpec:
    return ContentCheckSpec(
        input=check.input, model=_CONTENT_XML, weights=_CONTENT_BIN, thresholds=check.thresholds
    )


def _card(model_card: str, check: ContentCheckFiles | None) -> str:
    return f"{model_card.rstrip()}\n\n{check.card.strip()}\n" if check else model_card


def _picture_path(case: str) -> str:
    return f"golden/{case}.png"


def _png(pixels: Pixels) -> bytes:
    done, encoded = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    if not done:
        raise TrainingError(f"a golden picture of shape {pixels.shape} is no picture")
    return bytes(encoded)
