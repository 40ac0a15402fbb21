"""Short runs of the campaign that cuts the power, and of one whose log does not sync."""

import pytest

from tests.campaign.audit_power_cuts import campaign

pytestmark = [pytest.mark.service("strace"), pytest.mark.slow]


def test_no_durable_entry_is_lost_in_a_power_cut() -> None:
    result = campaign(accesses=6, states=3, every=7)
    assert result.states > 300
    assert result.wrong == []


@pytest.mark.parametrize("synchronous", ["OFF", "NORMAL"])
def test_a_database_that_syncs_less_loses_durable_entries(synchronous: str) -> None:
    result = campaign(accesses=2, states=2, every=20, synchronous=synchronous)
    assert any("missing" in it for it in result.wrong), result.wrong
