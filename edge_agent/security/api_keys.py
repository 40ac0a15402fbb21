"""API keys in a file: only hashes are stored, and every key has an id that may be logged.

A key has the form `hilum_<id>_<secret>`. The id (10 hexadecimal digits) finds the record and is
written to the audit log; the secret is 256 random bits. Passwords need a slow hash because people
choose them from a small set; 256 random bits cannot be guessed at any speed, so one SHA-256 is
enough and costs a request about a microsecond. See docs/decisions/0010-api-keys.md.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from edge_agent.core.authorization import AuthResult, DenialReason, Denied, Principal, Role
from edge_agent.errors import ConfigInvalid
from edge_agent.system.config_files import ReloadingFile, read_config_file
from edge_agent.system.files import lock_file, replace_file

_TOKEN: Final = re.compile(r"hilum_(?P<id>[0-9a-f]{10})_[A-Za-z0-9_-]{43}", re.ASCII)
_DESCRIPTION: Final = "API key file"
# Compared with if there is no record, so that known and unknown ids take the same time.
_UNKNOWN_KEY_SHA256: Final = "0" * 64


class KeyRecord(BaseModel):
    """The stored record of a key. `label` names its user for the operator, never a patient."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{10}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", repr=False)]
    role: Role
    label: Annotated[str, Field(max_length=80)] = ""
    created: AwareDatetime
    expires: AwareDatetime | None = None

    @field_validator("label")
    @classmethod
    def _is_printable(cls, label: str) -> str:
        if not label.isprintable():
            raise ValueError("a label is one line of printable characters")
        return label

    @property
    def actor(self) -> str:
        """The name of the key's holder in the audit log."""
        return f"key:{self.id}"


class _KeyFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    keys: tuple[KeyRecord, ...] = ()

    @field_validator("keys")
    @classmethod
    def _ids_are_unique(cls, keys: tuple[KeyRecord, ...]) -> tuple[KeyRecord, ...]:
        if len({key.id for key in keys}) != len(keys):
            raise ValueError("two keys have the same id")
        return keys


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key. `token` is shown to the operator once and stored nowhere."""

    token: str = field(repr=False)
    record: KeyRecord


def load_keys(path: Path) -> Mapping[str, KeyRecord]:
    """Read a key file; return its records by id.

    Raises:
        ConfigInvalid: it is missing, can be read by others, or is not a key file.
    """
    data = read_config_file(path, _DESCRIPTION, is_private=True)
    try:
        return MappingProxyType({key.id: key for key in _KeyFile.model_validate_json(data).keys})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigInvalid(
            f"The {_DESCRIPTION} {path} is damaged: {where}: {first['msg']}.",
            hint="Restore it from a backup, or create new keys with `hilum-edge keys add`.",
        ) from None


def add_key(
    path: Path,
    *,
    role: Role,
    now: datetime,
    label: str = "",
    lifetime: timedelta | None = None,
) -> IssuedKey:
    """Make a key and add it to the file, which is made if absent (mode 0600).

    Args:
        path: the key file.
        role: the role of the key's holder.
        now: the time, with a time zone.
        label: the key's user, for the operator.
        lifetime: time until the key expires; None for never.

    Returns:
        The key, with its record.

    Raises:
        ConfigInvalid: the file cannot be used or written, or the label is not one short line.
    """
    key_id = secrets.token_hex(5)
    token = f"hilum_{key_id}_{secrets.token_urlsafe(32)}"
    try:
        record = KeyRecord(
            id=key_id,
            sha256=_digest(token),
            role=role,
            label=label,
            created=now,
            expires=None if lifetime is None else now + lifetime,
        )
    except ValidationError as error:
        raise ConfigInvalid(
            f"The key cannot be created: {error.errors(include_url=False)[0]['msg']}."
        ) from None
    _edit_file(path, lambda keys: {**keys, record.id: record}, create=True)
    return IssuedKey(token, record)


def remove_key(path: Path, key_id: str) -> KeyRecord:
    """Remove a key from the file and return its record; running agents reject it at once.

    Raises:
        ConfigInvalid: the file cannot be used or written, or has no such key.
    """
    removed: list[KeyRecord] = []

    def remove(keys: Mapping[str, KeyRecord]) -> Mapping[str, KeyRecord]:
        if key_id not in keys:
            raise ConfigInvalid(f"The {_DESCRIPTION} {path} has no key {key_id!r}.")
        removed.append(keys[key_id])
        return {other: key for other, key in keys.items() if other != key_id}

    _edit_file(path, remove, create=False)
    return removed[0]


def _edit_file(
    path: Path,
    edit: Callable[[Mapping[str, KeyRecord]], Mapping[str, KeyRecord]],
    *,
    create: bool,
) -> None:
    try:
        with lock_file(path.with_name(f".{path.name}.lock")):
            before = load_keys(path) if path.exists() or not create else {}
            after = _KeyFile(keys=tuple(edit(before).values()))
            text = json.dumps(after.model_dump(mode="json", exclude_none=True), indent=2)
            replace_file(path, text.encode() + b"\n")
    except OSError as error:
        raise ConfigInvalid(
            f"The {_DESCRIPTION} {path} cannot be written: {error.strerror}.",
            hint="Run this as the user that owns the file's folder.",
        ) from None


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("ascii")).hexdigest()


class ApiKeyStore:
    """Finds the holder of a key; a key that is added to or removed from the file counts at once."""

    def __init__(self, path: Path, utc_now: Callable[[], datetime]) -> None:
        """Read the key file.

        Raises:
            ConfigInvalid: it is invalid.
        """
        self._file: ReloadingFile[Mapping[str, KeyRecord]] = ReloadingFile(path, load_keys, gone={})
        self._utc_now = utc_now

    def __len__(self) -> int:
        return len(self._file.get())

    @property
    def problem(self) -> str | None:
        """The reason why the file's last change is not in force; None if it is."""
        return self._file.problem

    def identify(self, token: str) -> AuthResult:
        """Return the holder of this key, or the denial."""
        keys = self._file.get()
        match = _TOKEN.fullmatch(token)
        if match is None:
            return Denied(DenialReason.UNKNOWN_CREDENTIAL)
        record = keys.get(match["id"])
        expected = _UNKNOWN_KEY_SHA256 if record is None else record.sha256
        is_same = hmac.compare_digest(_digest(token), expected)
        if record is None:
            return Denied(DenialReason.UNKNOWN_CREDENTIAL)
        if not is_same:
            return Denied(DenialReason.UNKNOWN_CREDENTIAL, record.actor)
        if record.expires is not None and self._utc_now() >= record.expires:
            return Denied(DenialReason.EXPIRED_CREDENTIAL, record.actor)
        return Principal(record.actor, record.role)
