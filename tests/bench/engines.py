"""Latency of the starter's engines, side by side: each round runs every engine once.

Beside the bundle's own variants stands NNCF's default recipe on the same ONNX graph, where the
training extra is installed: what quantising without care gives.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from edge_agent.engines.bundle import Bundle, starter_bundle_path
from edge_agent.engines.golden import read_picture
from edge_agent.engines.runtimes import open_engine
from edge_agent.errors import EngineFailed

ROUNDS = 40
WARM_UP = 5
THREADS = 2
BASELINE = "NNCF's default INT8"

Run = Callable[[NDArray[np.uint8]], object]


def run() -> None:
    """Print the table."""
    bundle = Bundle.open(starter_bundle_path())
    spec = bundle.manifest.input
    pictures = [
        read_picture(bundle.read(case.image), spec)[None, None] for case in bundle.golden.cases
    ]
    medians = measure(_contestants(bundle, pictures), pictures)
    reference = medians.get(BASELINE) or medians["openvino-fp32"]
    against = BASELINE if BASELINE in medians else "openvino-fp32"
    print(f"\nOne image {spec.height} x {spec.width}, {THREADS} threads, medians of {ROUNDS}")
    print(f"| engine | ms | to {against} |\n|---|---|---|")
    for name, milliseconds in medians.items():
        print(f"| {name} | {milliseconds:.1f} | {milliseconds / reference:.2f} |")


def measure(contestants: dict[str, Run], pictures: list[NDArray[np.uint8]]) -> dict[str, float]:
    """Median milliseconds of each, interleaved so that a busy machine is busy for all."""
    spent: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(WARM_UP + ROUNDS):
        picture = pictures[number % len(pictures)]
        for name, contestant in contestants.items():
            start = time.perf_counter()
            contestant(picture)
            spent[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(of[WARM_UP:]) for name, of in spent.items()}


def _contestants(bundle: Bundle, pictures: list[NDArray[np.uint8]]) -> dict[str, Run]:
    found: dict[str, Run] = {}
    for variant in bundle.manifest.engines:
        try:
            found[variant.name] = open_engine(bundle, variant, threads=THREADS).infer
        except EngineFailed as error:
            print(f"{variant.name} is left out: {error.message}")
    if find_spec("nncf") is not None:
        found[BASELINE] = _default_int8(bundle.read("model.onnx"), pictures)
    return found


def _default_int8(model: bytes, pictures: list[NDArray[np.uint8]]) -> Run:
    """The exported graph as NNCF quantises it when told nothing."""
    import nncf  # only with the training extra
    import openvino as ov

    core = ov.Core()
    graph = core.read_model(_with_f32_weights(model))
    quantised = nncf.quantize(graph, nncf.Dataset(pictures), subset_size=len(pictures))
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": THREADS}
    request = core.compile_model(quantised, "CPU", settings).create_infer_request()
    return lambda picture: request.infer({0: picture}, share_inputs=True, share_outputs=True)


def _with_f32_weights(model: bytes) -> bytes:
    """The graph as it was exported, before its weights were stored in half the bytes."""
    import onnx  # only with the training extra

    proto = onnx.load_from_string(model)
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    casts = [n for n in proto.graph.node if n.op_type == "Cast" and n.input[0] in stored]
    for cast in casts:
        tensor = stored[cast.input[0]]
        values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, cast.output[0]))
        proto.graph.node.remove(cast)
    return bytes(proto.SerializeToString())
