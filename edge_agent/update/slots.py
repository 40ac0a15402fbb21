"""The slots of a served model: durable copies of activated bundles, and which of them is active.

`slots/a` and `slots/b` hold one bundle each. An activated bundle is copied into the slot that is
not active, so that the active one stays whole whatever happens meanwhile. `slots/NAME.json` names
the active and the previous bundle; replacing it, durably, activates a bundle for the next start.

The record also holds the digest of the bundle in the settings. If that bundle changes, the operator
has configured another one, and the record no longer counts.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from edge_agent.engines.bundle import Bundle
from edge_agent.errors import BundleInvalid, ConfigInvalid
from edge_agent.system.files import fsync_folder, replace_file
from hilum.manifest import Sha256

DEFAULT: Final = "default"
"""The name of the slots of the model that answers if a request names none."""
CONFIGURED: Final = "configured"
"""The place of the bundle in the settings."""
_MAX_RECORD_BYTES: Final = 1 << 16

_log = logging.getLogger(__name__)


class Location(BaseModel):
    """A bundle by its place and digest: a slot, or the bundle in the settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    place: Literal["a", "b", "configured"]
    digest: Sha256


class SlotRecord(BaseModel):
    """The content of `slots/NAME.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    configured_digest: Sha256
    active: Location
    previous: Location | None = None


@dataclass(frozen=True, slots=True)
class ModelSlots:
    """The slots of one served model.

    Attributes:
        folder: the state folder's `slots`, with the subfolders `a` and `b`.
        name: the name of the served model's place, `default` or a name in the settings.
    """

    folder: Path
    name: str = DEFAULT

    def load(self, open_configured: Callable[[], Bundle]) -> SlotRecord:
        """Return the record that counts.

        Args:
            open_configured: opens the bundle in the settings. If it cannot be opened, for example
                because it was removed after another one was activated, the stored record counts.

        Returns:
            The stored record; or one of the bundle in the settings, if that is another one than
            when the record was stored, or if no valid record is stored.

        Raises:
            BundleInvalid: there is no record, and the bundle in the settings cannot be opened.
        """
        record = self._read()
        try:
            digest = open_configured().digest
        except BundleInvalid as error:
            if record is None:
                raise
            _log.error("the bundle in the settings cannot be opened", extra={"why": error.message})
            return record
        if record is not None and record.configured_digest == digest:
            return record
        return SlotRecord(
            configured_digest=digest, active=Location(place=CONFIGURED, digest=digest)
        )

    def open(self, location: Location, open_configured: Callable[[], Bundle]) -> Bundle:
        """Open the bundle at a location.

        Raises:
            BundleInvalid: it is damaged, or no longer the one that was recorded.
        """
        if location.place == CONFIGURED:
            bundle = open_configured()
        else:
            bundle = Bundle.open(self._slot_path(location.place))
        if bundle.digest != location.digest:
            raise BundleInvalid(
                f"{bundle.path} holds another bundle than was activated",
                hint="Activate the bundle that is to answer.",
            )
        return bundle

    def stage(
        self, bundle: Bundle, record: SlotRecord, open_configured: Callable[[], Bundle]
    ) -> tuple[Location, Bundle]:
        """Copy a bundle durably beside the slot that is not active.

        Nothing is copied if the bundle is the configured one, or is whole in a slot already. The
        slot's earlier bundle, to which a revert goes back, stays until the new one is activated.

        Args:
            bundle: the verified bundle.
            record: the present record, which says which slot must stay as it is.
            open_configured: opens the bundle in the settings.

        Returns:
            The location, and the bundle opened from there.

        Raises:
            ConfigInvalid: the disk is full, or the folder cannot be written to.
            BundleInvalid: the file changed while it was copied.
        """
        configured = Location(place=CONFIGURED, digest=record.configured_digest)
        for known in (configured, record.active, record.previous):
            if known is not None and known.digest == bundle.digest:
                with suppress(BundleInvalid):  # It is damaged or gone, and is copied again.
                    return known, self.open(known, open_configured)
        place = _choose_slot(record)
        staged = self._staged_path(place)
        try:
            return Location(place=place, digest=bundle.digest), _copy(bundle, staged)
        except OSError as error:
            self.discard()
            raise ConfigInvalid(
                f"The bundle cannot be copied into {staged.parent}: {error.strerror}.",
                hint="Make room on the disk of the state folder, then activate it again.",
            ) from None
        except BundleInvalid:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove staged bundles that were not activated; a full or broken disk is ignored."""
        for place in ("a", "b"):
            with suppress(OSError):
                self._staged_path(place).unlink(missing_ok=True)

    def activate(
        self, location: Location, record: SlotRecord, *, serving: str | None = None
    ) -> SlotRecord:
        """Record a location as the active one, durably, and the active one as the previous.

        A staged bundle takes its slot first. A crash before the record is written leaves the active
        bundle as it was, and no bundle to go back to.

        Args:
            location: of the bundle that answers from now on.
            record: the present record.
            serving: the digest of the bundle that answered until now, where that may be another
                than the record's active one: after a fallback, or a change of the settings. Only a
                bundle that has answered is recorded as the previous one.

        Returns:
            The record that counts from now on.

        Raises:
            ConfigInvalid: the record cannot be written. The old one still counts.
        """
        changed = record
        if location != record.active:
            answered = record.active.digest if serving is None else serving
            known = (record.active, record.previous)
            previous = next((at for at in known if at and at.digest == answered), None)
            previous = None if previous == location else previous
            changed = record.model_copy(update={"active": location, "previous": previous})
        if changed == self._read():
            return changed
        try:
            self._keep_staged(location)
            replace_file(self._record_path, changed.model_dump_json(indent=2).encode(), mode=0o600)
        except OSError as error:
            raise ConfigInvalid(
                f"The record {self._record_path} cannot be written: {error.strerror}.",
                hint="Make room on the disk of the state folder, then activate the bundle again.",
            ) from None
        return changed

    def _keep_staged(self, location: Location) -> None:
        if location.place == CONFIGURED:
            return
        staged, slot = self._staged_path(location.place), self._slot_path(location.place)
        if staged.exists():
            staged.replace(slot)
            fsync_folder(slot.parent)

    def _read(self) -> SlotRecord | None:
        try:
            with self._record_path.open("rb") as file:
                return SlotRecord.model_validate_json(file.read(_MAX_RECORD_BYTES))
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            _log.error("the record of the slots is damaged", extra={"file": self._record_path})
            return None

    @property
    def _record_path(self) -> Path:
        return self.folder / f"{self.name}.json"

    def _slot_path(self, place: str) -> Path:
        return self.folder / place / f"{self.name}.bundle"

    def _staged_path(self, place: str) -> Path:
        return self.folder / place / f".{self.name}.bundle.part"


def _choose_slot(record: SlotRecord) -> Literal["a", "b"]:
    """Return the slot that is free, or else the one that is not active."""
    taken = {record.active.place} | ({record.previous.place} if record.previous else set())
    if "a" not in taken:
        return "a"
    return "b" if "b" not in taken or record.active.place == "a" else "a"


def _copy(bundle: Bundle, target: Path) -> Bundle:
    """Copy a bundle durably, and return it opened from there; OSError if the disk is full."""
    shutil.copyfile(bundle.path, target)
    target.chmod(0o600)
    _fsync(target)
    copied = Bundle.open(target)
    if copied.digest != bundle.digest:
        raise BundleInvalid(f"{bundle.path} changed while it was copied")
    return copied


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
