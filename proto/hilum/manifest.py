"""The manifest of a bundle, which is one model version as one archive.

A bundle is a zip whose `manifest.json` lists every other member with its SHA-256 and size. The
bundle's digest is the SHA-256 of the manifest's bytes, so it identifies the content of every member
and does not depend on how the archive was packed.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hilum.catalog import BY_SLUG, CATALOG

MANIFEST_NAME: Final = "manifest.json"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
MemberPath = Annotated[
    str, Field(pattern=r"^[a-z0-9][a-zA-Z0-9_.-]*(/[a-zA-Z0-9_][a-zA-Z0-9_.-]*)*$")
]
Score = Annotated[float, Field(ge=0, le=1)]
ComputeCapability = Annotated[str, Field(pattern=r"^\d{1,2}\.\d$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Member(_Frozen):
    """A file of the archive beside the manifest."""

    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0)]


class InputSpec(_Frozen):
    """The input tensor of a bundle's engines: u8, NCHW, one grey channel, letterboxed.

    The image is scaled to fit `height` x `width` with its aspect ratio kept, and centred. The rest
    is filled with `pad_value`.
    """

    height: Annotated[int, Field(ge=32, le=4096, multiple_of=32)]
    width: Annotated[int, Field(ge=32, le=4096, multiple_of=32)]
    channels: Literal[1] = 1
    pad_value: Annotated[int, Field(ge=0, le=255)] = 114


class HeadSpec(_Frozen):
    """The rules that decode raw outputs to findings (see `edge_agent.core.findings`).

    Output is f32 of shape (N, 4 + classes, anchors): box centre x, centre y, width and height in
    input pixels, then one score per class. Scores below `score_floor` are dropped; with
    `multi_label` an anchor may have several classes.
    """

    kind: Literal["yolo_decoded"] = "yolo_decoded"
    iou_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    score_floor: Annotated[float, Field(gt=0, lt=1)] = 0.05
    max_findings: Annotated[int, Field(ge=1, le=1000)] = 100
    multi_label: bool = True


class EngineTarget(_Frozen):
    """An engine compiled ahead of time for GPUs of these compute capabilities.

    `package` loads it, in exactly this `version`: TensorRT loads no engine that another version
    built.
    """

    package: Literal["tensorrt", "tensorrt_rtx"]
    version: Annotated[str, Field(pattern=r"^\d+(\.\d+)*$")]
    capabilities: Annotated[tuple[ComputeCapability, ...], Field(min_length=1)]
    model: MemberPath


class EngineVariant(_Frozen):
    """A way to run the model: a runtime, a precision and its files.

    `operating_points` are score thresholds by finding slug, valid for this variant of this bundle
    only. `targets` are TensorRT engines compiled from `model` ahead of time; an agent whose GPU is
    in none of them compiles `model`.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    runtime: Literal["openvino", "onnxruntime", "tensorrt"]
    precision: Literal["fp32", "bf16", "fp16", "int8"]
    model: MemberPath
    weights: MemberPath | None = None
    operating_points: dict[str, Score]
    targets: tuple[EngineTarget, ...] = ()

    @model_validator(mode="after")
    def _targets_are_tensorrt(self) -> Self:
        if self.targets and self.runtime != "tensorrt":
            raise ValueError(f"{self.name} is for {self.runtime}, which has no targets")
        return self

    @model_validator(mode="after")
    def _points_name_findings(self) -> Self:
        unknown = sorted(set(self.operating_points) - set(BY_SLUG))
        if unknown:
            raise ValueError(f"operating points of {self.name} name unknown findings: {unknown}")
        return self


class ContentCheckThresholds(_Frozen):
    """Probabilities from which on the content check warns or refuses (`core.content_check`).

    `not_frontal`: lateral or no chest; `other`: no chest; `lateral`: a chest from the side;
    `turned`: rotated by 90, 180 or 270 degrees; `inverted`: bone is dark. A lateral view is never
    refused by content.
    """

    warn_not_frontal: Score
    refuse_other: Score
    warn_lateral: Score
    warn_turned: Score
    refuse_turned: Score
    warn_inverted: Score
    refuse_inverted: Score

    @model_validator(mode="after")
    def _refuses_after_warning(self) -> Self:
        for warn, refuse in (
            (self.warn_not_frontal, self.refuse_other),
            (self.warn_turned, self.refuse_turned),
            (self.warn_inverted, self.refuse_inverted),
        ):
            if warn > refuse:
                raise ValueError("the content check would refuse before it warns")
        return self


class ContentCheckSpec(_Frozen):
    """A small classifier that runs before the detector: does the image show a frontal chest?

    `model` and `weights` are OpenVINO IR: u8 (1, 1, H, W), letterboxed as `input` declares, to f32
    (1, 8) probabilities in the order of `edge_agent.core.content_check.ContentProbabilities`.
    """

    input: InputSpec
    model: MemberPath
    weights: MemberPath
    thresholds: ContentCheckThresholds


class Provenance(_Frozen):
    """The model's origin and the command that reproduces it."""

    trained_on: str
    command: str
    seed: int
    base_weights: str
    metrics: dict[str, float] = {}


class AcceptanceBound(_Frozen):
    """A bound on a modification, declared before it was made: `name` is at most `at_most`."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    at_most: float


class AcceptanceResult(_Frozen):
    """The value that was measured for a bound, with its 95% interval.

    `subject` is the slug of the worst finding where the bound is on each finding.
    """

    bound: str
    variant: str
    subject: str = ""
    value: float
    low: float
    high: float


class ModificationProtocol(_Frozen):
    """The protocol of making and evaluating a modification. `bounds` were declared before the run.

    `declared` is the SHA-256 of the run manifest, which was written when the run began and contains
    the bounds.
    """

    data: str
    split: str
    split_digest: Sha256
    declared: Sha256
    bounds: Annotated[tuple[AcceptanceBound, ...], Field(min_length=1)]


class ChangeControl(_Frozen):
    """The record that a predetermined change control plan (FDA, December 2024) asks for.

    `modifications` describes what changed, `protocol` and `results` prove it, `impact` and `limits`
    describe what it means for users. `plan` names the organisation's document, if there is one;
    `replaces` is the digest of the previous bundle, to which a site can return; `evidence` lists
    members with details.
    """

    plan: str = ""
    modifications: str
    replaces: Sha256 | None = None
    protocol: ModificationProtocol
    results: Annotated[tuple[AcceptanceResult, ...], Field(min_length=1)]
    impact: str
    limits: tuple[str, ...] = ()
    evidence: tuple[MemberPath, ...] = ()

    @model_validator(mode="after")
    def _keeps_its_bounds(self) -> Self:
        """Check that every variant was measured against every bound, and keeps it."""
        bounds = {bound.name: bound.at_most for bound in self.protocol.bounds}
        for result in self.results:
            if result.bound not in bounds:
                raise ValueError(f"{result.bound} of {result.variant} was never declared")
            if not result.value <= bounds[result.bound]:
                raise ValueError(
                    f"{result.variant}: {result.bound} is {result.value:g}, declared was at most "
                    f"{bounds[result.bound]:g}"
                )
        measured = {(result.bound, result.variant) for result in self.results}
        for variant in sorted({result.variant for result in self.results}):
            unmeasured = sorted(name for name in bounds if (name, variant) not in measured)
            if unmeasured:
                raise ValueError(f"{variant}: declared but not measured: {unmeasured}")
        return self


class Manifest(_Frozen):
    """`manifest.json` of a bundle. Unknown fields and unknown schema versions are refused."""

    schema_version: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    intended_use: str
    findings: tuple[str, ...]
    input: InputSpec
    head: HeadSpec
    engines: Annotated[tuple[EngineVariant, ...], Field(min_length=1)]
    golden_cases: MemberPath
    model_card: MemberPath
    provenance: Provenance
    content_check: ContentCheckSpec | None = None
    change_control: ChangeControl | None = None
    sbom: MemberPath | None = None
    files: dict[MemberPath, Member]

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if not self.findings or self.findings != tuple(
            f.slug for f in CATALOG if f.slug in self.findings
        ):
            raise ValueError(
                "findings must be slugs of the catalogue, each once, in the catalogue's order"
            )
        names = [engine.name for engine in self.engines]
        if len(set(names)) != len(names):
            raise ValueError(f"engine variants share a name: {names}")
        wanted = {self.golden_cases, self.model_card}
        for engine in self.engines:
            missing = sorted(set(self.findings) - set(engine.operating_points))
            if missing:
                raise ValueError(f"{engine.name} has no operating point for {missing}")
            extra = sorted(set(engine.operating_points) - set(self.findings))
            if extra:
                raise ValueError(
                    f"{engine.name} has operating points for {extra}, which findings does not list"
                )
            wanted |= {path for path in (engine.model, engine.weights) if path}
            wanted |= {target.model for target in engine.targets}
        if self.content_check:
            wanted |= {self.content_check.model, self.content_check.weights}
        if self.sbom:
            wanted.add(self.sbom)
        if self.change_control:
            wanted |= set(self.change_control.evidence)
            self._check_results(self.change_control.results, set(names))
        absent = sorted(wanted - set(self.files))
        if absent:
            raise ValueError(f"files does not list {absent}")
        return self

    @staticmethod
    def _check_results(results: tuple[AcceptanceResult, ...], variants: set[str]) -> None:
        """Check that there are results of every variant of the bundle and of no other."""
        measured = {result.variant for result in results}
        if measured != variants:
            raise ValueError(
                f"change_control has results of {sorted(measured)}, engines are {sorted(variants)}"
            )

    @property
    def catalogue_indexes(self) -> tuple[int, ...]:
        """Return the catalogue's index of each finding, in the order of the model's classes."""
        return tuple(BY_SLUG[slug].index for slug in self.findings)

    def to_bytes(self) -> bytes:
        """Return the canonical serialisation: UTF-8 JSON, two-space indent, a final newline."""
        return (self.model_dump_json(indent=2) + "\n").encode()


class GoldenTolerance(_Frozen):
    """The permitted difference between a variant's findings on any processor and the recorded ones.

    Scores may differ by `score`, boxes must overlap by `min_iou`. A finding whose score is within
    `score` of its operating point may be absent or additional.
    """

    score: Annotated[float, Field(gt=0, lt=0.5)]
    min_iou: Annotated[float, Field(gt=0, lt=1)]


class GoldenFinding(_Frozen):
    """A recorded finding; `box` is x_min, y_min, x_max, y_max in pixels of the case's image."""

    finding: str
    score: Score
    box: tuple[float, float, float, float]

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        if self.finding not in BY_SLUG:
            raise ValueError(f"{self.finding!r} is no finding of the catalogue")
        return self


class GoldenCase(_Frozen):
    """A synthetic image (8-bit grey PNG of the input's size) and each variant's findings."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    image: MemberPath
    expected: dict[str, tuple[GoldenFinding, ...]]


class GoldenCases(_Frozen):
    """`golden/cases.json` of a bundle: findings that its engines must reproduce on every machine.

    Expectations and tolerances are per engine variant, at that variant's operating points.
    """

    schema_version: Literal[1] = 1
    tolerances: dict[str, GoldenTolerance]
    cases: Annotated[tuple[GoldenCase, ...], Field(min_length=1)]

    def check(self, manifest: Manifest) -> None:
        """Raise ValueError unless every variant has cases, and findings that could be missed."""
        variants = {engine.name for engine in manifest.engines}
        if set(self.tolerances) != variants:
            raise ValueError(f"golden tolerances are for {sorted(self.tolerances)}, not {variants}")
        for case in self.cases:
            if set(case.expected) != variants:
                raise ValueError(f"golden case {case.name} is for {sorted(case.expected)}")
            if case.image not in manifest.files:
                raise ValueError(f"golden case {case.name}: files does not list {case.image}")
            expected = {found.finding for of in case.expected.values() for found in of}
            foreign = sorted(expected - set(manifest.findings))
            if foreign:
                raise ValueError(
                    f"golden case {case.name} expects {foreign}, which findings does not list"
                )
        for variant in sorted(variants):
            if not any(case.expected[variant] for case in self.cases):
                raise ValueError(f"no golden case expects any finding of {variant}")

    def to_bytes(self) -> bytes:
        """Return UTF-8 JSON with two-space indent and a final newline."""
        return (self.model_dump_json(indent=2) + "\n").encode()


def bundle_digest(manifest_bytes: bytes) -> str:
    """Return the lower-case hexadecimal SHA-256 of the manifest's bytes in the archive."""
    return hashlib.sha256(manifest_bytes).hexdigest()
