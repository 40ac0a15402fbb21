"""Pixel data to stored values: one decoder for each transfer syntax, the fastest correct one.

Measured on full-size radiographs (`python -m tests.bench`); each is checked bit for bit against a
second decoder. Nothing is handed to a decoder before its own header agrees with the data set's,
so that no codestream decides how much memory is taken.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom._uid_dict import UID_dictionary
from rle import rle

from edge_agent.imaging import codestream
from edge_agent.imaging.dicom_file import DicomFile
from edge_agent.imaging.grayscale import Stored
from edge_agent.imaging.native import decoded
from edge_agent.imaging.refusals import corrupt, truncated, unsupported_pixels, unsupported_syntax

# Codec threads within one image; more images at once are the caller's concern.
_THREADS = 2
_BYTE, _MAX_BITS = 8, 16
_RLE_HEADER_BYTES = 64
_JPEG_XL = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (110, 111, 112))
_ENCAPSULATED_UNCOMPRESSED = "1.2.840.10008.1.2.1.98"


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """The image pixel module (PS3.3 C.7.6.3), as far as decoding needs it."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    planar: bool
    photometric: str

    @property
    def count(self) -> int:
        """Samples in the picture."""
        return self.rows * self.columns * self.samples


@dataclass(frozen=True, slots=True)
class Frame:
    """One compressed frame, what its codestream must agree with, and how small it may come."""

    data: bytes
    format: PixelFormat
    at_least: tuple[int, int] | None


def supported(syntax: str) -> bool:
    """Whether pixel data in this transfer syntax can be read."""
    return syntax in _NATIVE or syntax in _DECODERS


def decode(file: DicomFile, form: PixelFormat, at_least: tuple[int, int] | None) -> Stored:
    """Decode the file's one frame.

    Args:
        file: the file, with pixel data.
        form: what its data set declares.
        at_least: rows and columns that suffice; JPEG 2000 then comes at a reduced resolution of
            at least that size where that saves time.

    Returns:
        Stored values, u8, u16 or i16, of shape (rows, columns), or (rows, columns, samples) in
        colour; the luminance alone where that is all the decoder needs to yield.

    Raises:
        StudyImageRefused: UNSUPPORTED_SYNTAX, UNSUPPORTED_PIXELS, TRUNCATED or CORRUPT.
    """
    if file.syntax in _NATIVE:
        if file.fragments is not None:
            if file.syntax != _ENCAPSULATED_UNCOMPRESSED:
                raise corrupt("uncompressed pixel data come in fragments")
            return _native(memoryview(b"".join(file.fragments)), file, form)
        if file.native is None:
            raise truncated("there are no pixel data")
        return _native(file.native, file, form)
    decoder = _DECODERS.get(file.syntax)
    if decoder is None:
        raise unsupported_syntax(f"transfer syntax {syntax_name(file.syntax)}")
    if not file.fragments:
        raise corrupt("compressed pixel data do not come in fragments")
    fragments = file.fragments
    data = bytes(fragments[0]) if len(fragments) == 1 else b"".join(fragments)
    return decoder(Frame(data, form, at_least))


def syntax_name(syntax: str) -> str:
    """The name of a registered transfer syntax; what else stands in the header is not repeated."""
    if syntax in _JPEG_XL:
        return "JPEG XL"
    return UID_dictionary[syntax][0] if syntax in UID_dictionary else "(not registered)"


def _native(data: memoryview, file: DicomFile, form: PixelFormat) -> Stored:
    if form.photometric == "YBR_FULL_422":
        return _luminance_422(data, form)
    size = form.bits_allocated // 8
    if len(data) < form.count * size:
        raise truncated("there are fewer pixels than rows and columns declare")
    if size == 1:
        if not file.encoding.little and file.pixel_vr == "OW":
            # Bytes in big-endian words stand in swapped pairs (PS3.5 8.2).
            words = np.frombuffer(data[: len(data) // 2 * 2], np.uint16)
            data = memoryview(words.byteswap().tobytes())
        flat: NDArray[Any] = np.frombuffer(data, np.uint8, form.count)
    else:
        order = "<" if file.encoding.little else ">"
        flat = np.frombuffer(data, f"{order}u2", form.count).astype(np.uint16, copy=False)
    return _stored_bits(_shaped(flat, form, planar=form.planar), form)


def _luminance_422(data: memoryview, form: PixelFormat) -> Stored:
    """The luminance of pixels that stand as Y Y Cb Cr (PS3.3 C.7.6.3.1.2)."""
    pairs = form.rows * ((form.columns + 1) // 2)
    if form.bits_allocated != _BYTE or form.columns % 2:
        raise unsupported_pixels("subsampled colour with other than 8 bits")
    if len(data) < pairs * 4:
        raise truncated("there are fewer pixels than rows and columns declare")
    quads = np.frombuffer(data, np.uint8, pairs * 4).reshape(-1, 4)
    return np.ascontiguousarray(quads[:, :2]).reshape(form.rows, form.columns)


def _shaped(flat: NDArray[Any], form: PixelFormat, *, planar: bool) -> NDArray[Any]:
    if form.samples == 1:
        return flat.reshape(form.rows, form.columns)
    if planar:
        planes = flat.reshape(form.samples, form.rows, form.columns)
        return np.ascontiguousarray(planes.transpose(1, 2, 0))
    return flat.reshape(form.rows, form.columns, form.samples)


def _stored_bits(words: NDArray[Any], form: PixelFormat) -> Stored:
    """Stored values out of allocated words, shape kept (PS3.5 8.1.1).

    Bits beside the stored ones may hold old overlays; where none is set, which looking at the
    extremes tells, nothing is copied.
    """
    low = form.high_bit + 1 - form.bits_stored
    if low:
        words = words >> words.dtype.type(low)
    if form.signed:
        return sign_extended(words, form.bits_stored)
    mask = (1 << form.bits_stored) - 1
    if form.bits_stored < form.bits_allocated and words.size and int(words.max()) > mask:
        words = words & words.dtype.type(mask)
    return words


def sign_extended(words: NDArray[Any], bits: int) -> NDArray[np.int16]:
    """Two's complement numbers of `bits` bits, in the low bits of u8 or u16 words, as i16."""
    shift = np.uint16(_MAX_BITS - bits)
    return (words.astype(np.uint16) << shift).view(np.int16) >> np.int16(shift)


def _rle(frame: Frame) -> Stored:
    form = frame.format
    if len(frame.data) < _RLE_HEADER_BYTES:
        raise truncated("the run-length segments have no header")
    if int.from_bytes(frame.data[:4], "little") != form.samples * form.bits_allocated // 8:
        raise corrupt("the run-length segments do not fit the declared pixels")
    # imagecodecs' decoder is as fast, but reads beyond the end of damaged segments and crashes.
    pixels = form.rows * form.columns
    raw = decoded(rle.decode_frame, frame.data, pixels, form.bits_allocated, "<")
    flat = np.frombuffer(raw, f"<u{form.bits_allocated // 8}")
    if flat.size != form.count:
        raise corrupt("the run-length segments do not fit the declared pixels")
    return _stored_bits(_shaped(flat, form, planar=True), form)


def _jpeg(frame: Frame) -> Stored:
    facts = codestream.read_jpeg(frame.data)
    form = frame.format
    _agree(facts, form)
    options: dict[str, str] = {}
    if form.samples > 1 and facts.process != codestream.LOSSLESS:
        # libjpeg guesses RGB or YCbCr from markers; the data set knows where they are absent.
        if not (facts.adobe or facts.jfif):
            options["colorspace"] = "RGB" if form.photometric == "RGB" else "YCBCR"
        options["outcolorspace"] = "GRAYSCALE"
    pixels = decoded(imagecodecs.jpeg8_decode, frame.data, **options)
    return _plain(pixels, form, facts.precision)


def _jpeg_ls(frame: Frame) -> Stored:
    facts = codestream.read_jpeg(frame.data)
    if facts.process != codestream.JPEG_LS:
        raise corrupt("the picture is JPEG, its header says JPEG-LS")
    _agree(facts, frame.format)
    pixels = decoded(imagecodecs.jpegls_decode, frame.data)
    return _plain(pixels, frame.format, facts.precision)


def _plain(pixels: NDArray[Any], form: PixelFormat, precision: int) -> Stored:
    """Stored values of a codestream that knows no sign."""
    _check_shape(pixels, form)
    return sign_extended(pixels, min(precision, form.bits_stored)) if form.signed else pixels


def _jpeg2000(frame: Frame) -> Stored:
    data = codestream.unwrap_jp2(frame.data)
    facts = codestream.read_jpeg2000(data)
    _agree(facts, frame.format)
    reduction = _reduction(facts, frame)
    if reduction and facts.rows * facts.columns <= (Image.MAX_IMAGE_PIXELS or 0):
        return _signed_as_declared(_reduced(data, facts, reduction), facts, frame.format)
    pixels = decoded(imagecodecs.jpeg2k_decode, data, numthreads=_THREADS)
    _check_shape(pixels, frame.format)
    return _signed_as_declared(pixels, facts, frame.format)


def _high_throughput(frame: Frame) -> Stored:
    data = codestream.unwrap_jp2(frame.data)
    facts = codestream.read_jpeg2000(data)
    _agree(facts, frame.format)
    reduction = _reduction(facts, frame)
    pixels = decoded(imagecodecs.htj2k_decode, data, skipres=reduction or None)
    if not reduction:
        _check_shape(pixels, frame.format)
    return _signed_as_declared(pixels, facts, frame.format)


def _reduction(facts: codestream.Jpeg2000Facts, frame: Frame) -> int:
    """How many times the resolution may be halved and still suffice."""
    form = frame.format
    # Where the signs differ the values wrap around, and an average of wrapped values is none.
    sound = facts.at_origin and facts.signed == form.signed and form.samples == 1
    if frame.at_least is None or not sound:
        return 0
    reduction = 0
    while (
        reduction < facts.levels
        and facts.rows >> (reduction + 1) >= frame.at_least[0]
        and facts.columns >> (reduction + 1) >= frame.at_least[1]
    ):
        reduction += 1
    return reduction


def _reduced(data: memoryview, facts: codestream.Jpeg2000Facts, reduction: int) -> NDArray[Any]:
    """Decode at 1/2**reduction of the size; imagecodecs has no such option, Pillow has."""
    height, width = (n + (1 << reduction) - 1 >> reduction for n in (facts.rows, facts.columns))
    pixels: NDArray[Any] = decoded(_by_pillow, data, reduction, height, width)
    # Pillow moves values to the top of the word, and signed ones up to zero.
    word = pixels.dtype.itemsize * _BYTE
    values: NDArray[Any] = pixels >> pixels.dtype.type(word - facts.precision)
    if facts.signed:
        values = (values.astype(np.int32) - (1 << (facts.precision - 1))).astype(np.int16)
    return values


def _by_pillow(data: memoryview, reduction: int, height: int, width: int) -> NDArray[Any]:
    """Decode the reduced picture into the top left corner of a full-size one, and cut it out.

    Pillow's own `reduce` rounds sizes otherwise than the standard, which rounds up, and fails on
    every other image.
    """
    with Image.open(io.BytesIO(data), formats=["JPEG2000"]) as image:
        tile = image.tile[0]
        codec, _reduction, *rest = tuple(tile.args or ())
        arguments = (codec, reduction, *rest)
        image.tile = [tile._replace(extents=(0, 0, width, height), args=arguments)]
        return np.asarray(image)[:height, :width]


def _signed_as_declared(
    pixels: NDArray[Any], facts: codestream.Jpeg2000Facts, form: PixelFormat
) -> Stored:
    """Settle where codestream and data set disagree on the sign: the data set is right.

    The codestream's precision counts, not BitsStored: writers get the one wrong, decoders cannot.
    """
    if form.signed and not facts.signed:
        return sign_extended(pixels, facts.precision)
    if facts.signed and not form.signed:
        unsigned = pixels.view(f"u{pixels.dtype.itemsize}")
        pixels = unsigned & unsigned.dtype.type((1 << facts.precision) - 1)
    return pixels.astype(np.int16, copy=False) if form.signed else pixels


def _agree(facts: codestream.JpegFacts | codestream.Jpeg2000Facts, form: PixelFormat) -> None:
    if (facts.rows, facts.columns) != (form.rows, form.columns):
        raise corrupt("the compressed picture declares another size than its header")
    if facts.components != form.samples:
        raise corrupt("the compressed picture declares other colours than its header")
    if facts.precision > _MAX_BITS:
        raise unsupported_pixels(f"{facts.precision} bits")


def _check_shape(pixels: NDArray[Any], form: PixelFormat) -> None:
    if pixels.shape[:2] != (form.rows, form.columns) or pixels.dtype.itemsize * _BYTE > _MAX_BITS:
        raise corrupt("the compressed picture is of another size than it declares")


_NATIVE = frozenset(
    {
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
        _ENCAPSULATED_UNCOMPRESSED,
    }
)
_DECODERS: dict[str, Callable[[Frame], Stored]] = {
    uid.RLELossless: _rle,
    uid.JPEGBaseline8Bit: _jpeg,
    uid.JPEGExtended12Bit: _jpeg,
    uid.JPEGLossless: _jpeg,
    uid.JPEGLosslessSV1: _jpeg,
    uid.JPEGLSLossless: _jpeg_ls,
    uid.JPEGLSNearLossless: _jpeg_ls,
    uid.JPEG2000Lossless: _jpeg2000,
    uid.JPEG2000: _jpeg2000,
    uid.HTJ2KLossless: _high_throughput,
    uid.HTJ2KLosslessRPCL: _high_throughput,
    uid.HTJ2K: _high_throughput,
}
