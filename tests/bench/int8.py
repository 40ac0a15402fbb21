"""INT8 that is fast: one large network in many forms, timed alternately in one process.

YOLO11-L at 1024 x 1024 with random weights, which take as long as trained ones. All forms come from
one ONNX graph as `training.export.onnx` writes it (one grey channel, u8 in), Hardswish's from
another with that activation. The rows:

- reference: NNCF's INT8 of the ONNX as OpenVINO reads it, with the preset MIXED;
- NNCF's default preset (PERFORMANCE), on the graph as read and as converted, which fuses;
- our recipe (`training.export.int8`): each SiLU one Swish before quantizing, the head float;
- Hardswish in SiLU's place (it needs a training of its own), by our recipe, in both presets;
- OpenVINO without INT8: BF16 and FP32.

Targets, on a processor with AMX: our recipe at most 0.75 of the reference, Hardswish at most 0.45.
There the same table follows with AMX switched off, for honesty.

    python -m tests.bench.int8 --architecture yolo11n --size 320    # quick, to try that it works
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import nncf
import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from torch import nn
from ultralytics.nn.modules import Conv
from ultralytics.nn.tasks import DetectionModel, yaml_model_load

from edge_agent.engines.hardware import Hardware
from hilum.catalog import CATALOG
from training.export.int8 import quantize
from training.export.onnx import convert_to_openvino, export_onnx, serialize_ir

FOLDER: Final = Path(__file__).parents[2] / "runs" / "bench"
ARCHITECTURE, SIZE, ROUNDS, WARM_UP = "yolo11l", 1024, 21, 2
CALIBRATION: Final = 3
"""Images to calibrate with: enough for time, far too few for accuracy."""
WITHOUT_AMX: Final = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}
_INSTRUCTION_SETS: Final = (
    "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8",
)  # fmt: skip

Pictures = list[NDArray[np.uint8]]
Make = Callable[[bytes, Pictures], ov.Model]


@dataclass(frozen=True)
class Form:
    """One row: how its graph is made from the ONNX, and OpenVINO's settings."""

    name: str
    make: Make
    hardswish: bool = False
    precision: str = ""
    target: float | None = None


def _nncf(read: Callable[[bytes], ov.Model], **options: Any) -> Make:
    return lambda onnx, pictures: nncf.quantize(
        read(onnx), nncf.Dataset(pictures), subset_size=len(pictures), **options
    )


def _hilum(*, symmetric: bool) -> Make:
    return lambda onnx, pictures: quantize(
        convert_to_openvino(onnx), pictures, fast_bias_correction=True, symmetric=symmetric
    )


def _as_read(onnx: bytes) -> ov.Model:
    return ov.Core().read_model(onnx)


def _float(onnx: bytes, pictures: Pictures) -> ov.Model:
    return convert_to_openvino(onnx)


MIXED: Final = {"preset": nncf.QuantizationPreset.MIXED}
FORMS: Final = {
    "nncf-mixed": Form("NNCF INT8, MIXED (the reference)", _nncf(_as_read, **MIXED)),
    "nncf": Form("NNCF INT8, default preset", _nncf(_as_read)),
    "nncf-converted": Form(
        "NNCF INT8, default preset, graph converted", _nncf(convert_to_openvino)
    ),
    "hilum": Form("our INT8, MIXED", _hilum(symmetric=False), target=0.75),
    "hilum-symmetric": Form("our INT8, PERFORMANCE", _hilum(symmetric=True)),
    "hard": Form("Hardswish, our INT8, MIXED", _hilum(symmetric=False), True, target=0.45),
    "hard-symmetric": Form(
        "Hardswish, our INT8, PERFORMANCE", _hilum(symmetric=True), True, target=0.45
    ),
    "bf16": Form("OpenVINO BF16", _float, precision="bf16"),
    "fp32": Form("OpenVINO FP32", _float, precision="f32"),
}
REFERENCE: Final = "nncf-mixed"


def run(architecture: str = ARCHITECTURE, size: int = SIZE, rounds: int = ROUNDS) -> None:
    """Make what is missing under runs/bench, then print the table, or both tables."""
    build(architecture, size)
    here = Hardware.detect()
    known = [flag for flag in _INSTRUCTION_SETS if flag in here.flags]
    print(
        f"\n{here.cpu}, {here.cores} cores: {', '.join(known) or 'no instruction set known here'}"
    )
    has_amx = "amx_int8" in here.flags
    if not has_amx:
        print(
            "This processor has no AMX. The targets are for one that has it and cannot be shown "
            "here;\nthe table with AMX switched off would be this one."
        )
    _measured_apart(architecture, size, rounds, {})
    if has_amx:
        print("\nThe same with AMX switched off " + str(WITHOUT_AMX))
        _measured_apart(architecture, size, rounds, WITHOUT_AMX)


def build(architecture: str, size: int) -> None:
    """Quantize each form that is not there yet; minutes for the large network."""
    rng = np.random.default_rng(0)
    pictures = [
        rng.integers(0, 256, (1, 1, size, size), dtype=np.uint8) for _ in range(CALIBRATION)
    ]
    onnx: dict[bool, bytes] = {}
    for key, form in FORMS.items():
        path = _path(architecture, size, key)
        if path.is_file():
            continue
        if form.hardswish not in onnx:
            onnx[form.hardswish] = export_onnx(_network(architecture, form.hardswish), size, size)
        print(f"making {path.name}", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        xml, weights = serialize_ir(form.make(onnx[form.hardswish], pictures))
        path.with_suffix(".bin").write_bytes(weights)
        path.write_bytes(xml)


def measure(architecture: str, size: int, rounds: int) -> None:
    """Time all forms in turns and print the table."""
    core = ov.Core()
    requests = {}
    for key, form in FORMS.items():
        settings = {"PERFORMANCE_HINT": "LATENCY"}
        if form.precision:
            settings["INFERENCE_PRECISION_HINT"] = form.precision
        if form.precision == "bf16" and "BF16" not in core.get_property(
            "CPU", "OPTIMIZATION_CAPABILITIES"
        ):
            continue
        compiled = core.compile_model(_path(architecture, size, key), "CPU", settings)
        requests[key] = compiled.create_infer_request()
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (1, 1, size, size), dtype=np.uint8)
    times: dict[str, list[float]] = {key: [] for key in requests}
    for number in range(WARM_UP + rounds):
        for key, request in requests.items():
            start = time.perf_counter()
            request.infer({0: picture}, share_inputs=True, share_outputs=True)
            if number >= WARM_UP:
                times[key].append((time.perf_counter() - start) * 1e3)
    medians = {key: statistics.median(of) for key, of in times.items()}
    print(f"\n{architecture} at {size} x {size}, one image, medians of {rounds}\n")
    print("| engine | ms | to the reference | target with AMX |\n|---|---|---|---|")
    for key, form in FORMS.items():
        if key not in medians:
            print(f"| {form.name} | not computed by this processor | | |")
            continue
        ratio = medians[key] / medians[REFERENCE]
        target = f"<= {form.target}" if form.target else ""
        print(f"| {form.name} | {medians[key]:.1f} | {ratio:.2f} | {target} |")


def _network(architecture: str, hardswish: bool) -> DetectionModel:
    torch.manual_seed(0)
    config = yaml_model_load(f"{architecture}.yaml")
    try:
        if hardswish:
            config["activation"] = "torch.nn.Hardswish()"
        return DetectionModel(config, ch=1, nc=len(CATALOG), verbose=False).eval()
    finally:
        Conv.default_act = nn.SiLU()  # Building sets it for all networks to come.


def _path(architecture: str, size: int, key: str) -> Path:
    versions = f"nncf{nncf.__version__}-ov{ov.__version__.split('-')[0]}"
    return FOLDER / versions / f"{architecture}-{size}-{key}.xml"


def _measured_apart(architecture: str, size: int, rounds: int, environment: dict[str, str]) -> None:
    """In a fresh process: quantizing leaves threads and memory behind; oneDNN reads its once."""
    options = [f"--architecture={architecture}", f"--size={size}", f"--rounds={rounds}"]
    sys.stdout.flush()
    subprocess.run(
        [sys.executable, "-m", "tests.bench.int8", *options, "--only-measure"],
        env=os.environ | environment,
        cwd=Path(__file__).parents[2],
        check=True,
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--architecture", default=ARCHITECTURE)
    parser.add_argument("--size", type=int, default=SIZE)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only-measure", action="store_true", help="all forms are there already")
    given = parser.parse_args()
    (measure if given.only_measure else run)(given.architecture, given.size, given.rounds)


if __name__ == "__main__":
    main()
