"""Latency of the starters' engines, side by side: each round runs every engine once.

The order differs in each round, because threads of the engine before may still be
spinning. The quickest round is shown beside the medians, because it is the least disturbed one.

Where the training extra is installed, NNCF's default recipe on the starter's ONNX graph is measured
as well.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from edge_agent.engines.bundle import Bundle, shipped_bundles, starter_bundle_path
from edge_agent.engines.golden import read_golden_image
from edge_agent.engines.runtimes.factory import open_engine
from edge_agent.errors import EngineFailed

ROUNDS = 60
WARM_UP = 5
THREADS = 2
BASELINE = "NNCF's default INT8"
HARDSWISH = "starter-hardswish"

Run = Callable[[NDArray[np.uint8]], object]


def run() -> None:
    """Print the table."""
    bundle = Bundle.open(starter_bundle_path())
    spec = bundle.manifest.input
    pictures = [
        read_golden_image(bundle.read(case.image), spec)[None, None] for case in bundle.golden.cases
    ]
    spent = measure(_contestants(bundle, pictures), pictures)
    against = BASELINE if BASELINE in spent else "openvino-fp32"
    reference = statistics.median(spent[against])
    print(f"\nOne image {spec.height} x {spec.width}, {THREADS} threads, {ROUNDS} rounds")
    print(f"| engine | median ms | to {against} | quickest ms |\n|---|---|---|---|")
    for name, rounds in spent.items():
        median = statistics.median(rounds)
        print(f"| {name} | {median:.1f} | {median / reference:.2f} | {min(rounds):.1f} |")


def measure(
    contestants: dict[str, Run], pictures: list[NDArray[np.uint8]]
) -> dict[str, list[float]]:
    """Milliseconds of each in every round, interleaved so that a busy machine is busy for all."""
    spent: dict[str, list[float]] = {name: [] for name in contestants}
    order = random.Random(0)
    for number in range(WARM_UP + ROUNDS):
        picture = pictures[number % len(pictures)]
        for name in order.sample(list(contestants), len(contestants)):
            start = time.perf_counter()
            contestants[name](picture)
            spent[name].append((time.perf_counter() - start) * 1e3)
    return {name: rounds[WARM_UP:] for name, rounds in spent.items()}


def _contestants(bundle: Bundle, pictures: list[NDArray[np.uint8]]) -> dict[str, Run]:
    found: dict[str, Run] = {}
    for shipped in (bundle, Bundle.open(shipped_bundles()[HARDSWISH])):
        for variant in shipped.manifest.engines:
            name = variant.name if shipped is bundle else f"Hardswish, {variant.name}"
            try:
                found[name] = open_engine(shipped, variant, threads=THREADS).infer
            except EngineFailed as error:
                print(f"{name} is left out: {error.message}")
    if find_spec("nncf") is not None:
        found[BASELINE] = _default_int8(bundle.read("model.onnx"), pictures)
    return found


def _default_int8(model: bytes, pictures: list[NDArray[np.uint8]]) -> Run:
    """The exported graph as NNCF quantizes it by default."""
    import nncf  # only with the training extra
    import openvino as ov

    core = ov.Core()
    graph = core.read_model(_with_f32_weights(model))
    quantized = nncf.quantize(graph, nncf.Dataset(pictures), subset_size=len(pictures))
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": THREADS}
    request = core.compile_model(quantized, "CPU", settings).create_infer_request()
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
