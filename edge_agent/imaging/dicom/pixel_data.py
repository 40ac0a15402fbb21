"""Pixel Data to stored values: for each transfer syntax the fastest decoder that is correct.

Decoders were measured on full-size radiographs (`python -m tests.bench`), and each is tested bit
for bit against a second one. A codestream's header is compared with the data set's before a
decoder sees the data, so that no codestream decides how much memory is allocated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import config, uid
from rle import rle

from edge_agent.imaging.codecs import jpeg_markers
from edge_agent.imaging.codecs.call import call_decoder
from edge_agent.imaging.codecs.jpeg2000 import decode_jpeg2000
from edge_agent.imaging.codecs.jpeg_turbo import (
    add_adobe_marker,
    decode_with_turbojpeg,
    is_turbojpeg_supported,
)
from edge_agent.imaging.codecs.jpeg_verified import decode_and_verify_jpeg
from edge_agent.imaging.dicom.parser import DicomFile
from edge_agent.imaging.errors import (
    corrupt_error,
    truncated_error,
    unsupported_pixels_error,
    unsupported_syntax_error,
)
from edge_agent.imaging.pixel_format import (
    BITS_PER_BYTE,
    EncodedFrame,
    PixelFormat,
    StoredValues,
    sign_extend,
)

_RLE_HEADER_BYTES = 64
_JPEG_XL = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (110, 111, 112))
_ENCAPSULATED_UNCOMPRESSED = "1.2.840.10008.1.2.1.98"


def is_supported(syntax: str) -> bool:
    """Return whether pixel data in this transfer syntax can be decoded."""
    return syntax in _NATIVE or syntax in _DECODERS


def decode_pixel_data(
    file: DicomFile, form: PixelFormat, min_size: tuple[int, int] | None
) -> StoredValues:
    """Decode the file's only frame.

    Args:
        file: the file, with pixel data.
        form: the pixel format that the data set declares.
        min_size: rows and columns that suffice, or None. JPEG 2000 is then decoded at a reduced
            resolution of at least that size.

    Returns:
        Stored values, u8, u16 or i16, of shape (rows, columns), or (rows, columns, samples) in
        colour. Where a decoder can return the luminance alone, it does.

    Raises:
        StudyImageRefused: UNSUPPORTED_SYNTAX, UNSUPPORTED_PIXELS, TRUNCATED or CORRUPT.
    """
    if file.syntax in _NATIVE:
        if file.fragments is not None:
            if file.syntax != _ENCAPSULATED_UNCOMPRESSED:
                raise corrupt_error("uncompressed pixel data come in fragments")
            return _decode_native(memoryview(b"".join(file.fragments)), file, form)
        if file.native is None:
            raise truncated_error("there are no pixel data")
        return _decode_native(file.native, file, form)
    decoder = _DECODERS.get(file.syntax)
    if decoder is None:
        raise unsupported_syntax_error(f"transfer syntax {name_transfer_syntax(file.syntax)}")
    if not file.fragments:
        raise corrupt_error("compressed pixel data do not come in fragments")
    fragments = file.fragments
    data = bytes(fragments[0]) if len(fragments) == 1 else b"".join(fragments)
    return decoder(EncodedFrame(data, form, min_size))


def name_transfer_syntax(syntax: str) -> str:
    """Return a registered UID's name. Any other text is not repeated, since it may be anything."""
    if syntax in _JPEG_XL:
        return "JPEG XL"
    # Validation is off, because pydicom would log a warning that contains the value.
    name = uid.UID(syntax, validation_mode=config.IGNORE).name
    return "(not registered)" if name == syntax else name


def _decode_native(data: memoryview, file: DicomFile, form: PixelFormat) -> StoredValues:
    if form.photometric in {"YBR_FULL_422", "YBR_PARTIAL_422"}:
        return _extract_luminance_422(data, form)
    size = form.bits_allocated // 8
    if len(data) < form.sample_count * size:
        raise truncated_error("there are fewer pixels than rows and columns declare")
    if size == 1:
        if not file.encoding.is_little_endian and file.pixel_vr == "OW":
            # In big-endian words the bytes of each pair are swapped (PS3.5 8.2).
            words = np.frombuffer(data[: len(data) // 2 * 2], np.uint16)
            data = memoryview(words.byteswap().tobytes())
        flat: NDArray[Any] = np.frombuffer(data, np.uint8, form.sample_count)
    else:
        order = "<" if file.encoding.is_little_endian else ">"
        flat = np.frombuffer(data, f"{order}u2", form.sample_count).astype(np.uint16, copy=False)
    return form.extract_stored(form.reshape(flat, is_planar=form.is_planar))


def _extract_luminance_422(data: memoryview, form: PixelFormat) -> StoredValues:
    """Return the luminance of pixels stored as Y Y Cb Cr (PS3.3 C.7.6.3.1.2)."""
    pairs = form.rows * ((form.columns + 1) // 2)
    if form.bits_allocated != BITS_PER_BYTE or form.columns % 2:
        raise unsupported_pixels_error("subsampled colour with other than 8 bits")
    if len(data) < pairs * 4:
        raise truncated_error("there are fewer pixels than rows and columns declare")
    quads = np.frombuffer(data, np.uint8, pairs * 4).reshape(-1, 4)
    return np.ascontiguousarray(quads[:, :2]).reshape(form.rows, form.columns)


def _decode_rle(frame: EncodedFrame) -> StoredValues:
    form = frame.format
    if len(frame.data) < _RLE_HEADER_BYTES:
        raise truncated_error("the run-length segments have no header")
    if int.from_bytes(frame.data[:4], "little") != form.samples * form.bits_allocated // 8:
        raise corrupt_error("the run-length segments do not fit the declared pixels")
    # imagecodecs' decoder is as fast, but reads beyond the end of damaged segments and crashes.
    pixels = form.rows * form.columns
    raw = call_decoder(rle.decode_frame, frame.data, pixels, form.bits_allocated, "<")
    flat = np.frombuffer(raw, f"<u{form.bits_allocated // 8}")
    if flat.size != form.sample_count:
        raise corrupt_error("the run-length segments do not fit the declared pixels")
    return form.extract_stored(form.reshape(flat, is_planar=True))


def _decode_jpeg(frame: EncodedFrame) -> StoredValues:
    header = jpeg_markers.read_jpeg_header(frame.data)
    form = frame.format
    frame.check_declared(header.rows, header.columns, header.components, header.precision)
    # libjpeg guesses RGB or YCbCr from markers. Where there are none, the data set decides.
    is_colour_declared = form.samples == 1 or header.has_adobe_marker or header.has_jfif_marker
    is_rgb = form.photometric == "RGB"
    if is_turbojpeg_supported(header):
        data = frame.data
        if not is_colour_declared:
            data = add_adobe_marker(data, is_rgb=is_rgb)
        return _to_stored(decode_with_turbojpeg(data, header), frame, header.precision)
    options: dict[str, str] = {}
    if form.samples > 1 and header.process != jpeg_markers.LOSSLESS:
        if not is_colour_declared:
            options["colorspace"] = "RGB" if is_rgb else "YCBCR"
        options["outcolorspace"] = "GRAYSCALE"
    pixels = decode_and_verify_jpeg(frame.data, header, **options)
    return _to_stored(pixels, frame, header.precision)


def _decode_jpeg_ls(frame: EncodedFrame) -> StoredValues:
    header = jpeg_markers.read_jpeg_header(frame.data)
    if header.process != jpeg_markers.JPEG_LS:
        raise corrupt_error("the picture is JPEG, its header declares JPEG-LS")
    frame.check_declared(header.rows, header.columns, header.components, header.precision)
    pixels = call_decoder(imagecodecs.jpegls_decode, frame.data)
    return _to_stored(pixels, frame, header.precision)


def _to_stored(pixels: NDArray[Any], frame: EncodedFrame, precision: int) -> StoredValues:
    """Return stored values of a JPEG or JPEG-LS codestream, whose samples have no sign."""
    frame.check_decoded(pixels)
    form = frame.format
    return sign_extend(pixels, min(precision, form.bits_stored)) if form.is_signed else pixels


_NATIVE = frozenset(
    {
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
        _ENCAPSULATED_UNCOMPRESSED,
    }
)
_DECODERS: dict[str, Callable[[EncodedFrame], StoredValues]] = {
    uid.RLELossless: _decode_rle,
    uid.JPEGBaseline8Bit: _decode_jpeg,
    uid.JPEGExtended12Bit: _decode_jpeg,
    uid.JPEGLossless: _decode_jpeg,
    uid.JPEGLosslessSV1: _decode_jpeg,
    uid.JPEGLSLossless: _decode_jpeg_ls,
    uid.JPEGLSNearLossless: _decode_jpeg_ls,
    uid.JPEG2000Lossless: decode_jpeg2000,
    uid.JPEG2000: decode_jpeg2000,
    uid.HTJ2KLossless: decode_jpeg2000,
    uid.HTJ2KLosslessRPCL: decode_jpeg2000,
    uid.HTJ2K: decode_jpeg2000,
}
