"""A short run of the identity campaign; `make campaign ARGS=identity` does 100,000 requests."""

from __future__ import annotations

import pytest

from tests.campaign.identity import campaign


@pytest.mark.slow
async def test_no_response_reaches_another_request() -> None:
    tally = await campaign(800, seed=20261123, kill_every=60, kill_all_every=6)
    assert not tally.wrong
    assert tally.kills["all"] > 0
    assert tally.kills["one"] > 0
    for end in ("answered", "cancelled", "disconnected", "dropped", "overloaded"):
        assert tally.ends[end] > 0, end
