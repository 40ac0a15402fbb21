"""The manifest: what is accepted and refused, and its digest."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hilum.catalog import CATALOG
from hilum.manifest import Manifest, bundle_digest

SLUGS = [finding.slug for finding in CATALOG]


def fields() -> dict[str, Any]:
    """Return the fields of a minimal manifest."""
    member = {"sha256": "0" * 64, "size_bytes": 1}
    return {
        "schema_version": 1,
        "name": "starter",
        "version": "0.1.0",
        "intended_use": "Research use only.",
        "findings": SLUGS,
        "input": {"height": 640, "width": 640},
        "head": {},
        "engines": [
            {
                "name": "openvino-int8",
                "runtime": "openvino",
                "precision": "int8",
                "model": "openvino/model.xml",
                "weights": "openvino/model.bin",
                "operating_points": dict.fromkeys(SLUGS, 0.25),
            }
        ],
        "golden_cases": "golden/cases.npz",
        "model_card": "model_card.md",
        "provenance": {
            "trained_on": "synthetic findings",
            "command": "hilum-train",
            "seed": 1,
            "base_weights": "none",
        },
        "files": {
            path: dict(member)
            for path in [
                "openvino/model.xml",
                "openvino/model.bin",
                "golden/cases.npz",
                "model_card.md",
            ]
        },
    }


def test_a_complete_manifest_is_accepted() -> None:
    manifest = Manifest.model_validate(fields())
    assert manifest.engines[0].operating_points["nodule_mass"] == 0.25


def declare_findings(fields: dict[str, Any], *slugs: str) -> None:
    """Make the manifest declare only these findings."""
    fields["findings"] = list(slugs)
    fields["engines"][0]["operating_points"] = dict.fromkeys(slugs, 0.25)


def test_a_model_may_have_some_of_the_catalogues_findings() -> None:
    some = fields()
    declare_findings(some, "cardiomegaly", "nodule_mass", "pneumothorax")
    assert Manifest.model_validate(some).catalogue_indexes == (3, 8, 12)


WRONG: dict[str, Any] = {
    "unknown field": lambda f: f.update(colour="blue"),
    "unknown schema": lambda f: f.update(schema_version=2),
    "findings in another order": lambda f: f.update(findings=SLUGS[::-1]),
    "no finding": declare_findings,
    "findings of a subset in another order": lambda f: declare_findings(f, "pneumothorax", "ild"),
    "a finding twice": lambda f: declare_findings(f, "ild", "ild"),
    "a finding that is not in the catalogue": lambda f: declare_findings(f, "flu"),
    "an operating point for no finding": lambda f: f.update(findings=SLUGS[:-1]),
    "no engine": lambda f: f.update(engines=[]),
    "two engines of one name": lambda f: f.update(engines=f["engines"] * 2),
    "unlisted model": lambda f: f["files"].pop("openvino/model.xml"),
    "unlisted weights": lambda f: f["files"].pop("openvino/model.bin"),
    "unlisted golden cases": lambda f: f["files"].pop("golden/cases.npz"),
    "unlisted model card": lambda f: f["files"].pop("model_card.md"),
    "an operating point missing": lambda f: f["engines"][0]["operating_points"].pop("ild"),
    "an unknown operating point": lambda f: f["engines"][0]["operating_points"].update(flu=0.5),
    "an operating point above 1": lambda f: f["engines"][0]["operating_points"].update(ild=1.5),
    "not a version": lambda f: f.update(version="latest"),
    "a digest in capitals": lambda f: f["files"]["model_card.md"].update(sha256="A" * 64),
    "a negative size": lambda f: f["files"]["model_card.md"].update(size_bytes=-1),
    "an input off the stride": lambda f: f["input"].update(height=650),
    "three channels": lambda f: f["input"].update(channels=3),
}


@pytest.mark.parametrize("damage", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_manifest_is_refused(damage: Any) -> None:
    wrong = fields()
    damage(wrong)
    with pytest.raises(ValidationError):
        Manifest.model_validate(wrong)


def fields_with_change() -> dict[str, Any]:
    """Return the fields of a manifest of a model that was changed under a plan."""
    result = {"bound": "map50_drop", "variant": "openvino-int8", "value": 0.002}
    control = {
        "modifications": "Trained on 2,000 more images.",
        "replaces": "1" * 64,
        "protocol": {
            "data": "15,000 radiographs",
            "split": "test",
            "split_digest": "2" * 64,
            "declared": "3" * 64,
            "bounds": [{"name": "map50_drop", "at_most": 0.01}],
        },
        "results": [result | {"low": -0.001, "high": 0.004}],
        "impact": "None on how it is used.",
        "limits": ["Frontal views only."],
        "evidence": ["evidence/parity.json"],
    }
    evidence = {"evidence/parity.json": {"sha256": "0" * 64, "size_bytes": 1}}
    some = fields()
    return some | {"change_control": control, "files": some["files"] | evidence}


def test_a_change_and_its_proof_are_accepted_and_optional() -> None:
    manifest = Manifest.model_validate(fields_with_change())
    assert manifest.change_control is not None
    assert manifest.change_control.replaces == "1" * 64
    assert Manifest.model_validate_json(manifest.to_bytes()) == manifest
    assert Manifest.model_validate(fields()).change_control is None


WRONG_CHANGES: dict[str, Any] = {
    "a bound not kept": lambda c: c["results"][0].update(value=0.02),
    "no number": lambda c: c["results"][0].update(value=float("nan")),
    "a bound that was not declared": lambda c: c["results"][0].update(bound="auroc_drop"),
    "a bound that was not measured": lambda c: c["protocol"]["bounds"].append(
        {"name": "auroc_drop", "at_most": 0.1}
    ),
    "no bound": lambda c: c["protocol"].update(bounds=[]),
    "no result": lambda c: c.update(results=[]),
    "a result of another engine": lambda c: c["results"][0].update(variant="openvino-fp32"),
    "evidence that is not there": lambda c: c["evidence"].append("evidence/none.json"),
}


@pytest.mark.parametrize("damage", WRONG_CHANGES.values(), ids=WRONG_CHANGES.keys())
def test_a_change_without_proof_is_refused(damage: Any) -> None:
    wrong = fields_with_change()
    damage(wrong["change_control"])
    with pytest.raises(ValidationError):
        Manifest.model_validate(wrong)


def test_every_engine_is_measured_against_every_bound() -> None:
    change = fields_with_change()
    other = change["engines"][0] | {"name": "openvino-fp32", "precision": "fp32"}
    change["engines"].append(other)
    control = change["change_control"]
    control["protocol"]["bounds"].append({"name": "sensitivity_drop", "at_most": 0.02})
    first = control["results"][0]
    control["results"] += [
        first | {"variant": "openvino-fp32"},
        first | {"variant": "openvino-fp32", "bound": "sensitivity_drop"},
    ]
    with pytest.raises(ValidationError, match=r"openvino-int8: .*not measured.*sensitivity_drop"):
        Manifest.model_validate(change)
    control["results"].append(first | {"bound": "sensitivity_drop"})
    Manifest.model_validate(change)


def test_a_declared_sbom_must_be_a_member() -> None:
    with pytest.raises(ValidationError, match="sbom"):
        Manifest.model_validate(fields() | {"sbom": "sbom.cdx.json"})


@pytest.mark.parametrize(
    "path", ["../up", "/etc/passwd", "a/../b", "a//b", ".hidden", "a\\b", "a/", "", "./a", "a/./b"]
)
def test_members_cannot_leave_the_bundle(path: str) -> None:
    wrong = fields()
    wrong["files"][path] = {"sha256": "0" * 64, "size_bytes": 1}
    with pytest.raises(ValidationError):
        Manifest.model_validate(wrong)


@given(st.text(max_size=40))
def test_an_accepted_member_path_stays_inside_the_bundle(path: str) -> None:
    some = fields()
    some["files"][path] = {"sha256": "0" * 64, "size_bytes": 1}
    try:
        Manifest.model_validate(some)
    except ValidationError:
        return
    parts = path.split("/")
    assert not path.startswith("/")
    assert not {"", ".", ".."} & set(parts)
    assert "\\" not in path
    assert "\0" not in path


manifests = st.builds(
    lambda version, side, scores, card, seed: Manifest.model_validate(
        fields()
        | {
            "version": ".".join(map(str, version)),
            "input": {"height": side * 32, "width": side * 32},
            "engines": [
                fields()["engines"][0] | {"operating_points": dict(zip(SLUGS, scores, strict=True))}
            ],
            "intended_use": card,
            "provenance": fields()["provenance"] | {"seed": seed},
        }
    ),
    st.tuples(*[st.integers(0, 10**6)] * 3),
    st.integers(1, 128),
    st.lists(st.floats(0, 1), min_size=14, max_size=14),
    st.text(),
    st.integers(),
)


@given(manifests)
def test_a_written_manifest_is_read_unchanged_with_the_same_digest(manifest: Manifest) -> None:
    data = manifest.to_bytes()
    again = Manifest.model_validate_json(data)
    assert again == manifest
    assert bundle_digest(again.to_bytes()) == bundle_digest(data)


@given(manifests, st.integers(0, 10**9))
def test_any_changed_byte_changes_the_digest(manifest: Manifest, position: int) -> None:
    data = bytearray(manifest.to_bytes())
    data[position % len(data)] ^= 1
    assert bundle_digest(bytes(data)) != bundle_digest(manifest.to_bytes())


def test_the_digest_does_not_depend_on_key_order_in_memory() -> None:
    reordered = dict(reversed(list(fields().items())))
    one, other = Manifest.model_validate(fields()), Manifest.model_validate(reordered)
    assert one.to_bytes() == other.to_bytes()
    assert json.loads(one.to_bytes())["name"] == "starter"
