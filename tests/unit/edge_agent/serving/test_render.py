"""Rendered images for the browser."""

from __future__ import annotations

import asyncio

import cv2
import numpy as np
import pytest

from edge_agent.core.radiograph import Radiograph
from edge_agent.decoding.decoder import ThreadDecoder
from edge_agent.errors import Overloaded, StudyImageRefused
from edge_agent.imaging import Limits
from edge_agent.serving.render import Renderer
from tests.support.images.facts import image_facts


class Held:
    """A decoder that answers `shape` when the test permits it."""

    concurrency = 1

    def __init__(self, rows: int, columns: int, *, held: bool = False) -> None:
        self.started = asyncio.Event()
        self.free = asyncio.Event()
        if not held:
            self.free.set()
        ramp = np.linspace(0, 255, rows * columns).reshape(rows, columns)
        self._answer = Radiograph(ramp.astype(np.uint8), image_facts(rows, columns))

    async def start(self) -> None: ...

    async def decode(
        self, image: bytes | memoryview, fit: tuple[int, int], *, deadline: float | None = None
    ) -> Radiograph:
        self.started.set()
        await self.free.wait()
        return self._answer

    async def close(self) -> None: ...


def shape_of(png: bytes) -> tuple[int, ...]:
    return tuple(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED).shape)


@pytest.mark.parametrize(
    ("rows", "columns", "shown"),
    [(40, 30, (40, 30)), (100, 50, (64, 32)), (50, 100, (32, 64)), (1000, 2, (64, 1))],
)
async def test_keeps_the_aspect_within_the_bound(
    rows: int, columns: int, shown: tuple[int, int]
) -> None:
    picture = await Renderer(Held(rows, columns), max_side=64).render(b"")
    assert shape_of(picture) == shown


async def test_the_rendered_image_has_the_radiographs_grey_values() -> None:
    decoder = Held(48, 32)
    picture = await Renderer(decoder).render(b"")
    seen = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(seen, decoder._answer.pixels)


async def test_a_real_radiograph(rg1: bytes) -> None:
    decoder = ThreadDecoder(1, Limits())
    assert shape_of(await Renderer(decoder).render(rg1)) == (1955, 1841)
    assert max(shape_of(await Renderer(decoder, max_side=512).render(rg1))) == 512
    await decoder.close()


async def test_refuses_what_the_detector_refuses() -> None:
    decoder = ThreadDecoder(1, Limits())
    with pytest.raises(StudyImageRefused):
        await Renderer(decoder).render(b"no image")
    await decoder.close()


async def test_the_number_of_waiting_images_is_bounded() -> None:
    decoder = Held(8, 8, held=True)
    renderer = Renderer(decoder, max_waiting=2)
    first, second = (asyncio.ensure_future(renderer.render(b"")) for _ in range(2))
    await decoder.started.wait()
    with pytest.raises(Overloaded):
        await renderer.render(b"")
    second.cancel()
    await asyncio.wait([second])
    third = asyncio.ensure_future(renderer.render(b""))
    decoder.free.set()
    assert shape_of(await first) == shape_of(await third) == (8, 8)
