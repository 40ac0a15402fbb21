"""The original targets over HTTP, and ultralytics' own `predict` on the same weights.

The original targets: one image in under 150 ms, 45 images/s in batches, 25 requests at once. They
named no model and no machine, so they are shown for the starter and for larger networks with random
weights. Every number is a whole HTTP request with the file in it, its caller on the same cores.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx

from edge_agent.config import load_settings
from edge_agent.engines.bundle import starter_bundle_path
from edge_agent.imaging import read_study
from edge_agent.serving.inference import InferenceJob, run_inference
from edge_agent.serving.stage_timer import StageTimer
from tests.bench.load import BareLoop, images
from tests.bench.networks import random_bundle
from tests.bench.throughput import _drain
from tests.support.agents.tagged import agent_process, serving_line

NETWORKS: Final = (("yolo11n", 640), ("yolo11s", 640))
COMPARED: Final = ("yolo11n", 416)
ROUNDS, WARM_UP = 20, 3
BATCH: Final = 16
AT_ONCE: Final = 25


def run() -> None:
    """Print both tables."""
    image = images()["JPEG"]
    print(f"One radiograph as JPEG, 1955 x 1841, {len(image) / 1e6:.1f} MB\n")
    print(
        f"| model | engine | one image, median (worst of {ROUNDS}) | batches of {BATCH} "
        f"| {AT_ONCE} at once | median (worst) wait of these |\n|---|---|---|---|---|---|"
    )
    print(f"| target | | < 150 ms | 45 images/s | {AT_ONCE} answered | |")
    print(_row("starter, yolo11n at 416", starter_bundle_path(), image))
    for architecture, size in NETWORKS:
        bundle, _ = random_bundle(architecture, size)
        print(_row(f"{architecture} at {size}, random weights", bundle, image), flush=True)
    _print_ultralytics(image)


def _row(title: str, bundle: Path, image: bytes) -> str:
    with agent_process("--port", "0", "--bundle", str(bundle)) as process:
        line = serving_line(process)
        threading.Thread(target=_drain, args=(process.stderr,), daemon=True).start()
        with httpx.Client(base_url=line["page"], timeout=120) as client:
            one = [_timed(lambda: _predict(client, image)) for _ in range(WARM_UP + ROUNDS)]
            batches = [_timed(lambda: _predict_batch(client, image)) for _ in range(6)][1:]
            waits, spent_s = _at_once(client, image)
    alone = one[WARM_UP:]
    return (
        f"| {title} | {line['engine']} "
        f"| {statistics.median(alone):.0f} ms ({max(alone):.0f}) "
        f"| {BATCH * 1e3 / statistics.median(batches):.0f} images/s "
        f"| all answered, {len(waits) / spent_s:.0f} images/s "
        f"| {statistics.median(waits):.0f} ms ({max(waits):.0f}) |"
    )


def _timed(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return (time.perf_counter() - start) * 1e3


def _predict(client: httpx.Client, image: bytes) -> None:
    answer = client.post("predict", files={"file": ("rg1.jpg", image)})
    answer.raise_for_status()


def _predict_batch(client: httpx.Client, image: bytes) -> None:
    files = [("files", (f"{number}.jpg", image)) for number in range(BATCH)]
    answer = client.post("predict/batch", files=files)
    answer.raise_for_status()
    results: list[dict[str, Any]] = json.loads(answer.content)["results"]
    assert len(results) == BATCH
    assert all(result["status"] == 200 for result in results), results


def _at_once(client: httpx.Client, image: bytes) -> tuple[list[float], float]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        start = time.perf_counter()
        waits = list(
            pool.map(lambda _: _timed(lambda: _predict(client, image)), range(4 * AT_ONCE))
        )
        return waits, time.perf_counter() - start


def _print_ultralytics(image: bytes) -> None:
    """File to findings in one process: `predict` by PyTorch, ONNX Runtime, OpenVINO."""
    os.environ["YOLO_AUTOINSTALL"] = "false"  # A bench changes nothing on its machine.
    from ultralytics import YOLO

    architecture, size = COMPARED
    bundle, weights = random_bundle(architecture, size)
    bare = BareLoop(load_settings(None, {"bundle": bundle}))
    contestants: dict[str, Callable[[], object]] = {
        f"Hilum, {bare.model.engine.name}": lambda: _detect(bare, image)
    }
    with tempfile.TemporaryDirectory(prefix="hilum-bench-") as folder:
        file = Path(folder) / "rg1.jpg"
        file.write_bytes(image)
        exported = {"PyTorch": weights}
        copy = Path(folder) / "weights.pt"
        copy.write_bytes(weights.read_bytes())
        # Simplifying needs a package that is not here.
        onnx = YOLO(copy).export(format="onnx", imgsz=size, verbose=False, simplify=False)
        exported["ONNX Runtime"] = Path(onnx)
        exported["OpenVINO"] = Path(YOLO(copy).export(format="openvino", imgsz=size, verbose=False))
        for name, path in exported.items():
            contestants[f"ultralytics' predict, {name}"] = _predictor(YOLO(path, "detect"), file)
        spent: dict[str, list[float]] = {name: [] for name in contestants}
        for number in range(WARM_UP + ROUNDS):
            for name, act in contestants.items():
                milliseconds = _timed(act)
                spent[name] += [milliseconds] if number >= WARM_UP else []
    medians = {name: statistics.median(of) for name, of in spent.items()}
    reference = next(iter(medians.values()))
    title = f"JPEG file to findings, {architecture} at {size}, same random weights"
    print(f"\n| {title} | ms | ratio to Hilum |\n|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {median:.1f} | {median / reference:.1f} |")


def _predictor(model: Any, file: Path) -> Callable[[], object]:
    _, size = COMPARED
    return lambda: model.predict(str(file), imgsz=size, verbose=False, device="cpu")


def _detect(bare: BareLoop, image: bytes) -> None:
    size = bare.model.manifest.input
    radiograph, _ = read_study(image, fit=(size.height, size.width))
    timer = StageTimer()
    job = InferenceJob(radiograph, None, timer, time.perf_counter())
    (result,) = run_inference(bare.model, [job])
    assert not isinstance(result, Exception), result


if __name__ == "__main__":
    run()
