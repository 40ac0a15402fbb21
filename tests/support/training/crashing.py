"""What an import hands to its processes, made to fail; quick to import, as each process does."""

from __future__ import annotations

import os
import re

from training.data.ingested_image import IngestedImage, IngestTask, compute_stamp


def crash_on_b(task: IngestTask) -> IngestedImage:
    """Take nothing in; on the image `b` die as a native decoder does."""
    if task.image_id == "b":
        os._exit(9)
    return IngestedImage(task.image_id, task.source.name, compute_stamp(task), rows=1)


def hang_on_b(task: IngestTask) -> IngestedImage:
    """Take nothing in; on the image `b` never come back, nor let the interpreter run."""
    if task.image_id == "b":
        re.fullmatch(r"(a+)+b", "a" * 64)  # native code, and longer than anybody waits
    return IngestedImage(task.image_id, task.source.name, compute_stamp(task), rows=1)
