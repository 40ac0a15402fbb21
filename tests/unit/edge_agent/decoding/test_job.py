"""A decode job's own clock; the whole of it is tested with real workers."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from edge_agent.decoding.job import DecodeJob


async def test_nobody_can_be_hurried_whose_time_has_just_passed() -> None:
    """Both in one turn of the event loop: the cancellation must stay what it is."""
    nothing = cast("Any", None)
    job = DecodeJob(nothing, nothing, memoryview(b""), 5.0, nothing)

    async def overdue() -> None:
        async with asyncio.timeout(0) as job._limit:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                job.hurry(1.0)
                raise

    with pytest.raises(TimeoutError):
        await overdue()
    assert job.limit_s == 1.0
