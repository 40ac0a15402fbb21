"""Refusals that more than one module raises. No sentence here ever holds a value from a file."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from edge_agent.errors import StudyImageRefused
from hilum.codes import ErrorCode


def make_refusal(code: ErrorCode, message: str, hint: str) -> StudyImageRefused:
    """A refusal with its code."""
    return StudyImageRefused(message, code=code, hint=hint)


def corrupt_error(what: str) -> StudyImageRefused:
    """The file contradicts itself, or no decoder can read it."""
    return make_refusal(
        ErrorCode.CORRUPT,
        f"The file is damaged: {what}.",
        "Export the image again from its source.",
    )


def truncated_error(what: str) -> StudyImageRefused:
    """The file ends early."""
    return make_refusal(
        ErrorCode.TRUNCATED,
        f"The file is cut short: {what}.",
        "Send the file again and compare its size with the original.",
    )


def unsupported_pixels_error(what: str) -> StudyImageRefused:
    """The file is sound, but its pixels are of a kind that no radiograph has."""
    return make_refusal(
        ErrorCode.UNSUPPORTED_PIXELS,
        f"Pixels of this kind are not supported: {what}.",
        "Send a radiograph with 8 to 16 bits per pixel, grey or in colour.",
    )


def unsupported_syntax_error(what: str) -> StudyImageRefused:
    """The picture is coded in a way that no decoder here reads."""
    return make_refusal(
        ErrorCode.UNSUPPORTED_SYNTAX,
        f"Pictures coded as {what} are not supported.",
        "Send DICOM (uncompressed, RLE, JPEG, JPEG-LS, JPEG 2000 or HTJ2K), JPEG, PNG or TIFF.",
    )


def multi_frame_error(what: str) -> StudyImageRefused:
    """The file holds more than one picture."""
    return make_refusal(
        ErrorCode.MULTI_FRAME,
        f"The file holds more than one picture: {what}.",
        "Send each radiograph as a file of its own.",
    )


def check_shape(pixels: NDArray[Any], rows: int, columns: int) -> None:
    """Refuse a picture that came at another size than its file declares.

    Raises:
        StudyImageRefused: CORRUPT.
    """
    if pixels.shape[:2] != (rows, columns):
        raise corrupt_error("the picture is of another size than it declares")
