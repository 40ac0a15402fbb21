"""Weighted box fusion of several readers' boxes (Solovyev et al. 2021)."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.catalog import CATALOG
from training.data.vindr import BOX

DEFAULT_IOU: Final = 0.4
"""Boxes of one class with a larger intersection over union are the same finding. The VinBigData
challenge on this data uses the same bound."""

COLUMNS: Final = ("image_id", "class_name", "class_id", *BOX, "weight", "readers")


def fuse_boxes(rows: pd.DataFrame, *, iou: float = DEFAULT_IOU) -> pd.DataFrame:
    """Fuse the readers' boxes to one box per finding.

    Args:
        rows: readers' rows as `vindr.read_annotations` returns them, "No finding" rows included,
            because a reader who drew nothing counts as one who did not agree.
        iou: intersection over union above which two boxes of a class are the same finding.

    Returns:
        A table with `COLUMNS`. `readers` is the number of readers who marked the finding, `weight`
        their share of all who read the image.
    """
    reader_count = rows.groupby("image_id")["rad_id"].nunique()
    boxes = rows[rows["class_id"] < len(CATALOG)].sort_values(["image_id", "rad_id", *BOX])
    corners, classes = boxes[BOX].to_numpy(float), boxes["class_id"].to_numpy()
    images, readers = boxes["image_id"].to_numpy(), pd.factorize(boxes["rad_id"])[0]
    fused: list[NDArray[np.float64]] = []
    ids: list[str] = []
    # Arrays, because a data frame for each of thousands of images costs more than the fusion.
    for group in np.split(np.arange(len(boxes)), np.flatnonzero(images[1:] != images[:-1]) + 1):
        if not group.size:
            continue
        image_id = images[group[0]]
        merged = _fuse_image(
            corners[group], classes[group], readers[group], int(reader_count[image_id]), iou
        )
        fused.append(merged)
        ids += [image_id] * len(merged)
    table = pd.DataFrame(
        np.concatenate(fused) if fused else np.empty((0, 7)),
        columns=["class_id", *BOX, "weight", "readers"],
    ).astype({"class_id": int, "readers": int})
    table.insert(0, "class_name", [CATALOG[k].name for k in table["class_id"]])
    table.insert(0, "image_id", ids)
    return table.sort_values(["image_id", "class_id", *BOX], ignore_index=True)


def _fuse_image(
    corners: NDArray[np.float64],
    classes: NDArray[np.int64],
    readers: NDArray[np.int64],
    reader_count: int,
    iou: float,
) -> NDArray[np.float64]:
    """Return rows of class, four corners, weight and readers, f64 (N, 7)."""
    from ensemble_boxes import weighted_boxes_fusion  # noqa: PLC0415  # Importing numba takes seconds.

    scale = float(corners.max())  # The library wants boxes in [0, 1]; IoU does not depend on scale.
    lists = [readers == reader for reader in np.unique(readers)]
    lists += [np.zeros(len(readers), np.bool_)] * (reader_count - len(lists))
    boxes, weights, labels = weighted_boxes_fusion(
        [corners[chosen] / scale for chosen in lists],
        [np.ones(int(chosen.sum())) for chosen in lists],
        [classes[chosen] for chosen in lists],
        iou_thr=iou,
        # With all scores 1 this is the share of the readers with a box in the cluster.
        conf_type="box_and_model_avg",
    )
    rounded = [np.round(boxes * scale, 2), np.round(weights, 4)[:, None]]
    return np.column_stack([labels, *rounded, np.rint(weights * reader_count)])
