"""A transparent content check, whose outputs are the first eight pixels of its input.

Content and turn are each divided by their own sum; black is an upright frontal chest. The last
output, inverted, is in 250ths, so that 255 is no probability.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

from edge_agent.core.content_check import OUTPUTS
from hilum.manifest import ContentCheckSpec, ContentCheckThresholds, InputSpec
from tests.support.engines import bundles

SIZE = 32
THRESHOLDS = ContentCheckThresholds(
    warn_not_frontal=0.5,
    refuse_other=0.9,
    warn_lateral=0.5,
    warn_turned=0.5,
    refuse_turned=0.9,
    warn_inverted=0.5,
    refuse_inverted=0.9,
)
SPEC = ContentCheckSpec(
    input=InputSpec(height=SIZE, width=SIZE),
    model="content-check/content-check.xml",
    weights="content-check/content-check.bin",
    thresholds=THRESHOLDS,
)


def transparent_content_check(*, outputs: int = OUTPUTS) -> tuple[bytes, bytes]:
    """Return the IR (xml, bin) of the transparent content check."""
    images = ops.parameter([1, 1, SIZE, SIZE], np.uint8, name="images")
    flat = ops.reshape(ops.convert(images, "f32"), [1, SIZE * SIZE], False)
    parts = []
    for start, stop in ((0, 3), (3, 7)):
        first = np.eye(1, stop - start, dtype=np.float32) / 1000  # a black image's outputs
        part = ops.add(ops.slice(flat, [start], [stop], [1], [1]), first)
        parts.append(ops.divide(part, ops.reduce_sum(part, [1], True)))
    parts.append(ops.divide(ops.slice(flat, [7], [outputs], [1], [1]), np.float32([[250]])))
    result = ops.concat(parts, 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "content-check.xml"
        ov.save_model(ov.Model([result], [images]), path, compress_to_fp16=False)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def bundle_with_content_check(path: Path, *, refuses: bool = False) -> Path:
    """Write the transparent bundle of `tests.support.engines.bundles` with this content check.

    With `refuses`, the content check refuses one of the golden images. The detector still gives the
    recorded findings, because the content check reads only the top row of pixels.
    """
    xml, weights = transparent_content_check()
    members = {**bundles.contents(), SPEC.model: xml, SPEC.weights: weights}
    if refuses:
        scale = bundles.SIZE // SIZE
        picture = bundles.MASS.copy()
        picture[:scale, 2 * scale : 3 * scale] = 255
        members["golden/mass.png"] = bundles.png(picture)
    return bundles.pack(path, members, bundles.manifest(members, content_check=SPEC).to_bytes())


def make_picture(
    *, other: int = 0, lateral: int = 0, turned: int = 0, inverted: int = 0
) -> NDArray[np.uint8]:
    """Return a picture u8 (32, 32) that gives these outputs of the transparent content check.

    `other`, `lateral` and `turned` are in 255ths, `inverted` in 250ths.
    """
    picture = np.zeros((SIZE, SIZE), np.uint8)
    picture[0, :OUTPUTS] = [
        255 - other - lateral,
        lateral,
        other,
        255 - turned,
        0,
        turned,
        0,
        inverted,
    ]
    return picture
