"""A few hundred hostile requests; `make campaign ARGS=fuzz` sends any number."""

from __future__ import annotations

import pytest

from tests.campaign.fuzz import campaign


@pytest.mark.slow
def test_hostile_bytes_are_answered_with_a_code_and_the_agent_keeps_running() -> None:
    tally = campaign(rounds=1, examples=120, first_seed=20261125)
    assert not tally.wrong
    assert tally.sound > 5
    for end in ("corrupt", "invalid_request", "connection ended"):
        assert tally.ends[end] > 0, end
    assert {"protobuf", "multipart"} <= set(tally.kinds)
    assert len({"DICOM", "PNG", "JPEG", "TIFF", "damaged"} & set(tally.kinds)) > 2
