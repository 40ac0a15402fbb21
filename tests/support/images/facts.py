"""Image facts for tests that need some."""

from __future__ import annotations

from edge_agent.core.radiograph import ImageFacts, ImageFormat


def image_facts(
    rows: int, columns: int, format_: ImageFormat = "png", bits_stored: int = 8
) -> ImageFacts:
    """Return the facts of an image whose header gives its size and depth and nothing else."""
    return ImageFacts(
        rows=rows,
        columns=columns,
        format=format_,
        bits_stored=bits_stored,
        view="",
        laterality="",
        body_part="",
        manufacturer="",
        photometric="",
        transfer_syntax="",
        spacing=None,
    )
