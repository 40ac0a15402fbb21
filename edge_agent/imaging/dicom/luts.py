"""The look-up tables (LUTs) that a DICOM header declares: modality, VOI, presentation, palette."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edge_agent.imaging.colour import PaletteTable
from edge_agent.imaging.dicom import tags
from edge_agent.imaging.dicom.header import DicomHeader
from edge_agent.imaging.errors import corrupt_error, unsupported_pixels_error
from edge_agent.imaging.pixel_format import BITS_PER_BYTE, BITS_PER_WORD, PixelFormat
from edge_agent.imaging.presentation import LookupTable, Presentation, Rescale, Window

_DESCRIPTOR_VALUES = 3
_WORDS = 1 << BITS_PER_WORD
_Function = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]


def read_presentation(header: DicomHeader, form: PixelFormat) -> Presentation:
    """Return the conversion of stored values to grey that the data set declares.

    The VOI LUT takes precedence over the window, and of several the first one is used (PS3.3
    C.11.2.1). MONOCHROME1 and PresentationLUTShape INVERSE mean the same. Where a header has both,
    values are inverted once (C.11.6.1.2).
    """
    shape = header.get_text(tags.PRESENTATION_LUT_SHAPE).upper()
    modality = _read_modality(header, is_signed=form.is_signed)
    is_signed = _is_voi_input_signed(modality, form)
    table = _read_table(header, tags.VOI_LUT_SEQUENCE, is_signed=is_signed)
    return Presentation(
        modality=modality,
        voi=table or _read_window(header),
        is_inverted=form.photometric == "MONOCHROME1" or shape == "INVERSE",
        padding=_read_padding(header, is_signed=form.is_signed),
    )


def _is_voi_input_signed(modality: LookupTable | Rescale, form: PixelFormat) -> bool:
    """Return the sign of the VOI LUT's descriptor: negative modality values occur (C.11.2.1.1)."""
    if isinstance(modality, LookupTable):
        return False  # After a modality LUT values are unsigned (C.11.1.1).
    lowest = -(1 << (form.bits_stored - 1)) if form.is_signed else 0
    ends = (lowest, lowest + (1 << form.bits_stored) - 1)
    return min(modality.slope * end + modality.intercept for end in ends) < 0


def _read_modality(header: DicomHeader, *, is_signed: bool) -> LookupTable | Rescale:
    table = _read_table(header, tags.MODALITY_LUT_SEQUENCE, is_signed=is_signed)
    if table is not None:
        return table
    slope = header.get_decimals(tags.RESCALE_SLOPE)
    intercept = header.get_decimals(tags.RESCALE_INTERCEPT)
    if not slope or not intercept or slope[0] == 0:
        return Rescale()
    return Rescale(slope[0], intercept[0])


def _read_table(header: DicomHeader, tag: int, *, is_signed: bool) -> LookupTable | None:
    for item in header.get_items(tag)[:1]:
        descriptor = item.get_integers(tags.LUT_DESCRIPTOR, is_signed=is_signed)
        if len(descriptor) != _DESCRIPTOR_VALUES:
            return None
        # The number of entries is unsigned, even if the VR is signed, and 65,536 is stored as 0.
        entries = descriptor[0] % _WORDS or _WORDS
        bits = descriptor[2]
        values = _read_entries(item, tags.LUT_DATA, entries)
        if not values.size:
            return None
        if not BITS_PER_BYTE <= bits <= BITS_PER_WORD or int(values.max()) >> bits:
            bits = max(BITS_PER_BYTE, int(values.max()).bit_length())
        return LookupTable(_reinterpret_sign(descriptor[1], is_signed=is_signed), bits, values)
    return None


def _read_entries(header: DicomHeader, tag: int, count: int) -> NDArray[np.uint16]:
    """Return a table's entries: words, or bytes where there is only one byte for each entry."""
    octets = header.get_octets(tag)
    if count <= len(octets) < 2 * count:
        return octets[:count].astype(np.uint16)
    return header.get_words(tag)[:count]


def _read_window(header: DicomHeader) -> Window | None:
    centres = header.get_decimals(tags.WINDOW_CENTER)
    widths = header.get_decimals(tags.WINDOW_WIDTH)
    if not centres or not widths:
        return None
    declared = header.get_text(tags.VOI_LUT_FUNCTION).upper()
    function: _Function = "LINEAR"
    for known in get_args(_Function):
        if declared == known:
            function = known
    window = Window(centres[0], widths[0], function)
    return window if window.is_valid else None


def _read_padding(header: DicomHeader, *, is_signed: bool) -> tuple[int, int] | None:
    value = header.get_integers(tags.PIXEL_PADDING_VALUE, is_signed=is_signed)
    if not value:
        return None
    limit = header.get_integers(tags.PIXEL_PADDING_RANGE_LIMIT, is_signed=is_signed) or value
    first, last = (_reinterpret_sign(n[0], is_signed=is_signed) for n in (value, limit))
    return min(first, last), max(first, last)


def _reinterpret_sign(value: int, *, is_signed: bool) -> int:
    """Return a 16-bit value with the sign of the pixels, whether its VR is signed or not."""
    word = value % _WORDS
    return word - _WORDS if is_signed and word >= _WORDS // 2 else word


def read_palette(header: DicomHeader) -> PaletteTable:
    """Return the palette of a PALETTE COLOR image (PS3.3 C.7.6.3.1.5, C.7.6.3.1.6).

    Raises:
        StudyImageRefused: CORRUPT, or UNSUPPORTED_PIXELS where the palette is segmented.
    """
    colours: list[NDArray[np.float64]] = []
    first = 0
    for descriptor_tag, data_tag in zip(tags.PALETTE_DESCRIPTORS, tags.PALETTE_DATA, strict=True):
        descriptor = header.get_integers(descriptor_tag)
        if len(descriptor) != _DESCRIPTOR_VALUES:
            raise corrupt_error("its palette is not described")
        if data_tag not in header:
            raise unsupported_pixels_error("a palette in segments")
        count, first = descriptor[0] % _WORDS or _WORDS, descriptor[1]
        values = _read_entries(header, data_tag, count).astype(np.float64)
        if len(values) < count:
            raise corrupt_error("its palette is shorter than described")
        # Entries of 8 bits are bytes or, against the standard, the low bytes of words.
        colours.append(values * 257 if values.max() < 1 << BITS_PER_BYTE else values)
    return PaletteTable.from_colours(first, *colours)
