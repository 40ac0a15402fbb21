"""Reads one DICOM file: bytes to a radiograph and its study context."""

from __future__ import annotations

from edge_agent.core.radiograph import ImageFacts, ImageWarning, Radiograph, Spacing
from edge_agent.core.study_context import StudyContext
from edge_agent.imaging.colour import RGB, compute_luminance
from edge_agent.imaging.dicom import header_check, pixel_data, tags
from edge_agent.imaging.dicom.header import DicomHeader
from edge_agent.imaging.dicom.luts import read_palette, read_presentation
from edge_agent.imaging.dicom.parser import DicomFile, parse_dicom
from edge_agent.imaging.errors import (
    corrupt_error,
    make_refusal,
    multi_frame_error,
    truncated_error,
    unsupported_pixels_error,
    unsupported_syntax_error,
)
from edge_agent.imaging.inversion_check import is_likely_inverted
from edge_agent.imaging.letterbox import compute_inner_size, resize
from edge_agent.imaging.limits import Limits
from edge_agent.imaging.pixel_format import PixelFormat
from hilum.codes import ErrorCode, WarningCode

_MONOCHROME = frozenset({"MONOCHROME1", "MONOCHROME2"})
_PALETTE = "PALETTE COLOR"
_MIN_BITS = 8
_ROW_AND_COLUMN = 2
_LUMINANCE = frozenset({"YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422"})


def read_dicom(
    data: memoryview, limits: Limits, fit: tuple[int, int] | None
) -> tuple[Radiograph, StudyContext]:
    """Read one radiograph.

    Args:
        data: the file.
        limits: bounds on the file's and the picture's size.
        fit: height and width in pixels of the model's input, or None for full resolution.

    Returns:
        The radiograph, and the study context.

    Raises:
        StudyImageRefused: with any code but EMPTY_FILE.
    """
    file = parse_dicom(data, limits)
    header = DicomHeader(file.elements)
    _check_has_pixels(file, header)
    header_check.check_header(header)
    _check_single_frame(header)
    form = read_pixel_format(header)
    limits.check_image_size(form.rows, form.columns)
    _check_decodable(file, form)
    radiograph = _make_radiograph(file, header, form, fit)
    return radiograph, read_study_context(header)


def _check_has_pixels(file: DicomFile, header: DicomHeader) -> None:
    if file.has_float_pixels:
        raise unsupported_pixels_error("floating point numbers")
    if file.native is not None or file.fragments is not None:
        return
    sop_class = header.get_text(tags.SOP_CLASS_UID)
    if tags.ROWS in header or header_check.is_radiograph_class(sop_class):
        raise truncated_error("there are no pixel data")
    raise make_refusal(
        ErrorCode.NOT_AN_IMAGE,
        "This DICOM file contains no picture.",
        "Send the radiograph itself, not a directory, report or presentation state.",
    )


def _check_single_frame(header: DicomHeader) -> None:
    frames = header.get_decimals(tags.NUMBER_OF_FRAMES)
    if frames and frames[0] > 1:
        raise multi_frame_error(f"{frames[0]:.0f} frames")


def read_pixel_format(header: DicomHeader) -> PixelFormat:
    """Return the image pixel module's declarations, and refuse contradictions.

    Raises:
        StudyImageRefused: CORRUPT or UNSUPPORTED_PIXELS.
    """
    bits_allocated = header.get_integer(tags.BITS_ALLOCATED)
    bits_stored = header.get_integer(tags.BITS_STORED, bits_allocated)
    form = PixelFormat(
        rows=header.get_integer(tags.ROWS),
        columns=header.get_integer(tags.COLUMNS),
        samples=header.get_integer(tags.SAMPLES_PER_PIXEL, 1),
        bits_allocated=bits_allocated,
        bits_stored=bits_stored,
        high_bit=header.get_integer(tags.HIGH_BIT, bits_stored - 1),
        is_signed=header.get_integer(tags.PIXEL_REPRESENTATION) == 1,
        is_planar=header.get_integer(tags.PLANAR_CONFIGURATION) == 1,
        photometric=header.get_text(tags.PHOTOMETRIC_INTERPRETATION).upper(),
    )
    if bits_allocated not in {8, 16}:
        raise unsupported_pixels_error(f"{bits_allocated} bits allocated")
    if not 1 <= bits_stored <= bits_allocated:
        raise corrupt_error("more bits are stored than allocated")
    if not bits_stored - 1 <= form.high_bit < bits_allocated:
        raise corrupt_error("its highest bit is outside of its pixels")
    _check_photometric(form)
    return form


def _check_photometric(form: PixelFormat) -> None:
    if form.photometric in _MONOCHROME | {_PALETTE}:
        expected = 1
    elif form.photometric in RGB | _LUMINANCE:
        expected = 3
    elif not form.photometric:
        raise corrupt_error("it does not declare how its pixels are to be displayed")
    else:
        raise unsupported_pixels_error("their photometric interpretation is none of a radiograph's")
    if form.samples != expected:
        raise corrupt_error("its colours do not fit its samples per pixel")
    if expected != 1 and form.is_signed:
        raise unsupported_pixels_error("signed colours")


def _check_decodable(file: DicomFile, form: PixelFormat) -> None:
    if not pixel_data.is_supported(file.syntax):
        raise unsupported_syntax_error(
            f"transfer syntax {pixel_data.name_transfer_syntax(file.syntax)}"
        )
    if form.bits_stored < _MIN_BITS and form.photometric in _MONOCHROME:
        raise unsupported_pixels_error(f"{form.bits_stored} bits stored")


def _make_radiograph(
    file: DicomFile, header: DicomHeader, form: PixelFormat, fit: tuple[int, int] | None
) -> Radiograph:
    size = compute_inner_size(form.rows, form.columns, fit)
    is_window_estimated = False
    if form.photometric in _MONOCHROME:
        presentation = read_presentation(header, form)
        # Padding is recognised by its stored value, which a reduced resolution averages away.
        min_size = size if presentation.padding is None else None
        stored = pixel_data.decode_pixel_data(file, form, min_size)
        is_window_estimated = presentation.voi is None
        pixels = presentation.render(stored, *size)
    else:
        stored = pixel_data.decode_pixel_data(file, form, None)
        if form.photometric == _PALETTE:
            pixels = read_palette(header).apply(stored)
        else:
            pixels = compute_luminance(stored, form.photometric, form.bits_stored)
        pixels = resize(pixels, *size)
    view = header_check.read_view_position(header)
    warnings: list[ImageWarning | None] = [
        header_check.warn_about_view(view),
        header_check.make_warning(WarningCode.MISSING_WINDOW) if is_window_estimated else None,
        header_check.warn_about_burned_in_text(header),
        header_check.make_warning(WarningCode.LOOKS_INVERTED)
        if is_likely_inverted(pixels)
        else None,
    ]
    return Radiograph(
        pixels=pixels,
        facts=ImageFacts(
            rows=form.rows,
            columns=form.columns,
            format="dicom",
            bits_stored=form.bits_stored,
            view=view,
            laterality=header.get_text(tags.IMAGE_LATERALITY) or header.get_text(tags.LATERALITY),
            body_part=header.get_text(tags.BODY_PART_EXAMINED),
            manufacturer=header.get_text(tags.MANUFACTURER),
            photometric=form.photometric,
            transfer_syntax=file.syntax,
            spacing=_read_spacing(header),
        ),
        warnings=tuple(warning for warning in warnings if warning is not None),
    )


def _read_spacing(header: DicomHeader) -> Spacing | None:
    for tag in (tags.PIXEL_SPACING, tags.IMAGER_PIXEL_SPACING):
        values = header.get_decimals(tag)
        if len(values) == _ROW_AND_COLUMN and min(values) > 0:
            return Spacing(row_mm=values[0], column_mm=values[1])
    return None


def read_study_context(header: DicomHeader) -> StudyContext:
    """Return the study context; values that cannot be read are treated as absent."""
    return StudyContext(
        patient_id=header.get_text(tags.PATIENT_ID),
        patient_name=header.get_text(tags.PATIENT_NAME),
        patient_birth_date=header.get_date(tags.PATIENT_BIRTH_DATE),
        patient_sex=header.get_text(tags.PATIENT_SEX),
        patient_age=header.get_text(tags.PATIENT_AGE),
        accession_number=header.get_text(tags.ACCESSION_NUMBER),
        study_instance_uid=header.get_text(tags.STUDY_INSTANCE_UID),
        series_instance_uid=header.get_text(tags.SERIES_INSTANCE_UID),
        sop_instance_uid=header.get_text(tags.SOP_INSTANCE_UID),
        sop_class_uid=header.get_text(tags.SOP_CLASS_UID),
        study_date=header.get_date(tags.STUDY_DATE),
        study_time=header.get_text(tags.STUDY_TIME),
        study_id=header.get_text(tags.STUDY_ID),
        referring_physician=header.get_text(tags.REFERRING_PHYSICIAN),
        institution=header.get_text(tags.INSTITUTION_NAME),
    )
