"""Short runs of the campaigns that load a real agent; `make campaign` runs them at length."""

from __future__ import annotations

import io

import pytest

from tests.campaign import large_images, overload, soak


@pytest.mark.slow
async def test_requests_beyond_the_capacity_are_refused_and_none_is_lost() -> None:
    tally = await overload.campaign(seconds=4, measure_s=2, seed=20261125)
    assert not tally.wrong
    assert tally.ends.total() == tally.sent
    assert min(tally.ends[end] for end in ("routine", "stat", "refused")) > 0


@pytest.mark.slow
async def test_under_load_responses_stay_correct_and_every_sample_is_written() -> None:
    table = io.StringIO()
    tally = await soak.campaign(table=table, requests=60, every_s=0.2, kill_every_s=1, seed=1)
    assert not tally.wrong
    assert tally.ends["answered"] > 0
    lines = table.getvalue().splitlines()
    assert len(lines) == len(tally.samples) + 1 > 2
    flat = soak.Flatness.of(tally.samples)
    assert flat.most_memory_mb > 100
    assert flat.most_files > 10


@pytest.mark.slow
async def test_of_many_pictures_of_64_megapixels_few_are_in_memory() -> None:
    tally = await large_images.campaign(kinds=["jpeg"], many=8, most=False)
    assert not tally.wrong
    assert tally.ends["answered"] == 2 + 8 + 4
