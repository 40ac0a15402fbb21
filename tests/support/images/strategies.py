"""Hypothesis strategies for hostile input: malformed study images, messages and forms.

The structure is kept: a PNG's chunks keep their checksums, a DICOM file stays a DICOM file, a form
keeps its boundary. Random bytes rarely pass the first check.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import cv2
from hypothesis import strategies as st
from pydicom import uid

from edge_agent.imaging import read_study
from tests.conftest import pydicom_file
from tests.support.images import studies
from tests.support.images.damaged import make_small_files, write_raster

GRPC_METHODS: Final = ("detect", "stream")
HTTP_PATHS: Final = ("/predict", "/predict/batch", "/render")
BOUNDARY: Final = "hilum"

sizes = st.sampled_from(
    [0, 1, 2, 7, 8, 12, 15, 16, 17, 127, 128, 255, 256, 4096, 8000, 65_535, 2**31 - 1, 2**32 - 1]
) | st.integers(0, 2**32 - 1)


@dataclass(frozen=True)
class Case:
    """One hostile request.

    Attributes:
        layer: the malformed layer: `image` (in a sound request), `message`, `form` or `wire`.
        kind: the kind of malformation.
        endpoint: a gRPC method for `message`, a path for `form`, either for `image`, and a port
            for `wire`.
        body: the bytes.
        content_type: of a form.
    """

    layer: str
    kind: str
    endpoint: str
    body: bytes
    content_type: str = ""


@cache
def small_radiographs() -> dict[str, bytes]:
    """Return RG1 at an eighth of its size. Unlike the crops, it reaches the engine."""
    pixels = read_study(pydicom_file("RG1_UNCI.dcm").read_bytes())[0].pixels
    small = cv2.resize(pixels, None, fx=0.125, fy=0.125, interpolation=cv2.INTER_AREA)
    return {
        "chest-dicom": studies.dicom(small, bits=8),
        "chest-png": write_raster(small, "PNG"),
        "chest-jpeg": write_raster(small, "JPEG", quality=90),
        "chest-tiff": write_raster(small, "TIFF"),
    }


@cache
def _files() -> dict[str, bytes]:
    return make_small_files() | small_radiographs()


def _place(draw: st.DrawFn, size: int) -> int:
    """Draw a position; half of the time in the first kilobytes, where the structure is."""
    within = min(size, 4096) if draw(st.booleans()) else size
    return draw(st.integers(0, max(0, within - 1)))


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, bytes]:
    """Draw a sound file with a few pieces changed, lost, doubled or copied from another file."""
    files = _files()
    name = draw(st.sampled_from(sorted(files)))
    data = bytearray(files[name])
    for _ in range(draw(st.integers(1, 6))):
        at = _place(draw, len(data))
        length = draw(st.integers(1, 64))
        match draw(st.sampled_from(["set", "number", "cut", "lose", "double", "graft", "insert"])):
            case "set":
                new = draw(st.binary(min_size=1, max_size=8))
                data[at : at + len(new)] = new
            case "number":
                form = draw(st.sampled_from(["<H", ">H", "<L", ">L"]))
                number = draw(sizes) % (1 << 8 * struct.calcsize(form))
                data[at : at + struct.calcsize(form)] = struct.pack(form, number)
            case "cut":
                del data[max(1, at) :]
            case "lose":
                del data[at : at + length]
            case "double":
                data[at:at] = data[at : at + length]
            case "graft":
                other = files[draw(st.sampled_from(sorted(files)))]
                start = _place(draw, len(other))
                data[at : at + length] = other[start : start + length]
            case "insert":
                data[at:at] = draw(st.binary(max_size=64))
    return f"damaged {name}", bytes(data)


_TEXT = st.text(st.characters(max_codepoint=255), max_size=20)
_NUMBERS = st.sampled_from(["1e308", "-1e308", "nan", "0", "-0", "", "abc", "1\\2", "1e999"])
_ELEMENTS: Final[dict[str, st.SearchStrategy[Any]]] = {
    **dict.fromkeys(
        (
            "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit",
            "PixelRepresentation", "PlanarConfiguration", "PixelPaddingValue",
        ),
        st.none() | (sizes.map(lambda size: size % 65_536)),
    ),
    **dict.fromkeys(
        ("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "NumberOfFrames",
         "PixelSpacing", "ImagerPixelSpacing"),
        st.none() | _NUMBERS,
    ),
    **dict.fromkeys(
        ("PhotometricInterpretation", "VOILUTFunction", "PresentationLUTShape", "Modality",
         "BodyPartExamined", "ViewPosition", "SpecificCharacterSet", "PatientName", "PatientID",
         "StudyInstanceUID", "SOPClassUID", "PresentationIntentType"),
        st.none() | _TEXT | st.sampled_from(
            ["MONOCHROME1", "RGB", "PALETTE COLOR", "YBR_FULL_422", "SIGMOID", "INVERSE", "\\"]
        ),
    ),
    "PixelData": st.none() | st.binary(max_size=300),
}  # fmt: skip
_SYNTAXES: Final = [
    uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian, uid.RLELossless, uid.JPEGBaseline8Bit,
    uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.HTJ2KLossless,
    uid.MPEG2MPML, "1.2.3",
]  # fmt: skip


_WRITE_ERRORS: Final = (
    ValueError, TypeError, AttributeError, OverflowError, LookupError, OSError, struct.error,
)  # fmt: skip


@st.composite
def dicom_elements(draw: st.DrawFn) -> tuple[str, bytes]:
    """Draw a DICOM file that is well formed but for the values of a few elements."""
    names = draw(st.lists(st.sampled_from(sorted(_ELEMENTS)), min_size=1, max_size=4, unique=True))
    elements = {name: draw(_ELEMENTS[name]) for name in names}
    syntax = draw(st.sampled_from(_SYNTAXES))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns about values that it writes.
        while elements:
            try:
                data_set = studies.data_set(studies.chest(), bits=12, **elements)
                return "DICOM elements", studies.written(data_set, syntax)
            except _WRITE_ERRORS:
                elements.popitem()
    return "DICOM elements", studies.dicom()


@st.composite
def png_chunks(draw: st.DrawFn, name: str) -> tuple[str, bytes]:
    """Draw a PNG with chunks changed, lost, moved or invented; each with its correct checksum."""
    png = _files()[name]
    chunks = _chunks(png)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(chunks) - 1))
        kind, body = chunks[at]
        match draw(st.sampled_from(["header", "body", "lose", "double", "new"])):
            case "header":
                small = st.integers(0, 17)
                dimensions = struct.pack(">LL", draw(sizes), draw(sizes))
                rest = bytes(draw(st.tuples(*[small] * 5)))
                chunks[0] = (b"IHDR", dimensions + rest)
            case "body":
                chunks[at] = (kind, body[: draw(st.integers(0, len(body)))] + draw(st.binary()))
            case "lose" if len(chunks) > 1:
                del chunks[at]
            case "double":
                chunks.insert(at, (kind, body))
            case _:
                named = st.sampled_from([b"PLTE", b"tRNS", b"eXIf", b"acTL", b"iCCP", b"zTXt"])
                chunks.insert(at, (draw(named), draw(st.binary(max_size=200))))
    return "PNG chunks", png[:8] + b"".join(
        struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def _chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], 8
    while at < len(png):
        (length,) = struct.unpack_from(">L", png, at)
        chunks.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


@st.composite
def jpeg_segments(draw: st.DrawFn, name: str) -> tuple[str, bytes]:
    """Draw a JPEG with a false frame header, or segments lost, doubled or invented."""
    segments, scan = _segments(_files()[name])
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(segments) - 1))
        marker, body = segments[at]
        match draw(st.sampled_from(["frame", "body", "lose", "double", "new"])):
            case "frame":
                components = draw(st.binary(max_size=12))
                frame = struct.pack(
                    ">BHHB", draw(st.sampled_from([8, 12, 16, 0])), draw(sizes) % 65_536,
                    draw(sizes) % 65_536, draw(st.integers(0, 5)),
                )  # fmt: skip
                segments[at] = (draw(st.integers(0xC0, 0xCF)), frame + components)
            case "body":
                segments[at] = (marker, body[: draw(st.integers(0, len(body)))] + draw(st.binary()))
            case "lose" if len(segments) > 1:
                del segments[at]
            case "double":
                segments.insert(at, (marker, body))
            case _:
                segments.insert(at, (draw(st.integers(0xC0, 0xFE)), draw(st.binary(max_size=99))))
    head = b"".join(
        bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body for marker, body in segments
    )
    return "JPEG segments", b"\xff\xd8" + head + scan


def _segments(jpeg: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Return marker and body of each segment up to the scan, and the scan with the rest."""
    segments, at = [], 2
    while jpeg[at + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", jpeg, at + 2)
        segments.append((jpeg[at + 1], jpeg[at + 4 : at + 2 + length]))
        at += 2 + length
    return segments, jpeg[at:]


@st.composite
def tiff_entries(draw: st.DrawFn, name: str) -> tuple[str, bytes]:
    """Draw a little-endian TIFF with a false first directory."""
    data = bytearray(_files()[name])
    (start,) = struct.unpack_from("<L", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    for _ in range(draw(st.integers(1, 4))):
        at = start + 2 + 12 * draw(st.integers(0, count - 1))
        tag = draw(st.integers(254, 340) | st.integers(0, 65_535))
        if draw(st.booleans()):
            (tag,) = struct.unpack_from("<H", data, at)
        entry = struct.pack("<HHLL", tag, draw(st.integers(0, 20)), draw(sizes), draw(sizes))
        data[at : at + 12] = entry
    return "TIFF entries", bytes(data)


_an_image: Final = st.just("chest-jpeg").map(lambda name: small_radiographs()[name])
"""A named function, because Hypothesis prints the functions of a strategy."""


@st.composite
def messages(draw: st.DrawFn) -> tuple[str, bytes]:
    """Draw encoded protobuf: the contract's fields and others, of any wire type, cut or not."""
    parts = []
    for _ in range(draw(st.integers(0, 6))):
        number = draw(st.sampled_from([1, 2, 3, 4, 15, 2**29 - 1]) | st.integers(0, 40))
        wire_type = draw(st.integers(0, 7))
        match wire_type:
            case 0:
                body = draw(st.binary(max_size=11)) + b"\x01"
            case 2:
                inner = draw(
                    st.binary(max_size=40)
                    | _an_image
                    | st.tuples(st.integers(0, 255), st.binary(max_size=12)).map(
                        lambda it: bytes((it[0],)) + it[1]
                    )
                )
                length = draw(st.just(len(inner)) | sizes) if draw(st.booleans()) else len(inner)
                body = varint(length) + inner
            case _:
                body = draw(st.binary(max_size=9))
        parts.append(varint(number << 3 | wire_type) + body)
    whole = b"".join(parts)
    return "protobuf", whole[: draw(st.integers(0, len(whole)))] if draw(st.booleans()) else whole


def varint(number: int) -> bytes:
    """Return a number as protobuf encodes it."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


_HEADERS: Final = st.sampled_from(
    [
        'Content-Disposition: form-data; name="file"; filename="x"',
        'Content-Disposition: form-data; name="files"; filename="x"',
        'Content-Disposition: form-data; name="threshold"',
        'Content-Disposition: form-data; name="priority"',
        "Content-Disposition: form-data",
        "Content-Disposition: attachment; filename*=utf-8''%ff",
        "Content-Type: image/png",
        "Content-Transfer-Encoding: base64",
        ": ",
        "",
    ]
)
_TYPES: Final = st.sampled_from(
    [
        f"multipart/form-data; boundary={BOUNDARY}",
        f'multipart/form-data; boundary="{BOUNDARY}"; charset=utf-16',
        "multipart/form-data",
        "multipart/form-data; boundary=" + "x" * 100,
        "multipart/mixed; boundary=hilum",
        "application/json",
        "",
    ]
)


@st.composite
def forms(draw: st.DrawFn) -> tuple[str, bytes, str]:
    """Draw a multipart body and its content type."""
    body = bytearray()
    for _ in range(draw(st.integers(0, 4))):
        head = "\r\n".join(draw(st.lists(_HEADERS | _TEXT, max_size=4)))
        content = draw(st.binary(max_size=200) | _an_image | _an_image.map(lambda it: it[:500]))
        body += f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode("latin-1") + content + b"\r\n"
    if draw(st.booleans()):
        body += f"--{BOUNDARY}--\r\n".encode()
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(body)))
        body[at : at + draw(st.integers(0, 9))] = draw(st.binary(max_size=9))
    usual = f"multipart/form-data; boundary={BOUNDARY}"
    return "multipart", bytes(body), draw(_TYPES) if draw(st.booleans()) else usual


_PIECES: Final = st.sampled_from(
    [
        b"POST /predict HTTP/1.1\r\n",
        b"GET /metrics HTTP/1.0\r\n",
        b"Host: 127.0.0.1\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: 99999999999999999999\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Type: multipart/form-data; boundary=b\r\n",
        b"Expect: 100-continue\r\n",
        b"\r\n",
        b"5\r\n--b\r\n\r\n",
        b"0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0\0\0\4\0\0\0\0\0",
    ]
)


def wires() -> st.SearchStrategy[bytes]:
    """Draw bytes that are no valid HTTP or HTTP/2."""
    return st.lists(_PIECES | st.binary(max_size=60), max_size=9).map(b"".join)


def images() -> st.SearchStrategy[tuple[str, bytes]]:
    """Draw a malformed study image of any format: the kind of malformation, and the file."""
    kinds = [
        damaged(),
        damaged(),
        dicom_elements(),
        dicom_elements(),
        png_chunks("png-16"),
        png_chunks("chest-png"),
        jpeg_segments("jpeg"),
        jpeg_segments("chest-jpeg"),
        tiff_entries("tiff"),
        tiff_entries("chest-tiff"),
        st.binary(max_size=4000).map(lambda data: ("noise", data)),
    ]
    return _draw_evenly(kinds)


def _draw_evenly(strategies: list[st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """Draw from one of them, each as often as it is listed, which `one_of` does not guarantee."""
    return st.sampled_from(range(len(strategies))).flatmap(strategies.__getitem__)


def cases() -> st.SearchStrategy[Case]:
    """Draw a hostile request of any kind; more than half are study images."""
    image_cases = st.builds(
        lambda made, endpoint: Case("image", made[0], endpoint, made[1]),
        images(),
        st.sampled_from(GRPC_METHODS + HTTP_PATHS),
    )
    message_cases = st.builds(
        lambda made, endpoint: Case("message", made[0], endpoint, made[1]),
        messages(),
        st.sampled_from(GRPC_METHODS),
    )
    form_cases = st.builds(
        lambda made, endpoint: Case("form", made[0], endpoint, made[1], made[2]),
        forms(),
        st.sampled_from(HTTP_PATHS),
    )
    wire_cases = st.builds(
        lambda body, endpoint: Case("wire", "broken framing", endpoint, body),
        wires(),
        st.sampled_from(["grpc port", "http port"]),
    )
    return _draw_evenly([*[image_cases] * 6, message_cases, form_cases, form_cases, wire_cases])
