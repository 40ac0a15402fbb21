"""Padding, estimated windows and unusual tables, for which pydicom is no reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset

from edge_agent.imaging import Limits, read_study
from edge_agent.imaging.presentation import (
    LookupTable,
    Presentation,
    Rescale,
    Window,
    estimate_window,
)
from hilum.codes import WarningCode
from tests.support.images import studies


def grey(pixels: NDArray[Any], fit: tuple[int, int] | None = None, **elements: Any) -> NDArray[Any]:
    data = studies.dicom(pixels, **elements)
    radiograph, _ = read_study(data, limits=Limits(min_side=1), fit=fit)
    return radiograph.pixels


def lut(values: list[int], *, first: int = 0, bits: int = 16, vr: str = "US") -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(values), first, bits]
    item["LUTDescriptor"].VR = vr
    item.LUTData = values
    item["LUTData"].VR = "US"
    return item


class TestPadding:
    """Return a collimated picture: a bright square in padding of the lowest stored value."""

    def picture(self, padding: int) -> NDArray[np.int16]:
        pixels = np.full((120, 120), padding, np.int16)
        pixels[20:100, 20:100] = 2000
        return pixels

    @pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
    @pytest.mark.parametrize("fit", [None, (37, 37), (60, 60)])
    @pytest.mark.parametrize("padding", [-2000, 0, 30_000])
    def test_it_is_black_and_is_left_out_of_averages(
        self, padding: int, fit: tuple[int, int] | None, photometric: str
    ) -> None:
        pixels = self.picture(padding)
        elements = {"PixelPaddingValue": padding, "PhotometricInterpretation": photometric}
        shown = grey(pixels, fit, WindowCenter=2000, WindowWidth=1000, **elements)
        alone = grey(np.full((120, 120), 2000, np.int16), fit, WindowCenter=2000, WindowWidth=1000,
                     PhotometricInterpretation=photometric)[0, 0]  # fmt: skip
        assert shown[0, 0] == 0
        assert set(np.unique(shown)) == {0, alone}

    def test_a_range(self) -> None:
        pixels = self.picture(-2000)
        pixels[:10] = -1990
        shown = grey(
            pixels, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1980, WindowCenter=0,
            WindowWidth=8000,
        )  # fmt: skip
        assert not shown[:20].any()
        assert shown[50, 50] > 0

    def test_it_does_not_widen_an_estimated_window(self) -> None:
        pixels = self.picture(-30_000)
        pixels[20:100, 20:100] = np.linspace(1000, 1200, 80)
        shown = grey(pixels, WindowCenter=None, WindowWidth=None, PixelPaddingValue=-30_000)
        assert np.ptp(shown[20:100, 20:100]) == 255

    def test_a_picture_of_padding_only(self) -> None:
        pixels = np.full((50, 50), -5, np.int16)
        shown = grey(pixels, WindowCenter=None, WindowWidth=None, PixelPaddingValue=-5)
        assert not shown.any()

    def test_declared_but_absent(self) -> None:
        plain = studies.chest()
        np.testing.assert_array_equal(
            grey(plain, bits=12, PixelPaddingValue=65_000), grey(plain, bits=12)
        )

    def test_value_written_with_the_wrong_sign(self) -> None:
        ds = studies.data_set(self.picture(-2000))
        ds.add_new("PixelPaddingValue", "US", 65_536 - 2000)
        shown = read_study(studies.written(ds), limits=Limits(min_side=1))[0].pixels
        assert shown[0, 0] == 0

    def test_implicit_value_has_the_sign_of_the_pixels(self) -> None:
        ds = studies.data_set(self.picture(-2000), PixelPaddingValue=-2000)
        data = studies.written(ds, "1.2.840.10008.1.2")
        radiograph, _ = read_study(data, limits=Limits(min_side=1))
        assert radiograph.pixels[0, 0] == 0


class TestEstimatedWindow:
    def test_covers_the_patient_not_the_border(self) -> None:
        pixels = np.zeros((200, 200), np.uint16)
        pixels[40:160, 40:160] = np.random.default_rng(1).integers(9000, 9500, (120, 120))
        pixels[:5] = 65_535
        shown = grey(pixels, WindowCenter=None, WindowWidth=None)
        inside = shown[40:160, 40:160]
        assert np.percentile(inside, 95) - np.percentile(inside, 5) > 200

    def test_one_value(self) -> None:
        shown = grey(np.full((64, 64), 700, np.uint16), WindowCenter=None, WindowWidth=None)
        assert len(np.unique(shown)) == 1

    def test_two_values(self) -> None:
        pixels = np.full((64, 64), 700, np.uint16)
        pixels[:32] = 100
        shown = grey(pixels, WindowCenter=None, WindowWidth=None)
        assert shown[0, 0] < shown[-1, -1]

    def test_inverse_picture_is_the_mirror(self) -> None:
        pixels = studies.chest()
        straight = grey(pixels, WindowCenter=None, WindowWidth=None)
        inverse = grey(pixels, WindowCenter=None, WindowWidth=None, PresentationLUTShape="INVERSE")
        assert np.abs(255 - straight.astype(int) - inverse).max() <= 1

    def test_is_the_same_in_modality_values(self) -> None:
        sample = np.arange(1000, dtype=np.uint16)
        words = np.arange(1 << 16, dtype=np.float64)
        plain = estimate_window(sample, words)
        scaled = estimate_window(sample, words * 4 - 100)
        assert scaled.centre == pytest.approx(plain.centre * 4 - 100)
        assert scaled.width == pytest.approx(plain.width * 4)


class TestInversion:
    """MONOCHROME1 and the shape INVERSE mean the same; both together are one inversion."""

    @pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
    @pytest.mark.parametrize("shape", [None, "IDENTITY", "INVERSE"])
    def test_once(self, shape: str | None, photometric: str) -> None:
        pixels = studies.chest()
        elements = {"PresentationLUTShape": shape} if shape else {}
        shown = grey(pixels, bits=12, PhotometricInterpretation=photometric, **elements)
        straight = grey(pixels, bits=12).astype(int)
        inverse = photometric == "MONOCHROME1" or shape == "INVERSE"
        assert np.abs((255 - straight if inverse else straight) - shown).max() <= 1


class TestTables:
    def test_of_eight_bits_in_words_and_in_bytes(self) -> None:
        pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
        words = lut(list(range(255, -1, -1)), bits=8)
        octets = lut([0] * 256, bits=8)
        octets.add_new("LUTData", "OW", bytes(range(255, -1, -1)))
        for table in (words, octets):
            shown = grey(pixels, VOILUTSequence=[table])
            np.testing.assert_array_equal(shown, 255 - pixels)

    def test_of_65536_entries_whose_number_is_stored_as_zero(self) -> None:
        pixels = np.arange(0, 65_536, 256, dtype=np.uint16).reshape(16, 16)
        table = lut([0], bits=16)
        table.LUTDescriptor = [0, 0, 16]
        table.add_new("LUTData", "OW", np.arange(65_535, -1, -1, dtype=np.uint16).tobytes())
        shown = grey(pixels, VOILUTSequence=[table])
        np.testing.assert_array_equal(shown, np.rint((65_535 - pixels) / 257))

    def test_that_declares_fewer_bits_than_its_entries_have(self) -> None:
        pixels = np.arange(256, dtype=np.uint16).reshape(16, 16)
        table = lut([n * 257 for n in range(256)], bits=10)
        np.testing.assert_array_equal(grey(pixels, VOILUTSequence=[table]), pixels)

    @pytest.mark.parametrize("broken", ["descriptor", "data"])
    def test_unreadable_ones_are_treated_as_absent(self, broken: str) -> None:
        table = lut([1, 2, 3])
        if broken == "descriptor":
            table.LUTDescriptor = [3, 0]
        else:
            table.LUTData = []
        plain = read_study(studies.dicom())[0].pixels
        shown = read_study(studies.dicom(VOILUTSequence=[table]))[0].pixels
        np.testing.assert_array_equal(shown, plain)

    def test_an_unreadable_one_without_a_window_is_a_missing_window(self) -> None:
        table = lut([1, 2, 3])
        table.LUTDescriptor = [3, 0]
        data = studies.dicom(VOILUTSequence=[table], WindowCenter=None, WindowWidth=None)
        codes = [warning.code for warning in read_study(data)[0].warnings]
        assert codes == [WarningCode.MISSING_WINDOW]


class TestRescale:
    def test_negative_slope_reverses_the_order(self) -> None:
        pixels = studies.chest()
        window = {"WindowCenter": "-2048", "WindowWidth": "4096"}
        shown = grey(pixels, bits=12, RescaleSlope="-1", RescaleIntercept="0", **window)
        assert np.corrcoef(shown.ravel(), pixels.ravel())[0, 1] < -0.99

    @pytest.mark.parametrize("slope", ["0", "", "abc"])
    def test_impossible_ones_are_treated_as_absent(self, slope: str) -> None:
        pixels = studies.chest()
        ds = studies.data_set(pixels, bits=12, RescaleSlope="111", RescaleIntercept="5")
        written = studies.written(ds).replace(b"111 ", slope.encode().ljust(4))
        shown = read_study(written, limits=Limits(min_side=1))[0].pixels
        np.testing.assert_array_equal(shown, grey(pixels, bits=12))


def test_values_beyond_the_bits_stored_still_have_a_grey() -> None:
    """A codestream may have more bits than its header declares; values are clamped."""
    table = Presentation(Rescale(), Window(2048, 4096)).build_table(np.zeros((2, 2), np.uint16))
    assert table.shape == (65_536,)
    assert table[65_535] == 255


def test_table_of_signed_values_is_indexed_by_the_word() -> None:
    table = Presentation(voi=Window(0, 100)).build_table(np.zeros((2, 2), np.int16))
    assert table[np.array(-50, np.int16).view(np.uint16)] == 0
    assert table[49] == 255


def test_modality_table_is_clamped_at_its_ends() -> None:
    table = LookupTable(10, 16, np.array([5, 7, 9], np.uint16))
    np.testing.assert_array_equal(table.apply(np.array([0.0, 10, 11, 12, 99])), [5, 5, 7, 9, 9])
