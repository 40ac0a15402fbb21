"""Bounds on the size of a study image."""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.imaging.errors import corrupt_error, make_refusal
from hilum.codes import ErrorCode


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on declared sizes, checked before anything is decoded.

    Attributes:
        max_pixels: largest product of rows and columns.
        min_side: shortest side, in pixels, on which a chest is still readable.
        max_bytes: largest size of the file, and of a deflated data set once inflated.
    """

    max_pixels: int = 64_000_000
    min_side: int = 128
    max_bytes: int = 256 * 1024 * 1024

    def check_file_size(self, size: int) -> None:
        """Refuse a file, or an inflated data set, of more than `max_bytes`.

        Raises:
            StudyImageRefused: TOO_LARGE.
        """
        if size > self.max_bytes:
            raise make_refusal(
                ErrorCode.TOO_LARGE,
                f"The file has more than {self.max_bytes:,} bytes.",
                "Send one image; the operator of this box can raise the limit.",
            )

    def check_image_size(self, rows: int, columns: int) -> None:
        """Refuse a declared size outside the bounds.

        Raises:
            StudyImageRefused: TOO_LARGE, TOO_SMALL, or CORRUPT where no size is declared.
        """
        if rows <= 0 or columns <= 0:
            raise corrupt_error("it declares no rows or no columns")
        if rows * columns > self.max_pixels:
            raise make_refusal(
                ErrorCode.TOO_LARGE,
                f"The image is {columns} x {rows} pixels; this agent accepts up to "
                f"{self.max_pixels / 1e6:g} megapixels.",
                "Send the image at its acquired size; the operator of this box can raise the "
                "limit.",
            )
        if min(rows, columns) < self.min_side:
            raise make_refusal(
                ErrorCode.TOO_SMALL,
                f"The image is {columns} x {rows} pixels, too small for a chest radiograph.",
                f"Send the original, not a thumbnail; each side needs {self.min_side} pixels.",
            )


DEFAULT_LIMITS = Limits()
