"""A short run of the swap campaign; `make campaign ARGS=swap` does 200 swaps and 50 reverts."""

from __future__ import annotations

import pytest

from tests.campaign.swap import campaign


@pytest.mark.slow
async def test_models_are_replaced_under_load_and_every_answer_is_its_models() -> None:
    tally = await campaign(swaps=10, reverts=4, seed=20261201, kill_every=60)
    assert not tally.wrong
    assert tally.changes["swap active"] == 11  # One before the first revert.
    assert tally.changes["revert active"] == 4
    assert tally.kills["one"] > 0
    assert tally.shadow_images > 0
    assert len(tally.answered_by) == 3
