"""The look-ups that a DICOM header declares: modality, VOI, presentation, palette."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edge_agent.imaging.colour import PaletteTable
from edge_agent.imaging.dicom import tags
from edge_agent.imaging.dicom.header import DicomHeader
from edge_agent.imaging.errors import corrupt_error, unsupported_pixels_error
from edge_agent.imaging.pixel_format import PixelFormat
from edge_agent.imaging.presentation import LookupTable, Presentation, Rescale, Window

_DESCRIPTOR_VALUES = 3
_BYTE, _WORD = 8, 16
_WORDS = 1 << _WORD
_Function = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]


def read_presentation(header: DicomHeader, form: PixelFormat) -> Presentation:
    """How this data set's stored values become grey.

    The VOI LUT goes before the window, and the first of each is the one to be shown first
    (PS3.3 C.11.2.1). MONOCHROME1 and PresentationLUTShape INVERSE say the same thing: where both
    stand, values are inverted once (C.11.6.1.2).
    """
    shape = header.get_text(tags.PRESENTATION_LUT_SHAPE).upper()
    modality = _modality(header, signed=form.is_signed)
    signed = _below_zero(modality, form)
    return Presentation(
        modality=modality,
        voi=_table(header, tags.VOI_LUT_SEQUENCE, signed=signed) or _window(header),
        is_inverted=form.photometric == "MONOCHROME1" or shape == "INVERSE",
        padding=_padding(header, signed=form.is_signed),
    )


def _below_zero(modality: LookupTable | Rescale, form: PixelFormat) -> bool:
    """Whether what the VOI LUT takes may be negative: its descriptor's sign (C.11.2.1.1)."""
    if isinstance(modality, LookupTable):
        return False  # After a modality LUT values are unsigned (C.11.1.1).
    lowest = -(1 << (form.bits_stored - 1)) if form.is_signed else 0
    ends = (lowest, lowest + (1 << form.bits_stored) - 1)
    return min(modality.slope * end + modality.intercept for end in ends) < 0


def _modality(header: DicomHeader, *, signed: bool) -> LookupTable | Rescale:
    table = _table(header, tags.MODALITY_LUT_SEQUENCE, signed=signed)
    if table is not None:
        return table
    slope = header.get_decimals(tags.RESCALE_SLOPE)
    intercept = header.get_decimals(tags.RESCALE_INTERCEPT)
    if not slope or not intercept or slope[0] == 0:
        return Rescale()
    return Rescale(slope[0], intercept[0])


def _table(header: DicomHeader, tag: int, *, signed: bool) -> LookupTable | None:
    for item in header.get_items(tag)[:1]:
        descriptor = item.get_integers(tags.LUT_DESCRIPTOR, signed=signed)
        if len(descriptor) != _DESCRIPTOR_VALUES:
            return None
        # The number of entries is unsigned whatever the VR says, and 65,536 does not fit in.
        entries = descriptor[0] % _WORDS or _WORDS
        bits = descriptor[2]
        values = _entries(item, tags.LUT_DATA, entries)
        if not values.size:
            return None
        if not _BYTE <= bits <= _WORD or int(values.max()) >> bits:
            bits = max(_BYTE, int(values.max()).bit_length())
        return LookupTable(_as_stored(descriptor[1], signed=signed), bits, values)
    return None


def _entries(header: DicomHeader, tag: int, count: int) -> NDArray[np.uint16]:
    """A table's entries: words, or bytes where there are only as many bytes as entries."""
    octets = header.get_octets(tag)
    if count <= len(octets) < 2 * count:
        return octets[:count].astype(np.uint16)
    return header.get_words(tag)[:count]


def _window(header: DicomHeader) -> Window | None:
    centres = header.get_decimals(tags.WINDOW_CENTER)
    widths = header.get_decimals(tags.WINDOW_WIDTH)
    if not centres or not widths:
        return None
    said = header.get_text(tags.VOI_LUT_FUNCTION).upper()
    function: _Function = "LINEAR"
    for known in get_args(_Function):
        if said == known:
            function = known
    window = Window(centres[0], widths[0], function)
    return window if window.is_valid else None


def _padding(header: DicomHeader, *, signed: bool) -> tuple[int, int] | None:
    value = header.get_integers(tags.PIXEL_PADDING_VALUE, signed=signed)
    if not value:
        return None
    limit = header.get_integers(tags.PIXEL_PADDING_RANGE_LIMIT, signed=signed) or value
    ends = sorted((_as_stored(value[0], signed=signed), _as_stored(limit[0], signed=signed)))
    return ends[0], ends[1]


def _as_stored(value: int, *, signed: bool) -> int:
    """A 16-bit value with the sign of the pixels, whatever VR somebody wrote it in."""
    word = value % _WORDS
    return word - _WORDS if signed and word >= _WORDS // 2 else word


def read_palette(header: DicomHeader) -> PaletteTable:
    """The palette of a PALETTE COLOR image (PS3.3 C.7.6.3.1.5, C.7.6.3.1.6).

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
        values = _entries(header, data_tag, count).astype(np.float64)
        if len(values) < count:
            raise corrupt_error("its palette is shorter than described")
        # Entries of 8 bits stand in bytes or, against the standard, in the low byte of words.
        colours.append(values * 257 if values.max() < 1 << _BYTE else values)
    return PaletteTable.from_colours(first, *colours)
