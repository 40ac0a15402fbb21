"""A short run of the campaign on a full disk."""

import pytest

from tests.campaign.audit_full_disk import campaign

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_detections_go_on_while_the_disk_is_full(kind: str) -> None:
    tally = campaign(
        seconds=6, reserve_entries=2100, restarts=1, disk_bytes=32 << 20, clients=2, kind=kind
    )
    assert tally.wrong == []
    assert tally.answered > 0
    assert tally.refused_writes > 0
    assert tally.starts == 2
