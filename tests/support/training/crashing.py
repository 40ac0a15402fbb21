"""Ingest functions that fail; quick to import, because each worker process imports them."""

from __future__ import annotations

import os
import re

from training.data.ingested_image import IngestedImage, IngestTask, compute_stamp


def crash_on_b(task: IngestTask) -> IngestedImage:
    """Ingest nothing; on the image `b` end the process as a crash of native code does."""
    if task.image_id == "b":
        os._exit(9)
    return IngestedImage(task.image_id, task.source.name, compute_stamp(task), rows=1)


def hang_on_b(task: IngestTask) -> IngestedImage:
    """Ingest nothing; on the image `b` run native code that never returns to the interpreter."""
    if task.image_id == "b":
        re.fullmatch(r"(a+)+b", "a" * 64)  # Native code that takes longer than any test.
    return IngestedImage(task.image_id, task.source.name, compute_stamp(task), rows=1)
