"""Activated bundles outlive restarts and changes of files; the active one is never written to."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from edge_agent.engines.bundle import Bundle
from edge_agent.errors import BundleInvalid, ConfigInvalid
from edge_agent.update.slots import Location, ModelSlots
from tests.support.agents.tagged import write_toy_bundle
from tests.support.system.disks import room_for


@pytest.fixture
def slots(tmp_path: Path) -> ModelSlots:
    for place in ("a", "b"):
        (tmp_path / "slots" / place).mkdir(parents=True)
    return ModelSlots(tmp_path / "slots")


def bundle(folder: Path, version: str) -> Bundle:
    return Bundle.open(write_toy_bundle(folder / f"{version}.bundle", version=version))


def activate(slots: ModelSlots, configured: Bundle, new: Bundle) -> Location:
    record = slots.load(lambda: configured)
    location, staged = slots.stage(new, record, lambda: configured)
    assert staged.digest == new.digest
    slots.activate(location, record)
    return location


def test_without_a_record_the_configured_bundle_is_active(
    slots: ModelSlots, tmp_path: Path
) -> None:
    configured = bundle(tmp_path, "1.0.0")
    record = slots.load(lambda: configured)
    assert record.active == Location(place="configured", digest=configured.digest)
    assert record.previous is None
    assert slots.open(record.active, lambda: configured) is configured


def test_an_activated_bundle_is_copied_and_survives_its_original(
    slots: ModelSlots, tmp_path: Path
) -> None:
    configured, new = bundle(tmp_path, "1.0.0"), bundle(tmp_path, "1.1.0")
    assert activate(slots, configured, new).place == "a"
    new.path.unlink()
    record = slots.load(lambda: configured)
    opened = slots.open(record.active, lambda: configured)
    assert opened.digest == new.digest
    assert opened.path.stat().st_mode & 0o777 == 0o600
    assert record.previous == Location(place="configured", digest=configured.digest)


def test_the_active_slot_is_never_written_to(slots: ModelSlots, tmp_path: Path) -> None:
    configured = bundle(tmp_path, "1.0.0")
    places = [
        activate(slots, configured, bundle(tmp_path, f"1.{minor}.0")).place for minor in range(1, 5)
    ]
    assert places == ["a", "b", "a", "b"]


def test_a_revert_needs_no_copy_because_the_previous_bundle_is_still_there(
    slots: ModelSlots, tmp_path: Path
) -> None:
    configured = bundle(tmp_path, "1.0.0")
    first, second = bundle(tmp_path, "1.1.0"), bundle(tmp_path, "1.2.0")
    for new in (first, second):
        activate(slots, configured, new)
    record = slots.load(lambda: configured)
    assert record.previous is not None
    reverted = slots.activate(record.previous, record)
    assert slots.open(reverted.active, lambda: configured).digest == first.digest
    assert reverted.previous == record.active
    assert slots.stage(second, reverted, lambda: configured)[0] == record.active


def test_only_a_bundle_that_has_answered_is_one_to_go_back_to(
    slots: ModelSlots, tmp_path: Path
) -> None:
    configured, first = bundle(tmp_path, "1.0.0"), bundle(tmp_path, "1.1.0")
    activate(slots, configured, first)
    record = slots.load(lambda: configured)
    location, _ = slots.stage(bundle(tmp_path, "1.2.0"), record, lambda: configured)
    # The agent fell back to the configured bundle, because the active one was damaged.
    changed = slots.activate(location, record, serving=configured.digest)
    assert changed.previous is not None
    assert changed.previous.digest == configured.digest
    assert slots.activate(location, record, serving="f" * 64).previous is None


def test_a_damaged_slot_is_written_again(slots: ModelSlots, tmp_path: Path) -> None:
    configured, new = bundle(tmp_path, "1.0.0"), bundle(tmp_path, "1.1.0")
    location = activate(slots, configured, new)
    (slots.folder / location.place / "default.bundle").write_bytes(b"damaged")
    again = activate(slots, configured, new)
    assert again.place != location.place
    record = slots.load(lambda: configured)
    assert slots.open(record.active, lambda: configured).digest == new.digest


def test_a_bundle_that_is_not_activated_leaves_the_previous_one(
    slots: ModelSlots, tmp_path: Path
) -> None:
    configured, first = bundle(tmp_path, "1.0.0"), bundle(tmp_path, "1.1.0")
    for new in (first, bundle(tmp_path, "1.2.0")):
        activate(slots, configured, new)
    record = slots.load(lambda: configured)
    slots.stage(bundle(tmp_path, "1.3.0"), record, lambda: configured)
    slots.discard()
    assert record.previous is not None
    assert slots.open(record.previous, lambda: configured).digest == first.digest
    assert not list(slots.folder.glob("?/.*"))


def test_another_bundle_in_the_settings_ends_what_was_activated(
    slots: ModelSlots, tmp_path: Path
) -> None:
    configured = bundle(tmp_path, "1.0.0")
    activate(slots, configured, bundle(tmp_path, "1.1.0"))
    other = bundle(tmp_path, "2.0.0")
    record = slots.load(lambda: other)
    assert record.active == Location(place="configured", digest=other.digest)
    # It ends for good, also if the settings later name the earlier bundle again.
    slots.activate(record.active, record)
    assert slots.load(lambda: configured).active.digest == configured.digest


def test_a_configured_bundle_that_was_removed_does_not_end_what_was_activated(
    slots: ModelSlots, tmp_path: Path
) -> None:
    configured, new = bundle(tmp_path, "1.0.0"), bundle(tmp_path, "1.1.0")
    activate(slots, configured, new)
    configured.path.unlink()
    record = slots.load(partial(Bundle.open, configured.path))
    assert record.active.digest == new.digest
    with pytest.raises(BundleInvalid):
        ModelSlots(slots.folder, "other").load(partial(Bundle.open, configured.path))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema_version": 2}', b"\xff" * 99])
def test_a_damaged_record_counts_as_none(slots: ModelSlots, tmp_path: Path, content: bytes) -> None:
    configured = bundle(tmp_path, "1.0.0")
    activate(slots, configured, bundle(tmp_path, "1.1.0"))
    (slots.folder / "default.json").write_bytes(content)
    assert slots.load(lambda: configured).active.place == "configured"


def test_a_slot_that_was_exchanged_is_not_opened(slots: ModelSlots, tmp_path: Path) -> None:
    configured, new = bundle(tmp_path, "1.0.0"), bundle(tmp_path, "1.1.0")
    location = activate(slots, configured, new)
    stored = slots.folder / "a" / "default.bundle"
    stored.write_bytes(bundle(tmp_path, "6.6.6").path.read_bytes())
    with pytest.raises(BundleInvalid, match="another bundle than was activated"):
        slots.open(location, lambda: configured)


def test_places_have_records_of_their_own(slots: ModelSlots, tmp_path: Path) -> None:
    configured, new = bundle(tmp_path, "1.0.0"), bundle(tmp_path, "1.1.0")
    activate(slots, configured, new)
    assert ModelSlots(slots.folder, "other").load(lambda: configured).active.place == "configured"


def test_a_full_disk_leaves_slot_and_record_as_they_were(slots: ModelSlots, tmp_path: Path) -> None:
    configured, first = bundle(tmp_path, "1.0.0"), bundle(tmp_path, "1.1.0")
    second = bundle(tmp_path, "1.2.0")
    activate(slots, configured, first)
    before = (slots.folder / "default.json").read_bytes()
    record = slots.load(lambda: configured)
    with room_for(100):
        with pytest.raises(ConfigInvalid, match="cannot be copied"):
            slots.stage(second, record, lambda: configured)
        assert record.previous is not None
        with pytest.raises(ConfigInvalid, match="cannot be written"):
            slots.activate(record.previous, record)
    assert (slots.folder / "default.json").read_bytes() == before
    assert list((slots.folder / "b").iterdir()) == []
    assert slots.load(lambda: configured) == record
