"""Opens bundles. Nothing of a bundle is used before its digests are verified.

Rules, in this order; the first that fails is the BundleInvalid's message:

1.  The file is a zip of at most `MAX_MEMBERS` members, each stored or deflated, none encrypted.
2.  Member names are unique, and plain relative paths as `hilum.manifest.MemberPath` declares.
3.  `manifest.json` is present, at most `MAX_MANIFEST_BYTES`, and of a schema this agent knows.
4.  The manifest lists every other member and no more; together at most `MAX_TOTAL_BYTES`.
5.  Every member has the listed size and SHA-256. Reading stops one byte after the listed size,
    so an archive cannot make the agent unpack more than its manifest admits.
6.  The golden cases are of their form and cover every engine variant.

`read` checks size and digest each time, because the file may have changed since it was opened.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final, Self

from pydantic import ValidationError

from edge_agent.errors import BundleInvalid
from hilum.manifest import (
    MANIFEST_NAME,
    EngineVariant,
    GoldenCases,
    Manifest,
    Member,
    bundle_digest,
)

MAX_MEMBERS: Final = 256
MAX_MANIFEST_BYTES: Final = 1 << 20
MAX_TOTAL_BYTES: Final = 2 << 30

STARTER: Final = "starter"
"""The name of the bundle that an agent runs if no other is configured."""

_PLAIN_PATH: Final = re.compile(r"[a-z0-9][a-zA-Z0-9_.-]*(/[a-zA-Z0-9_][a-zA-Z0-9_.-]*)*")
_METHODS: Final = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_ENCRYPTED: Final = 0x1
# The errors that zipfile raises on a damaged zip, found by flipping bits.
_DAMAGE: Final = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified model version.

    `digest` is the SHA-256 of the manifest's bytes, which identifies its engines, operating points
    and golden cases.
    """

    path: Path
    manifest: Manifest
    digest: str
    golden: GoldenCases

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read and verify a bundle by the module's rules 1 to 6.

        Raises:
            BundleInvalid: the file cannot be read or breaks a rule; the message says which.
        """
        with _archive(path) as archive:
            manifest_bytes = _read(archive, MANIFEST_NAME, MAX_MANIFEST_BYTES)
            manifest = _parse_manifest(manifest_bytes)
            _compare_names(archive, manifest)
            for name, member in manifest.files.items():
                _read_verified(archive, name, member)
            cases = _read_verified(
                archive, manifest.golden_cases, manifest.files[manifest.golden_cases]
            )
        golden = _parse_golden(cases, manifest)
        return cls(path, manifest, bundle_digest(manifest_bytes), golden)

    def read(self, member: str) -> bytes:
        """Return one member's bytes, verified again.

        Raises:
            BundleInvalid: the manifest lists no such member, or its bytes have changed.
        """
        listed = self.manifest.files.get(member)
        if listed is None:
            raise BundleInvalid(f"the bundle has no member {member!r}")
        with _archive(self.path) as archive:
            return _read_verified(archive, member, listed)

    def variant(self, name: str) -> EngineVariant:
        """Return the engine variant of this name.

        Raises:
            BundleInvalid: the bundle has no such variant; the message names those it has.
        """
        return find_variant(self.manifest, name)


def find_variant(manifest: Manifest, name: str) -> EngineVariant:
    """Return the engine variant of this name.

    Raises:
        BundleInvalid: the bundle has no such variant; the message names those it has.
    """
    for engine in manifest.engines:
        if engine.name == name:
            return engine
    names = ", ".join(engine.name for engine in manifest.engines)
    raise BundleInvalid(f"the bundle has no engine variant {name!r}", hint=f"It has: {names}.")


def shipped_bundles() -> dict[str, Path]:
    """Return the bundles inside the agent's package by name; they are trusted as the package is.

    Raises:
        BundleInvalid: the package has two bundles of one name.
    """
    folder = Path(str(files("edge_agent"))) / "starter"
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.bundle")):
        name = path.stem.rpartition("-")[0]
        if name in found:
            raise BundleInvalid(
                f"the agent's package holds two bundles {name}", hint="Install the agent again."
            )
        found[name] = path
    return found


def starter_bundle_path() -> Path:
    """Return the bundle that an agent runs if no other is configured.

    Raises:
        BundleInvalid: the package was built without it.
    """
    try:
        return shipped_bundles()[STARTER]
    except KeyError:
        raise BundleInvalid(
            "the agent's package holds no starter bundle",
            hint="Name a bundle, or install the agent again.",
        ) from None


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open the zip and check rules 1 and 2."""
    try:
        archive = zipfile.ZipFile(path)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise BundleInvalid(
            f"the bundle {path} cannot be read: {error.strerror}",
            hint="Check its name and that this user may read it.",
        ) from error
    except _DAMAGE as error:
        raise BundleInvalid(f"{path.name} cannot be read as a zip: {error}") from error
    with archive:
        _check_directory(archive.infolist())
        yield archive


def _check_directory(members: list[zipfile.ZipInfo]) -> None:
    if len(members) > MAX_MEMBERS:
        raise BundleInvalid(f"{len(members)} members, at most {MAX_MEMBERS} are allowed")
    seen: set[str] = set()
    for info in members:
        name = info.orig_filename
        if not _PLAIN_PATH.fullmatch(name) or name != info.filename:
            raise BundleInvalid(f"member name {name!r} is not a plain relative path")
        if name in seen:
            raise BundleInvalid(f"member {name!r} appears twice")
        if info.flag_bits & _ENCRYPTED or info.compress_type not in _METHODS:
            raise BundleInvalid(f"member {name!r} is encrypted or packed in an unknown way")
        seen.add(name)


def _read(archive: zipfile.ZipFile, name: str, limit_bytes: int) -> bytes:
    """Return a member's bytes, of which there may be at most `limit_bytes`."""
    try:
        with archive.open(name) as stream:
            content = stream.read(limit_bytes + 1)
    except KeyError as error:
        raise BundleInvalid(f"member {name!r} is missing") from error
    except _DAMAGE as error:
        raise BundleInvalid(f"member {name!r} is damaged: {error}") from error
    if len(content) > limit_bytes:
        raise BundleInvalid(f"member {name!r} is larger than {limit_bytes} bytes")
    return content


def _read_verified(archive: zipfile.ZipFile, name: str, member: Member) -> bytes:
    content = _read(archive, name, member.size_bytes)
    if len(content) != member.size_bytes:
        raise BundleInvalid(
            f"member {name!r} has {len(content)} bytes, the manifest declares {member.size_bytes}"
        )
    if hashlib.sha256(content).hexdigest() != member.sha256:
        raise BundleInvalid(f"member {name!r} does not have the SHA-256 that the manifest declares")
    return content


def _parse_manifest(content: bytes) -> Manifest:
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        raise BundleInvalid(f"{MANIFEST_NAME} is not understood: {_first(error)}") from error


def _parse_golden(content: bytes, manifest: Manifest) -> GoldenCases:
    try:
        golden = GoldenCases.model_validate_json(content)
        golden.check(manifest)
    except ValidationError as error:
        raise BundleInvalid(
            f"{manifest.golden_cases} is not understood: {_first(error)}"
        ) from error
    except ValueError as error:
        raise BundleInvalid(f"{manifest.golden_cases}: {error}") from error
    return golden


def _first(error: ValidationError) -> str:
    detail = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in detail["loc"])
    return f"{where}: {detail['msg']}" if where else str(detail["msg"])


def _compare_names(archive: zipfile.ZipFile, manifest: Manifest) -> None:
    listed, present = set(manifest.files), set(archive.namelist())
    if MANIFEST_NAME in listed:
        raise BundleInvalid(f"{MANIFEST_NAME} lists itself")
    if missing := sorted(listed - present):
        raise BundleInvalid(f"members that the manifest lists are missing: {missing}")
    if extra := sorted(present - listed - {MANIFEST_NAME}):
        raise BundleInvalid(f"members that the manifest does not list: {extra}")
    total_bytes = sum(member.size_bytes for member in manifest.files.values())
    if total_bytes > MAX_TOTAL_BYTES:
        raise BundleInvalid(f"{total_bytes} bytes unpacked, at most {MAX_TOTAL_BYTES} are allowed")
