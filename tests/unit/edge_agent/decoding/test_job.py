"""Time-outs of a decode job; the rest is tested with real workers."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from edge_agent.decoding.job import DecodeJob


async def test_a_timeout_that_has_just_expired_cannot_be_shortened() -> None:
    """Both happen in one turn of the event loop: the time-out must be reported as one."""
    nothing = cast("Any", None)
    job = DecodeJob(nothing, nothing, memoryview(b""), 5.0, nothing)

    async def overdue() -> None:
        async with asyncio.timeout(0) as job._timeout:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                job.shorten_timeout(1.0)
                raise

    with pytest.raises(TimeoutError):
        await overdue()
    assert job.limit_s == 1.0
