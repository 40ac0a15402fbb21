"""JPEG, PNG and TIFF files: every format of exported radiographs, and refusals."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edge_agent.core.geometry import Letterbox
from edge_agent.core.study_context import StudyContext
from edge_agent.errors import StudyImageRefused
from edge_agent.imaging import Limits, read_study
from edge_agent.imaging.letterbox import resize
from hilum.codes import ErrorCode, WarningCode
from tests.support.images import studies

GREY = (studies.chest(bits=8)).astype(np.uint8)
DEEP = studies.chest(bits=16)
UNKNOWN = {WarningCode.UNKNOWN_VIEW}
ESTIMATED = UNKNOWN | {WarningCode.MISSING_WINDOW}


def pillow(image: Image.Image | NDArray[Any], kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    image.save(file, kind, **options)
    return file.getvalue()


def pixels_of(data: bytes, warnings: set[WarningCode] = UNKNOWN) -> NDArray[np.int32]:
    radiograph, context = read_study(data)
    assert {warning.code for warning in radiograph.warnings} == warnings
    assert radiograph.pixels.flags.c_contiguous
    assert radiograph.pixels.shape == (radiograph.facts.rows, radiograph.facts.columns)
    assert context == StudyContext()
    return radiograph.pixels.astype(np.int32)


def code_of(data: bytes, **limits: Any) -> ErrorCode:
    with pytest.raises(StudyImageRefused) as refused:
        read_study(data, limits=Limits(**limits))
    return refused.value.code


def off_by(data: bytes, expected: NDArray[Any] = GREY) -> int:
    return int(np.abs(pixels_of(data) - expected).max())


def tinted() -> NDArray[np.uint8]:
    """Return a colour picture, u8 of shape (H, W, 3)."""
    return np.dstack([255 - GREY, GREY, GREY // 2])


LUMINANCE = cv2.cvtColor(tinted(), cv2.COLOR_RGB2GRAY)


class TestJpeg:
    @pytest.mark.parametrize("progressive", [False, True])
    def test_grey(self, *, progressive: bool) -> None:
        assert off_by(pillow(GREY, "JPEG", quality=98, progressive=progressive)) <= 4

    @pytest.mark.parametrize("subsampling", [0, 2])
    def test_colour(self, subsampling: int) -> None:
        data = pillow(tinted(), "JPEG", quality=98, subsampling=subsampling)
        assert off_by(data, LUMINANCE) <= 4

    @pytest.mark.parametrize("adobe", [False, True])
    def test_cmyk_in_either_polarity(self, *, adobe: bool) -> None:
        """Adobe stores light, others store ink; Pillow writes as Adobe does."""
        ink = np.dstack([255 - GREY, 255 - GREY, 255 - GREY, np.zeros_like(GREY)])
        data = pillow(Image.fromarray(ink, "CMYK"), "JPEG", quality=98)
        if not adobe:
            stream = imagecodecs.jpeg8_encode(ink, 98, colorspace="CMYK", outcolorspace="CMYK")
            at = stream.find(b"\xff\xee")
            length = struct.unpack_from(">H", stream, at + 2)[0] if at > 0 else 0
            data = stream[:at] + stream[at + 2 + length :] if at > 0 else stream
        assert off_by(data) <= 6

    def test_twelve_bits(self) -> None:
        data = imagecodecs.jpeg8_encode(studies.chest(bits=12), 98, bitspersample=12)
        assert np.corrcoef(pixels_of(data, ESTIMATED).ravel(), GREY.ravel())[0, 1] > 0.995

    def test_lossless(self) -> None:
        assert off_by(imagecodecs.jpeg8_encode(GREY, lossless=True, bitspersample=8)) == 0

    @pytest.mark.parametrize("side", [640, 512, 384, 224, 97])
    def test_scaled_decoding_equals_scaling_within_a_grey_level(
        self, side: int, radiographs: list[Path]
    ) -> None:
        for path in radiographs[1::20]:
            data = path.read_bytes()
            radiograph, _ = read_study(data, fit=(side, side))
            whole, _ = read_study(data)
            expected = resize(whole.pixels, *radiograph.pixels.shape)
            difference = radiograph.pixels.astype(int) - expected
            assert abs(difference.mean()) < 0.2
            assert np.abs(difference).mean() < 1.2

    def test_many_scans_are_an_attack(self) -> None:
        data = pillow(GREY, "JPEG", progressive=True)
        scan = data[data.rindex(b"\xff\xda") : -2]
        assert code_of(data[:-2] + scan * 300 + data[-2:]) is ErrorCode.CORRUPT

    def test_declared_size_comes_first(self) -> None:
        data = bytearray(pillow(GREY, "JPEG"))
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = (65_000).to_bytes(2, "big") * 2
        assert code_of(bytes(data)) is ErrorCode.TOO_LARGE

    def test_cut_short(self) -> None:
        data = pillow(GREY, "JPEG")
        assert code_of(data[: len(data) // 2]) is ErrorCode.TRUNCATED
        assert code_of(data[:-2]) is ErrorCode.TRUNCATED

    def test_thumbnail_in_the_header_is_no_end(self) -> None:
        exif = Image.Exif()
        exif[0x010E] = "x"
        thumbnail = pillow(GREY[:32, :32], "JPEG")
        data = pillow(GREY, "JPEG", exif=exif.tobytes() + thumbnail)
        assert b"\xff\xd9" in data[: len(data) // 2]
        assert code_of(data[:-20]) is ErrorCode.TRUNCATED

    def test_bytes_after_the_end_are_ignored(self) -> None:
        data = pillow(GREY, "JPEG", quality=98)
        assert off_by(data + b"rubbish" * 100) <= 4

    @pytest.mark.parametrize("filler", [b"\xff", b"\xff\xe1\x00\x02"])
    def test_endless_fillers_are_an_attack(self, filler: bytes) -> None:
        assert code_of(b"\xff\xd8" + b"\xff" + filler * 10_000_000) is ErrorCode.CORRUPT


class TestPng:
    def test_endless_chunks_are_an_attack(self) -> None:
        data = pillow(GREY, "PNG")
        chunk = bytes(4) + b"teXt" + struct.pack(">L", zlib.crc32(b"teXt"))
        assert code_of(data[:33] + chunk * 5_000_000 + data[33:]) is ErrorCode.TRUNCATED

    def test_grey(self) -> None:
        assert off_by(pillow(GREY, "PNG")) == 0

    def test_sixteen_bits_are_windowed(self) -> None:
        grey = pixels_of(pillow(DEEP, "PNG"), ESTIMATED)
        assert np.corrcoef(grey.ravel(), DEEP.ravel())[0, 1] > 0.99
        assert grey.min() == 0
        assert grey.max() == 255

    def test_a_narrow_range_of_sixteen_bits_fills_the_grey_scale(self) -> None:
        narrow = (DEEP // 100 + 20_000).astype(np.uint16)
        assert np.ptp(pixels_of(pillow(narrow, "PNG"), ESTIMATED)) == 255

    def test_colour(self) -> None:
        assert off_by(pillow(tinted(), "PNG"), LUMINANCE) <= 1

    def test_colour_of_sixteen_bits(self) -> None:
        deep = np.dstack([DEEP, DEEP, DEEP])
        file = cv2.imencode(".png", deep)[1].tobytes()
        grey = pixels_of(file, ESTIMATED)
        assert np.corrcoef(grey.ravel(), DEEP.ravel())[0, 1] > 0.99

    def test_alpha_is_blended_with_black(self) -> None:
        alpha = np.full_like(GREY, 255)
        alpha[:40] = 0
        for picture in (np.dstack([GREY] * 3 + [alpha]), np.dstack([GREY, alpha])):
            data = pillow(picture, "PNG")
            assert off_by(data, np.where(alpha, GREY, 0)) <= 1

    def test_palette(self) -> None:
        image = Image.fromarray(tinted()).quantize(200)
        expected = np.asarray(image.convert("RGB").convert("L"))
        assert off_by(pillow(image, "PNG"), expected) <= 1

    def test_two_colours(self) -> None:
        picture = GREY > 128
        assert off_by(pillow(Image.fromarray(picture), "PNG"), picture * 255) == 0

    def test_animated(self) -> None:
        frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
        data = pillow(frames[0], "PNG", save_all=True, append_images=frames[1:])
        assert code_of(data) is ErrorCode.MULTI_FRAME

    def test_declared_size_comes_first(self) -> None:
        data = bytearray(pillow(GREY, "PNG"))
        data[16:24] = (40_000).to_bytes(4, "big") * 2
        assert code_of(bytes(data)) is ErrorCode.TOO_LARGE

    def test_bomb(self) -> None:
        """A small picture whose data inflate to a gigabyte costs no more than a small picture."""
        header = b"IHDR" + struct.pack(">LLBBBBB", 200, 200, 8, 0, 0, 0, 0)
        packed = zlib.compress(bytes(100_000_000), 9)
        chunks = (header, b"IDAT" + packed, b"IEND")
        data = b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">L", len(chunk) - 4) + chunk + struct.pack(">L", zlib.crc32(chunk))
            for chunk in chunks
        )
        try:
            radiograph, _ = read_study(data)
        except StudyImageRefused as refused:
            assert refused.code is ErrorCode.CORRUPT  # noqa: PT017 - a refusal is as right as a picture
        else:
            assert radiograph.pixels.shape == (200, 200)

    def test_two_headers(self) -> None:
        """The decoder uses the first one, whatever the second declares."""
        data = pillow(GREY, "PNG")
        header = data[8:33]
        assert code_of(data[:33] + header + data[33:]) is ErrorCode.CORRUPT
        assert code_of(data[:-12] + header + data[-12:]) is ErrorCode.CORRUPT

    def test_cut_short(self) -> None:
        data = pillow(GREY, "PNG")
        for end in (20, len(data) // 2, len(data) - 12, len(data) - 1):
            assert code_of(data[:end]) is ErrorCode.TRUNCATED


class TestTiff:
    @pytest.mark.parametrize(
        "compression", [None, "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits", "zstd"]
    )
    def test_grey(self, compression: str | None) -> None:
        assert off_by(pillow(GREY, "TIFF", compression=compression)) == 0

    def test_jpeg_inside(self) -> None:
        assert off_by(pillow(GREY, "TIFF", compression="jpeg", quality=98)) <= 4

    @pytest.mark.parametrize("compression", [None, "tiff_lzw"])
    def test_sixteen_bits(self, compression: str | None) -> None:
        grey = pixels_of(pillow(DEEP, "TIFF", compression=compression), ESTIMATED)
        assert np.corrcoef(grey.ravel(), DEEP.ravel())[0, 1] > 0.99

    def test_big_endian(self) -> None:
        data = pillow(Image.fromarray(DEEP.astype(">u2")), "TIFF")
        assert np.corrcoef(pixels_of(data, ESTIMATED).ravel(), DEEP.ravel())[0, 1] > 0.99

    @pytest.mark.parametrize("tiled", [False, True])
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_strips_and_tiles(self, dtype: type[np.generic], *, tiled: bool) -> None:
        picture = GREY if dtype == np.uint8 else DEEP
        grey = read_study(raw_tiff(picture, tiled=tiled))[0].pixels
        assert np.corrcoef(grey.ravel(), picture.ravel())[0, 1] > 0.99
        if dtype == np.uint8:
            np.testing.assert_array_equal(grey, GREY)

    def test_white_is_zero(self) -> None:
        assert off_by(raw_tiff(255 - GREY, photometric=0)) == 0

    def test_white_is_zero_in_jpeg(self) -> None:
        data = pillow(255 - GREY, "TIFF", compression="jpeg", quality=98)
        assert off_by(with_tag(data, 262, becomes=(262, 0))) <= 4

    def test_colour_and_alpha(self) -> None:
        assert off_by(pillow(tinted(), "TIFF"), LUMINANCE) <= 1
        alpha = np.full_like(GREY, 255)
        alpha[:40] = 0
        data = pillow(np.dstack([GREY] * 3 + [alpha]), "TIFF")
        assert off_by(data, np.where(alpha, GREY, 0)) <= 1

    def test_palette(self) -> None:
        image = Image.fromarray(tinted()).quantize(200)
        expected = np.asarray(image.convert("RGB").convert("L"))
        assert off_by(pillow(image, "TIFF"), expected) <= 1

    @pytest.mark.parametrize("compression", [None, "jpeg"])
    def test_cmyk(self, compression: str | None) -> None:
        ink = np.dstack([255 - GREY, 255 - GREY, 255 - GREY, np.zeros_like(GREY)])
        data = pillow(Image.fromarray(ink, "CMYK"), "TIFF", compression=compression)
        assert off_by(data) <= (20 if compression else 2)

    def test_luminance_and_chrominance(self) -> None:
        image = Image.fromarray(tinted()).convert("YCbCr")
        assert off_by(pillow(image, "TIFF"), LUMINANCE) <= 2

    def test_several_pages(self) -> None:
        pages = [Image.fromarray(GREY), Image.fromarray(GREY)]
        data = pillow(pages[0], "TIFF", save_all=True, append_images=pages[1:])
        assert code_of(data) is ErrorCode.MULTI_FRAME

    @pytest.mark.parametrize("kind", [np.float32, np.int32])
    def test_numbers_that_are_no_grey(self, kind: type[np.generic]) -> None:
        assert code_of(pillow(GREY.astype(kind), "TIFF")) is ErrorCode.UNSUPPORTED_PIXELS

    def test_two_colours(self) -> None:
        data = pillow(Image.fromarray(GREY > 99), "TIFF")
        assert code_of(data) is ErrorCode.UNSUPPORTED_PIXELS

    def test_fax(self) -> None:
        data = pillow(Image.fromarray(GREY > 99), "TIFF", compression="group4")
        assert code_of(data) is ErrorCode.UNSUPPORTED_SYNTAX

    def test_bigtiff(self) -> None:
        data = pillow(GREY, "TIFF", big_tiff=True)
        assert code_of(data) is ErrorCode.UNSUPPORTED_SYNTAX

    def test_declared_size_comes_first(self) -> None:
        data = raw_tiff(GREY, height=60_000, width=60_000)
        assert code_of(data) is ErrorCode.TOO_LARGE

    def test_values_of_unknown_elements_are_not_read(self) -> None:
        """Sixty thousand elements that share one large list would fill the memory."""
        shared = bytes(4_000_000)
        count = 60_000
        entries = b"".join(struct.pack("<HHLL", 1000 + n, 4, 1_000_000, 16) for n in range(count))
        at = 16 + len(shared)
        data = b"II*\0" + struct.pack("<L", at) + bytes(8) + shared
        data += struct.pack("<H", count) + entries + bytes(4)
        assert code_of(data) is ErrorCode.UNSUPPORTED_PIXELS

    def test_an_element_that_is_stored_twice(self) -> None:
        """Decoders disagree about which one counts, so the decoded size could be any."""
        assert code_of(with_tag(raw_tiff(GREY), 277, becomes=(257, 9))) is ErrorCode.CORRUPT
        offsets = struct.pack("<HHLL", 273, 4, 1_000_000, 16)
        at = 16 + 4_000_000
        many = b"II*\0" + struct.pack("<L", at) + bytes(at - 8)
        many += struct.pack("<H", 60_000) + offsets * 60_000 + bytes(4)
        assert code_of(many) is ErrorCode.CORRUPT

    def test_tiles_larger_than_any_picture_are_refused(self) -> None:
        data = raw_tiff(GREY, tiled=True, tile=1 << 16)
        assert code_of(data) is ErrorCode.CORRUPT

    def test_cut_short(self) -> None:
        data = raw_tiff(GREY)
        for end in (5, 50, len(data) // 2, len(data) - 1):
            assert code_of(data[:end]) is ErrorCode.TRUNCATED


def with_tag(data: bytes, tag: int, *, becomes: tuple[int, int]) -> bytes:
    """Return a little-endian TIFF file with one entry's tag and (short) value changed."""
    (at,) = struct.unpack_from("<L", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        if struct.unpack_from("<H", data, entry)[0] == tag:
            changed = struct.pack("<HHLHH", becomes[0], 3, 1, becomes[1], 0)
            return data[:entry] + changed + data[entry + 12 :]
    raise AssertionError(f"no tag {tag}")


def raw_tiff(
    pixels: NDArray[Any],
    *,
    tiled: bool = False,
    tile: int = 64,
    photometric: int = 1,
    height: int | None = None,
    width: int | None = None,
) -> bytes:
    """Return an uncompressed TIFF file, in one strip or in tiles, which Pillow does not write."""
    rows, columns = pixels.shape
    if tiled:
        side = min(tile, 64)
        padded = np.pad(pixels, ((0, -rows % side), (0, -columns % side)))
        blocks = [
            padded[y : y + side, x : x + side].tobytes()
            for y in range(0, padded.shape[0], side)
            for x in range(0, padded.shape[1], side)
        ]
    else:
        blocks = [pixels.tobytes()]
    entries: dict[int, tuple[int, ...] | bytes] = {
        256: (width or columns,),
        257: (height or rows,),
        258: (pixels.itemsize * 8,),
        259: (1,),
        262: (photometric,),
        277: (1,),
    }
    if tiled:
        entries |= {322: (tile,), 323: (tile,)}
    else:
        entries[278] = (rows,)
    return tiff_file(entries, blocks, (324, 325) if tiled else (273, 279))


def tiff_file(
    entries: dict[int, tuple[int, ...] | bytes], blocks: list[bytes], places: tuple[int, ...]
) -> bytes:
    """Return a TIFF file of these elements; `places` are the tags of block offsets and sizes."""
    ends = list(itertools.accumulate(map(len, blocks), initial=8))
    extents = (tuple(ends[:-1]), tuple(map(len, blocks)))
    entries = entries | dict(zip(places, extents, strict=False))
    values_at = ends[-1] + 2 + 12 * len(entries) + 4
    directory, values = struct.pack("<H", len(entries)), b""
    for tag, numbers in sorted(entries.items()):
        plain = isinstance(numbers, bytes)
        packed = bytes(numbers) if plain else struct.pack(f"<{len(numbers)}L", *numbers)
        directory += struct.pack("<HHL", tag, 7 if plain else 4, len(numbers))
        if len(packed) <= 4:
            directory += packed.ljust(4, b"\0")
        else:
            directory += struct.pack("<L", values_at + len(values))
            values += packed
    head = b"II*\0" + struct.pack("<L", ends[-1])
    return head + b"".join(blocks) + directory + bytes(4) + values


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "JPEG in TIFF", "YCbCr in TIFF"])
    @pytest.mark.parametrize("fit", [None, (64, 96)])
    def test_pictures_are_turned_upright(
        self, kind: str, orientation: int, fit: tuple[int, int] | None
    ) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = stored_as(GREY, orientation)
        image = Image.fromarray(stored)
        if kind.startswith("YCbCr"):
            image = image.convert("RGB").convert("YCbCr")
        options = {
            "JPEG": {"quality": 98},
            "JPEG in TIFF": {"quality": 98, "compression": "jpeg"},
        }
        data = pillow(image, kind.rpartition(" ")[2], exif=exif, **options.get(kind, {}))
        radiograph, _ = read_study(data, fit=fit)
        assert (radiograph.facts.rows, radiograph.facts.columns) == GREY.shape
        expected = GREY
        if fit:
            box = Letterbox.fit(*GREY.shape, *fit)
            expected = resize(GREY, box.inner_height, box.inner_width)
        assert np.abs(radiograph.pixels.astype(int) - expected).max() <= 6

    def test_damaged_exif_is_ignored(self) -> None:
        data = pillow(GREY, "JPEG", quality=98, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
        assert off_by(data) <= 4


def stored_as(upright: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Return a picture as a file of this orientation stores it.

    By the visual positions of row 0 and column 0 in the Exif standard.
    """
    flips = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright.T[::-1],
        7: upright.T[::-1, ::-1],
        8: upright.T[:, ::-1],
    }
    return np.ascontiguousarray(flips[orientation])


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", ErrorCode.EMPTY_FILE),
        (b"\0", ErrorCode.NOT_AN_IMAGE),
        (b"hello", ErrorCode.NOT_AN_IMAGE),
        (bytes(1000), ErrorCode.NOT_AN_IMAGE),
        (b"%PDF-1.7" + bytes(100), ErrorCode.NOT_AN_IMAGE),
        (b"PK\x03\x04" + bytes(100), ErrorCode.NOT_AN_IMAGE),
        (b"<html></html>", ErrorCode.NOT_AN_IMAGE),
        (b"\xff\xd8\xff", ErrorCode.TRUNCATED),
        (b"\x89PNG\r\n\x1a\n", ErrorCode.TRUNCATED),
        (b"II*\0", ErrorCode.TRUNCATED),
        (b"GIF89a" + bytes(100), ErrorCode.UNSUPPORTED_SYNTAX),
        (b"BM" + bytes(100), ErrorCode.UNSUPPORTED_SYNTAX),
        (b"RIFF\0\0\0\0WEBP", ErrorCode.UNSUPPORTED_SYNTAX),
        (b"\0\0\0\x18ftypheic", ErrorCode.UNSUPPORTED_SYNTAX),
        (b"\xff\x0a" + bytes(100), ErrorCode.UNSUPPORTED_SYNTAX),
    ],
)
def test_what_is_no_radiograph(data: bytes, code: ErrorCode) -> None:
    assert code_of(data) is code
    assert code_of(memoryview(data)) is code  # type: ignore[arg-type]


def test_too_small_and_too_large() -> None:
    data = pillow(GREY, "PNG")
    assert code_of(data, min_side=150) is ErrorCode.TOO_SMALL
    assert code_of(data, max_pixels=20_000) is ErrorCode.TOO_LARGE


def test_real_radiographs_equal_opencvs_reading(radiographs: list[Path]) -> None:
    for path in radiographs[::10]:
        data = path.read_bytes()
        expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        radiograph, _ = read_study(data)
        assert np.abs(radiograph.pixels.astype(int) - expected).max() <= 1


class TestJpegInTiff:
    STRIP = 64

    def strips(self) -> list[bytes]:
        tops = range(0, GREY.shape[0], self.STRIP)
        return [pillow(GREY[top : top + self.STRIP], "JPEG", quality=98) for top in tops]

    def test_strips(self) -> None:
        assert off_by(jpeg_tiff(self.strips(), self.STRIP)) <= 4

    def test_strips_without_end(self) -> None:
        assert off_by(jpeg_tiff([strip[:-2] for strip in self.strips()], self.STRIP)) <= 4

    def test_a_strip_whose_size_is_not_declared(self) -> None:
        whole = [pillow(GREY, "JPEG", quality=98)]
        assert off_by(jpeg_tiff(whole, GREY.shape[0], counts=False)) <= 4

    @pytest.mark.parametrize("after", [b"", b"\xff\xd9", b"\xff\xd9\0"])
    def test_tables_apart(self, after: bytes) -> None:
        first, *_ = apart = [tables_and_rest(strip) for strip in self.strips()]
        data = jpeg_tiff([rest for _, rest in apart], self.STRIP, tables=first[0] + after)
        assert off_by(data) <= 4

    def test_a_damaged_strip(self) -> None:
        strips = self.strips()
        strips[1] = strips[1][:2000] + bytes(200) + strips[1][2200:]
        assert code_of(jpeg_tiff(strips, self.STRIP)) is ErrorCode.CORRUPT

    def test_a_strip_that_declares_more_than_the_picture(self) -> None:
        strips = self.strips()
        frame = strips[0].index(b"\xff\xc0") + 5
        strips[0] = strips[0][:frame] + b"\xff\xdc\xff\xdc" + strips[0][frame + 4 :]
        assert code_of(jpeg_tiff(strips, self.STRIP)) is ErrorCode.CORRUPT


def tables_and_rest(stream: bytes) -> tuple[bytes, bytes]:
    """Return a JPEG file's tables, as TIFF's JPEGTables without their end, and the rest."""
    tables = rest = stream[:2]
    at = 2
    while stream[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4])
        if stream[at + 1] in {0xDB, 0xC4}:
            tables += stream[at:end]
        else:
            rest += stream[at:end]
        at = end
    return tables, rest + stream[at:]


def jpeg_tiff(
    strips: list[bytes], strip_rows: int, *, counts: bool = True, tables: bytes = b""
) -> bytes:
    """Return a TIFF file whose strips, of GREY, are JPEG."""
    rows, columns = GREY.shape
    entries: dict[int, tuple[int, ...] | bytes] = {
        256: (columns,),
        257: (rows,),
        258: (8,),
        259: (7,),
        262: (1,),
        277: (1,),
        278: (strip_rows,),
    }
    if tables:
        entries[347] = tables
    return tiff_file(entries, strips, (273, 279) if counts else (273,))
