"""The processor and GPUs of a machine, as the kernel describes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_agent.engines import hardware
from edge_agent.engines.hardware import Hardware, read_cpu_name

XEON = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: INTEL(R) XEON(R) PLATINUM 8581C CPU @ 2.30GHz
flags\t\t: fpu vme avx512f amx_tile amx_int8

processor\t: 1
model name\t: another
flags\t\t: none
"""
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd i8mm bf16\n"


def detect_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None) -> Hardware:
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(hardware, "_CPUINFO", path)
    return Hardware.detect()


def test_the_hardware_of_this_machine_is_detected() -> None:
    detected = Hardware.detect()
    assert detected.cores == len(os.sched_getaffinity(0))
    assert detected.cpu == read_cpu_name() != ""
    assert detected == Hardware.detect()


def test_the_first_processors_entry_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI")
    detected = detect_from(tmp_path, monkeypatch, XEON)
    assert detected.cpu == "INTEL(R) XEON(R) PLATINUM 8581C CPU @ 2.30GHz"
    assert detected.flags == ("amx_int8", "amx_tile", "avx512f", "fpu", "vme")
    assert detected.isa_limit == "AVX512_CORE_VNNI"


def test_other_names_in_the_kernels_description_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detected = detect_from(tmp_path, monkeypatch, ARM)
    assert detected.flags == ("asimd", "bf16", "fp", "i8mm")
    assert detected.cpu != ""
    (tmp_path / "cpuinfo").unlink()
    assert detect_from(tmp_path, monkeypatch, None).flags == ()


def test_gpus_are_read_from_the_kernel_with_their_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "_NVIDIA", tmp_path)
    assert Hardware.detect().gpus == ()
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22\nGCC version: 12\n"
    )
    for slot, model in (("0000:01:00.0", "NVIDIA L4"), ("0000:02:00.0", "NVIDIA RTX A2000")):
        folder = tmp_path / "gpus" / slot
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 24\n")
    assert Hardware.detect().gpus == (
        "NVIDIA L4, driver 550.54.14",
        "NVIDIA RTX A2000, driver 550.54.14",
    )
