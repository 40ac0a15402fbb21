"""Cost of the content check (one thread) compared with the detector (all cores), alternating."""

from __future__ import annotations

import statistics
import time

from edge_agent.engines.bundle import Bundle, starter_bundle_path
from edge_agent.engines.content_check import OpenVinoContentChecker
from edge_agent.engines.golden import read_golden_image
from edge_agent.engines.runtimes.openvino import OpenVinoEngine

ROUNDS = 60
WARM_UP = 5
CHECK = "content check"


def run() -> None:
    """Print the table."""
    bundle = Bundle.open(starter_bundle_path())
    medians = measure(bundle)
    if CHECK not in medians:
        print("The starter bundle has no content check.")
        return
    print(f"\nOne picture, medians of {ROUNDS}\n| | ms | content check's share |\n|---|---|---|")
    for name, milliseconds in medians.items():
        print(f"| {name} | {milliseconds:.2f} | {medians[CHECK] / milliseconds:.3f} |")


def measure(bundle: Bundle) -> dict[str, float]:
    """Return median milliseconds of the content check, shrinking included, and of each variant."""
    spec = bundle.manifest.input
    pictures = [read_golden_image(bundle.read(case.image), spec) for case in bundle.golden.cases]
    engines = {
        variant.name: OpenVinoEngine(bundle, variant)
        for variant in bundle.manifest.engines
        if variant.runtime == "openvino" and variant.precision in {"int8", "fp32"}
    }
    checker = OpenVinoContentChecker.of(bundle)
    times: dict[str, list[float]] = {name: [] for name in ([CHECK] if checker else []) + [*engines]}
    for number in range(WARM_UP + ROUNDS):
        pixels = pictures[number % len(pictures)]
        if checker:
            started = time.perf_counter()
            checker.judge(pixels)
            times[CHECK].append(time.perf_counter() - started)
        for name, engine in engines.items():
            started = time.perf_counter()
            engine.infer(pixels[None, None])
            times[name].append(time.perf_counter() - started)
    for engine in engines.values():
        engine.close()
    return {name: statistics.median(spent[WARM_UP:]) * 1e3 for name, spent in times.items()}
