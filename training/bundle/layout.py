"""The layout of a bundle: names of its members.

manifest.json             the manifest (hilum.manifest.Manifest); its SHA-256 is the digest
openvino/int8.xml, .bin   INT8 IR                                -> openvino-int8
openvino/float.xml, .bin  f32 IR, weights stored as f16          -> openvino-bf16, -fp32
model.onnx                f32 graph, weights stored as f16       -> onnxruntime-fp32, and the
                          two above where there is no f32 IR
onnx/int8.onnx            INT8 as QDQ pairs around convolutions  -> onnxruntime-int8
tensorrt/int8.onnx        the same, its float parts in f16       -> tensorrt-int8
tensorrt/fp16.onnx        f16 graph                              -> tensorrt-fp16
tensorrt/*.plan           engines for stated GPUs, of either     -> EngineVariant.targets
golden/cases.json         hilum.manifest.GoldenCases
golden/<case>.png         8-bit grey images of the input's size, synthetic
content-check/*.xml, .bin the content check's network, where the bundle has one
model-card.md             intended use, training data, metrics and limits
sbom.cdx.json             the software bill of materials, as CycloneDX
evidence/*.json           the evidence that the manifest's change_control refers to
"""

from __future__ import annotations

from typing import Final

INT8_XML, INT8_BIN = "openvino/int8.xml", "openvino/int8.bin"
FLOAT_XML, FLOAT_BIN = "openvino/float.xml", "openvino/float.bin"
ONNX, ONNX_INT8 = "model.onnx", "onnx/int8.onnx"
CARD_INT8, CARD_FP16 = "tensorrt/int8.onnx", "tensorrt/fp16.onnx"
CONTENT_XML, CONTENT_BIN = "content-check/content-check.xml", "content-check/content-check.bin"
GOLDEN_CASES, MODEL_CARD, SBOM = "golden/cases.json", "model-card.md", "sbom.cdx.json"
EVALUATION_MEMBER, PARITY_MEMBER = "evidence/evaluation.json", "evidence/parity.json"
RUN_MEMBER, SETTINGS_MEMBER = "evidence/run.json", "evidence/settings.json"
CONTENT_CHECK_HEADING: Final = "## Content check"
"""Heading of the content check's section in the model card."""


def golden_image_path(case: str) -> str:
    """Return the path of a golden case's image."""
    return f"golden/{case}.png"
