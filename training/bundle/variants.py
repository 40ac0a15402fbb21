"""Engine variants of a bundle: names, files, and tolerances of their golden cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from hilum.catalog import CATALOG
from hilum.manifest import EngineTarget, GoldenTolerance, HeadSpec, InputSpec
from training.bundle.layout import (
    CARD_FP16,
    CARD_INT8,
    FLOAT_BIN,
    FLOAT_XML,
    INT8_BIN,
    INT8_XML,
    ONNX,
    ONNX_INT8,
)

INT8: Final = "openvino-int8"
BF16: Final = "openvino-bf16"
FP32: Final = "openvino-fp32"
ORT_INT8: Final = "onnxruntime-int8"
ORT_FP32: Final = "onnxruntime-fp32"
TRT_INT8: Final = "tensorrt-int8"
TRT_FP16: Final = "tensorrt-fp16"
VARIANTS: Final = (INT8, BF16, FP32, ORT_INT8, ORT_FP32, TRT_INT8, TRT_FP16)
"""All variants that a bundle may hold, in its order."""

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


_FORMS: Final[dict[str, dict[str, Any]]] = {
    INT8: {"runtime": "openvino", "precision": "int8", "model": INT8_XML, "weights": INT8_BIN},
    BF16: {"runtime": "openvino", "precision": "bf16", "model": FLOAT_XML, "weights": FLOAT_BIN},
    FP32: {"runtime": "openvino", "precision": "fp32", "model": FLOAT_XML, "weights": FLOAT_BIN},
    ORT_INT8: {"runtime": "onnxruntime", "precision": "int8", "model": ONNX_INT8},
    ORT_FP32: {"runtime": "onnxruntime", "precision": "fp32", "model": ONNX},
    TRT_INT8: {"runtime": "tensorrt", "precision": "int8", "model": CARD_INT8},
    TRT_FP16: {"runtime": "tensorrt", "precision": "fp16", "model": CARD_FP16},
}


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The model's files by their paths in the bundle (`layout`).

    `targets` lists, per TensorRT variant, the engines that are compiled ahead of time. `findings`
    are the slugs of the model's classes, in their order.
    """

    members: Mapping[str, bytes]
    input: InputSpec
    head: HeadSpec
    targets: Mapping[str, tuple[EngineTarget, ...]] = field(default_factory=dict)
    findings: tuple[str, ...] = tuple(finding.slug for finding in CATALOG)

    @property
    def variants(self) -> tuple[str, ...]:
        """Return the variants whose files are present, in the bundle's order."""
        return tuple(name for name in VARIANTS if set(self.files_of(name)) <= set(self.members))

    def describe_variant(self, variant: str) -> dict[str, Any]:
        """Return runtime, precision and files of a variant.

        OpenVINO reads the ONNX graph where there is no IR.
        """
        form = _FORMS[variant]
        if form["model"] == FLOAT_XML and FLOAT_XML not in self.members:
            return {**form, "model": ONNX, "weights": None}
        return form

    def files_of(self, variant: str) -> tuple[str, ...]:
        """Return the paths of the files that a variant needs."""
        form = self.describe_variant(variant)
        graphs = (form["model"], form.get("weights"))
        plans = (target.model for target in self.targets.get(variant, ()))
        return tuple(path for path in (*graphs, *plans) if path)
