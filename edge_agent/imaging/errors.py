"""Refusals of study images. Their messages never contain a value from the file."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from edge_agent.errors import StudyImageRefused
from hilum.codes import ErrorCode


def make_refusal(code: ErrorCode, message: str, hint: str) -> StudyImageRefused:
    """Return a refusal.

    Args:
        code: the code that callers and metrics see.
        message: a sentence about the file, without values from it.
        hint: what the sender can do.

    Returns:
        The exception to raise.
    """
    return StudyImageRefused(message, code=code, hint=hint)


def corrupt_error(reason: str) -> StudyImageRefused:
    """Return the refusal of a file that contradicts itself or that no decoder can read."""
    return make_refusal(
        ErrorCode.CORRUPT,
        f"The file is damaged: {reason}.",
        "Export the image again from its source.",
    )


def truncated_error(reason: str) -> StudyImageRefused:
    """Return the refusal of a file that ends early."""
    return make_refusal(
        ErrorCode.TRUNCATED,
        f"The file is cut short: {reason}.",
        "Send the file again and compare its size with the original.",
    )


def unsupported_pixels_error(reason: str) -> StudyImageRefused:
    """Return the refusal of a sound file whose pixels are of a kind that no radiograph has."""
    return make_refusal(
        ErrorCode.UNSUPPORTED_PIXELS,
        f"Pixels of this kind are not supported: {reason}.",
        "Send a radiograph with 8 to 16 bits per pixel, grey or in colour.",
    )


def unsupported_syntax_error(format_name: str) -> StudyImageRefused:
    """Return the refusal of a compression or file format that the agent does not decode."""
    return make_refusal(
        ErrorCode.UNSUPPORTED_SYNTAX,
        f"Pictures coded as {format_name} are not supported.",
        "Send DICOM (uncompressed, RLE, JPEG, JPEG-LS, JPEG 2000 or HTJ2K), JPEG, PNG or TIFF.",
    )


def multi_frame_error(reason: str) -> StudyImageRefused:
    """Return the refusal of a file that contains more than one picture."""
    return make_refusal(
        ErrorCode.MULTI_FRAME,
        f"The file holds more than one picture: {reason}.",
        "Send each radiograph as a file of its own.",
    )


def check_shape(pixels: NDArray[Any], rows: int, columns: int) -> None:
    """Refuse a picture that is decoded at another size than its file declares.

    Args:
        pixels: samples of shape (H, W) or (H, W, C).
        rows: the declared height in pixels.
        columns: the declared width in pixels.

    Raises:
        StudyImageRefused: CORRUPT.
    """
    if pixels.shape[:2] != (rows, columns):
        raise corrupt_error("the picture is of another size than it declares")
