"""A bundle is accepted only if every byte agrees with its manifest."""

from __future__ import annotations

import random
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.engines import bundle as module
from edge_agent.engines.bundle import Bundle, shipped_bundles, starter_bundle_path
from edge_agent.errors import BundleInvalid
from hilum.manifest import MANIFEST_NAME, bundle_digest
from tests.support.engines import bundles


def test_a_sound_bundle_opens_and_reads(tmp_path: Path) -> None:
    members = bundles.contents()
    opened = Bundle.open(bundles.pack(tmp_path / "a.bundle", members))
    assert {name: opened.read(name) for name in members} == members
    assert opened.digest == bundle_digest(bundles.manifest(members).to_bytes())
    assert opened.variant(bundles.VARIANT).operating_points["ild"] == bundles.THRESHOLD
    assert [case.name for case in opened.golden.cases] == ["mass", "clear"]


def test_the_digest_does_not_depend_on_the_packing(tmp_path: Path) -> None:
    members = bundles.contents()
    backwards = dict(reversed(members.items()))
    one = Bundle.open(bundles.pack(tmp_path / "a.bundle", members))
    other = Bundle.open(
        bundles.pack(tmp_path / "b.bundle", backwards, bundles.manifest(members).to_bytes())
    )
    assert one.digest == other.digest


def test_unknown_names_are_refused(bundle: Bundle) -> None:
    with pytest.raises(BundleInvalid, match="no engine variant 'tpu'"):
        bundle.variant("tpu")
    with pytest.raises(BundleInvalid, match="no member 'secrets'"):
        bundle.read("secrets")
    with pytest.raises(BundleInvalid, match=r"no member 'manifest\.json'"):
        bundle.read(MANIFEST_NAME)


def test_a_file_that_has_changed_is_refused(tmp_path: Path) -> None:
    members = bundles.contents()
    manifest_bytes = bundles.manifest(members).to_bytes()
    opened = Bundle.open(bundles.pack(tmp_path / "a.bundle", members))
    members["model-card.md"] = members["model-card.md"].replace(b"patients", b"children")
    bundles.pack(opened.path, members, manifest_bytes)
    with pytest.raises(BundleInvalid, match=r"'model-card.md' does not have the SHA-256"):
        opened.read("model-card.md")
    opened.path.unlink()
    with pytest.raises(BundleInvalid, match="cannot be read: No such file"):
        opened.read("model-card.md")


Break = Callable[[dict[str, bytes]], None]
BROKEN: dict[str, tuple[Break, str]] = {
    "a member missing": (lambda m: m.pop("golden/mass.png"), r"missing: \['golden/mass.png'\]"),
    "a member more": (lambda m: m.update(extra=b"x"), r"does not list: \['extra'\]"),
    "a member changed": (
        lambda m: m.update({"model-card.md": m["model-card.md"][::-1]}),
        "does not have the SHA-256",
    ),
    "a member longer": (
        lambda m: m.update({"model-card.md": m["model-card.md"] + b"!"}),
        "'model-card.md' is larger than 49 bytes",
    ),
    "a member shorter": (lambda m: m.update({"model-card.md": b""}), "has 0 bytes"),
    "a bomb": (
        lambda m: m.update({"model-card.md": bytes(64 << 20)}),
        "'model-card.md' is larger than 49 bytes",
    ),
    "a path upwards": (lambda m: m.update({"../model.xml": b""}), "not a plain relative path"),
    "an absolute path": (lambda m: m.update({"/etc/passwd": b""}), "not a plain relative path"),
    "a Windows path": (lambda m: m.update({"a\\b": b""}), "not a plain relative path"),
    "a folder": (lambda m: m.update({"openvino/": b""}), "not a plain relative path"),
    "a name with a line break": (lambda m: m.update({"a\nb": b""}), "not a plain relative path"),
    "too many members": (
        lambda m: m.update({f"x{k}": b"" for k in range(module.MAX_MEMBERS)}),
        "at most 256 are allowed",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_archive_is_refused(case: str, tmp_path: Path) -> None:
    alter, message = BROKEN[case]
    members = bundles.contents()
    manifest_bytes = bundles.manifest(members).to_bytes()
    alter(members)
    with pytest.raises(BundleInvalid, match=message):
        Bundle.open(bundles.pack(tmp_path / "a.bundle", members, manifest_bytes))


def test_a_member_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    path = bundles.pack(tmp_path / "a.bundle", bundles.contents())
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore", UserWarning)
        archive.writestr("model-card.md", b"another")
    with pytest.raises(BundleInvalid, match=r"'model-card.md' appears twice"):
        Bundle.open(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(method: int, tmp_path: Path) -> None:
    members = bundles.contents()
    with zipfile.ZipFile(tmp_path / "a.bundle", "w", method) as archive:
        for name, member in {
            MANIFEST_NAME: bundles.manifest(members).to_bytes(),
            **members,
        }.items():
            archive.writestr(name, member)
    with pytest.raises(BundleInvalid, match="packed in an unknown way"):
        Bundle.open(tmp_path / "a.bundle")


def test_a_wrong_size_in_the_archives_directory_is_refused(tmp_path: Path) -> None:
    members = bundles.contents()
    path = bundles.pack(tmp_path / "a.bundle", members)
    content = bytearray(path.read_bytes())
    # The uncompressed size in the last central directory entry, which is the model card's.
    entry = content.rindex(b"PK\x01\x02")
    struct.pack_into("<I", content, entry + 24, 5)
    path.write_bytes(content)
    with pytest.raises(BundleInvalid, match=r"'model-card.md'"):
        Bundle.open(path)


MANIFESTS = {
    "no JSON": (b"{", "Invalid JSON"),
    "unknown schema": (b'{"schema_version": 2}', "schema_version"),
    "nothing": (b"", "Invalid JSON"),
    "an unknown field": (b'{"signed_by": "me"}', "is not understood"),
    "too large": (b" " * (module.MAX_MANIFEST_BYTES + 1), r"'manifest.json' is larger"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_an_invalid_manifest_is_refused(case: str, tmp_path: Path) -> None:
    manifest_bytes, message = MANIFESTS[case]
    with pytest.raises(BundleInvalid, match=message):
        Bundle.open(bundles.pack(tmp_path / "a.bundle", bundles.contents(), manifest_bytes))


def test_an_archive_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.bundle", "w") as archive:
        archive.writestr("model-card.md", b"x")
    with pytest.raises(BundleInvalid, match=r"'manifest.json' is missing"):
        Bundle.open(tmp_path / "a.bundle")


def test_a_manifest_that_lists_itself_or_too_much_is_refused(tmp_path: Path) -> None:
    members = bundles.contents()
    sound = bundles.manifest(members)
    card = sound.files["model-card.md"]
    itself = sound.model_copy(update={"files": {**sound.files, MANIFEST_NAME: card}})
    with pytest.raises(BundleInvalid, match="lists itself"):
        Bundle.open(bundles.pack(tmp_path / "a.bundle", members, itself.to_bytes()))
    huge = card.model_copy(update={"size_bytes": module.MAX_TOTAL_BYTES})
    too_large = sound.model_copy(update={"files": {**sound.files, "model-card.md": huge}})
    with pytest.raises(BundleInvalid, match="bytes unpacked, at most"):
        Bundle.open(bundles.pack(tmp_path / "b.bundle", members, too_large.to_bytes()))


GOLDEN = {
    "no JSON": (b"[", "is not understood"),
    "no cases": (b'{"tolerances": {}, "cases": []}', "is not understood"),
    "an unlisted picture": ((b"golden/mass.png", b"golden/lost.png"), "does not list"),
    "an unknown finding": ((b"nodule_mass", b"flu"), "no finding of the catalogue"),
    "another variant": ((b"openvino-fp32", b"openvino-int8"), "tolerances are for"),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_cases_that_prove_nothing_are_refused(case: str, tmp_path: Path) -> None:
    change, message = GOLDEN[case]
    members = bundles.contents()
    if isinstance(change, tuple):
        members["golden/cases.json"] = members["golden/cases.json"].replace(*change)
    else:
        members["golden/cases.json"] = change
    with pytest.raises(BundleInvalid, match=message):
        Bundle.open(bundles.pack(tmp_path / "a.bundle", members))


def test_no_bit_of_the_file_can_change_what_is_read(tmp_path: Path) -> None:
    members = bundles.contents()
    sound = bundles.pack(tmp_path / "a.bundle", members).read_bytes()
    digest = Bundle.open(tmp_path / "a.bundle").digest
    rng = random.Random(5)
    damaged = tmp_path / "b.bundle"
    refused = 0
    for _ in range(400):
        content = bytearray(sound)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        damaged.write_bytes(content)
        try:
            opened = Bundle.open(damaged)
            # Time stamps and the like may change; all else must be unchanged.
            assert opened.digest == digest
            assert {name: opened.read(name) for name in members} == members
        except BundleInvalid:
            refused += 1
    assert refused > 200


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    sound = bundles.pack(tmp_path / "a.bundle", bundles.contents()).read_bytes()
    for length in range(0, len(sound), 97):
        (tmp_path / "b.bundle").write_bytes(sound[:length])
        with pytest.raises(BundleInvalid):
            Bundle.open(tmp_path / "b.bundle")


def test_the_starter_is_the_bundle_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "files", lambda package: tmp_path)
    with pytest.raises(BundleInvalid, match="holds no starter bundle"):
        starter_bundle_path()
    folder = tmp_path / "starter"
    folder.mkdir()
    (folder / "starter-1.2.3.bundle").touch()
    (folder / "starter-other-1.0.0.bundle").touch()
    assert starter_bundle_path() == folder / "starter-1.2.3.bundle"
    assert shipped_bundles() == {
        "starter": folder / "starter-1.2.3.bundle",
        "starter-other": folder / "starter-other-1.0.0.bundle",
    }
    (folder / "starter-other-1.0.1.bundle").touch()
    with pytest.raises(BundleInvalid, match="holds two bundles starter-other"):
        shipped_bundles()


def test_an_error_of_deflate_is_an_invalid_bundle(tmp_path: Path) -> None:
    path = bundles.pack(tmp_path / "a.bundle", bundles.contents())
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("openvino/model.xml")
    start = info.header_offset + 30 + len(info.filename)
    path.write_bytes(content[:start] + b"\xff" * 16 + content[start + 16 :])
    with pytest.raises(BundleInvalid, match=r"'openvino/model.xml' is damaged"):
        Bundle.open(path)
