"""The OpenVINO engine with a model whose outputs are its input's pixels."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from edge_agent.engines.bundle import Bundle
from edge_agent.engines.runtimes.openvino import OpenVinoEngine, OpenVinoOptions
from edge_agent.errors import BundleInvalid, ConfigInvalid, EngineFailed
from hilum.manifest import InputSpec
from tests.support.engines import bundles
from tests.support.engines.variants import model_outputs, noise

OPTIONS = OpenVinoOptions(threads=1, inference_precision="f32")


def engine_of(bundle: Bundle, options: OpenVinoOptions = OPTIONS) -> OpenVinoEngine:
    return OpenVinoEngine(bundle, bundle.variant(bundles.VARIANT), options)


def with_model(tmp_path: Path, xml: bytes, weights: bytes) -> Bundle:
    members = bundles.contents(xml=xml, weights=weights)
    return Bundle.open(bundles.pack(tmp_path / "a.bundle", members))


def test_outputs_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    broken = with_model(tmp_path, *bundles.transparent_ir(log=True))
    engine = engine_of(broken)  # The grey warm-up picture has finite logarithms.
    with pytest.raises(EngineFailed, match="not finite"):
        engine.infer(np.zeros((1, 1, 96, 96), np.uint8))


def test_a_model_that_differs_from_the_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleInvalid, match=r"outputs are float32 \(1, 9, 1024\), not .*18"):
        engine_of(with_model(tmp_path, *bundles.transparent_ir(rows=9)))
    members = bundles.contents()
    larger = bundles.manifest(members, input=InputSpec(height=128, width=96)).to_bytes()
    other = Bundle.open(bundles.pack(tmp_path / "b.bundle", members, larger))
    with pytest.raises(BundleInvalid, match=r"inputs are uint8 \(1, 1, 96, 96\), not uint8"):
        engine_of(other)


def test_a_failure_of_openvino_is_an_engine_error(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match="OpenVINO could not load the model"):
        engine_of(with_model(tmp_path, b"<net/>", b""))
    with pytest.raises(EngineFailed, match="OpenVINO could not load the model"):
        engine_of(bundle, replace(OPTIONS, device="ABACUS"))


def test_a_variant_of_another_runtime_is_refused(bundle: Bundle) -> None:
    foreign = bundle.variant(bundles.VARIANT).model_copy(update={"runtime": "tensorrt"})
    with pytest.raises(BundleInvalid, match="is for tensorrt, not for OpenVINO"):
        OpenVinoEngine(bundle, foreign, OPTIONS)


def test_a_second_start_loads_the_compiled_model_from_the_cache(
    bundle: Bundle, tmp_path: Path
) -> None:
    cached = replace(OPTIONS, cache_dir=tmp_path / "cache")
    first = engine_of(bundle, cached)
    (blob,) = (tmp_path / "cache").iterdir()
    written = blob.stat().st_mtime_ns
    second = engine_of(bundle, cached)
    np.testing.assert_array_equal(first.infer(noise(7)), second.infer(noise(7)))
    assert [(p, p.stat().st_mtime_ns) for p in blob.parent.iterdir()] == [(blob, written)]


def test_other_options_or_another_model_have_their_own_entry(
    bundle: Bundle, tmp_path: Path
) -> None:
    cached = replace(OPTIONS, cache_dir=tmp_path / "cache")
    engine_of(bundle, cached)
    engine_of(bundle, replace(cached, performance_hint="throughput"))
    assert len(list((tmp_path / "cache").iterdir())) == 2
    xml, weights = bundles.transparent_ir()
    scale = np.frombuffer(weights, np.float32).copy()
    scale[np.isclose(scale, 1 / 255)] = 0.5 / 255
    fainter = engine_of(with_model(tmp_path, xml, scale.tobytes()), cached)
    assert len(list((tmp_path / "cache").iterdir())) == 3
    np.testing.assert_allclose(
        fainter.infer(noise(3))[:, 4:], model_outputs(noise(3))[:, 4:] / 2, atol=1e-6
    )


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "sound but foreign"])
def test_a_damaged_cache_entry_is_replaced(bundle: Bundle, tmp_path: Path, damage: str) -> None:
    cached = replace(OPTIONS, cache_dir=tmp_path / "cache")
    engine_of(bundle, cached)
    (path,) = (tmp_path / "cache").iterdir()
    sound = path.read_bytes()
    damaged = {
        "flipped": sound[:-9] + bytes([sound[-9] ^ 4]) + sound[-8:],
        "cut": sound[: len(sound) // 2],
        "empty": b"",
        "sound but foreign": with_digest(b"not a compiled model"),
    }[damage]
    path.write_bytes(damaged)
    engine = engine_of(bundle, cached)
    np.testing.assert_allclose(engine.infer(noise(2)), model_outputs(noise(2)), atol=1e-6)
    rewritten = path.read_bytes()
    assert rewritten != damaged
    assert rewritten == with_digest(rewritten[32:])


def with_digest(blob: bytes) -> bytes:
    return sha256(blob).digest() + blob


def test_a_cache_folder_that_others_may_write_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o770)
    with pytest.raises(ConfigInvalid, match="not a private folder"):
        engine_of(bundle, replace(OPTIONS, cache_dir=tmp_path / "cache"))
