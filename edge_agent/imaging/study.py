"""Reads a study image: bytes to a radiograph and, separate from it, a study context."""

from __future__ import annotations

from edge_agent.core.radiograph import ImageFormat, Radiograph
from edge_agent.core.study_context import StudyContext
from edge_agent.errors import StudyImageRefused
from edge_agent.imaging.dicom import parser
from edge_agent.imaging.dicom.reader import read_dicom
from edge_agent.imaging.errors import corrupt_error, make_refusal, unsupported_syntax_error
from edge_agent.imaging.limits import DEFAULT_LIMITS, Limits
from edge_agent.imaging.raster import tiff_directory
from edge_agent.imaging.raster.reader import read_raster
from hilum.codes import ErrorCode

# Formats that are recognised only so that the refusal can name them: offset, bytes, name.
_UNSUPPORTED_FORMATS = (
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (8, b"WEBP", "WebP"),
    (4, b"ftyp", "HEIC, AVIF or video"),
    (4, b"jP  ", "JPEG 2000 outside of DICOM"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000 outside of DICOM"),
    (4, b"JXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
)


def read_study(
    data: bytes | memoryview, *, limits: Limits = DEFAULT_LIMITS, fit: tuple[int, int] | None = None
) -> tuple[Radiograph, StudyContext]:
    """Read one study image.

    Args:
        data: the whole file.
        limits: bounds on the file's size and on declared sizes.
        fit: height and width in pixels of the model's input. The picture is then shrunk to the
            inner size of the letterbox before the look-up tables are applied
            (docs/decisions/0003-shrink-before-lookup.md). None gives full resolution.

    Returns:
        The radiograph, upright, with the original's size in `rows` and `columns`; and the study
        context, which is empty for raster files.

    Raises:
        StudyImageRefused: the file yields no radiograph. No other exception is raised.
    """
    try:
        return _read(memoryview(data).cast("B"), limits, fit)
    except StudyImageRefused:
        raise
    except MemoryError as error:
        raise make_refusal(
            ErrorCode.TOO_LARGE,
            "The picture does not fit into memory.",
            "Send it at a lower resolution.",
        ) from error
    except Exception as error:
        raise corrupt_error("it cannot be read") from error


def _read(
    data: memoryview, limits: Limits, fit: tuple[int, int] | None
) -> tuple[Radiograph, StudyContext]:
    if not data:
        raise make_refusal(ErrorCode.EMPTY_FILE, "The file is empty.", "Send the file again.")
    limits.check_file_size(len(data))
    kind = detect_format(data)
    if kind == "dicom":
        return read_dicom(data, limits, fit)
    return read_raster(data, kind, limits, fit), StudyContext()


def detect_format(data: memoryview) -> ImageFormat:
    """Return the file's format by its first bytes.

    Raises:
        StudyImageRefused: NOT_AN_IMAGE, or UNSUPPORTED_SYNTAX for other picture formats.
    """
    # DICOM is tested first, because its preamble may be the beginning of a TIFF file.
    if bytes(data[128:132]) == b"DICM":
        return "dicom"
    if bytes(data[:3]) == b"\xff\xd8\xff":
        return "jpeg"
    if bytes(data[:8]) == b"\x89PNG\r\n\x1a\n":
        return "png"
    if tiff_directory.is_tiff(data):
        return "tiff"
    for offset, magic, name in _UNSUPPORTED_FORMATS:
        if bytes(data[offset : offset + len(magic)]) == magic:
            raise unsupported_syntax_error(name)
    if parser.is_dicom(data):
        return "dicom"
    raise make_refusal(
        ErrorCode.NOT_AN_IMAGE,
        "The file is neither DICOM nor JPEG, PNG or TIFF.",
        "Send a frontal chest radiograph as DICOM, JPEG, PNG or TIFF.",
    )
