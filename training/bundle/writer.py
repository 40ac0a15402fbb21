"""Writes bundles: a draft to measure with, and the final bundle with its golden cases."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edge_agent.engines.bundle import Bundle
from edge_agent.engines.runtimes.openvino import DEFAULT_OPTIONS, OpenVinoOptions
from edge_agent.system import files
from hilum.manifest import Provenance
from training.bundle.archive import BundleContents, write_archive
from training.bundle.golden_recording import check_content_check, check_golden_cases, record_cases
from training.bundle.variants import ModelFiles
from training.data.atomic_files import explain_write_errors
from training.errors import TrainingError

_DRAFT: Final = Provenance(trained_on="draft", command="draft", seed=0, base_weights="draft")


def draft_bundle(path: Path, graphs: ModelFiles) -> Bundle:
    """Write a bundle to measure with, before operating points and golden cases are known.

    Every threshold is the head's score floor. The bundle has no golden case, so `Bundle.open`, and
    with it every agent, refuses the file.
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
        provenance=_DRAFT,
    )
    return write_archive(path, parts, ())


def write_bundle(
    path: Path, parts: BundleContents, options: OpenVinoOptions = DEFAULT_OPTIONS
) -> Bundle:
    """Record the golden cases, write the archive, and check that it reproduces them.

    An image becomes a golden case if each variant has the same findings on it within its
    tolerance: in f32 and in the runtime's own precision, alone and in a batch. The f32 findings
    are recorded. Images on which rounding decides are left out.

    Args:
        path: the bundle; replaced at once on success, untouched otherwise.
        parts: the content.
        options: options of the engines; their precision is set here.

    Returns:
        The opened bundle.

    Raises:
        TrainingError: operating points are missing or are for an absent variant, no image is fit
            for a golden case, or the written bundle does not reproduce its own cases.
    """
    variants = parts.graphs.variants
    if not parts.operating_points or not set(parts.operating_points) <= set(variants):
        raise TrainingError(
            f"operating points for {sorted(parts.operating_points)}, the variants are {variants}"
        )
    with explain_write_errors(path), files.replace_files(path.parent) as temporary_path:
        temporary = temporary_path(path.name)
        draft = write_archive(temporary, parts, ())
        cases = record_cases(draft, parts.pictures, options)
        written = write_archive(temporary, parts, cases)
        proven = Bundle.open(written.path)
        for variant in proven.manifest.engines:
            check_golden_cases(proven, variant, options)
        check_content_check(proven)
    return Bundle.open(path)
