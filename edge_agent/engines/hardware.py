"""Describes the processor and GPUs that an engine's speed and outputs depend on."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

_CPUINFO: Final = Path("/proc/cpuinfo")
_NVIDIA: Final = Path("/proc/driver/nvidia")
_ISA_LIMIT: Final = "ONEDNN_MAX_CPU_ISA"


@dataclass(frozen=True, slots=True)
class Hardware:
    """The processor and the GPUs of this machine.

    Attributes:
        cpu: the processor's name.
        cores: cores that this process may use.
        flags: the kernel's names of the instructions, sorted (`amx_int8`, `avx512_vnni`, ...).
        isa_limit: the instructions that the operator allows oneDNN, which OpenVINO and ONNX Runtime
            compute with, from its environment variable.
        gpus: NVIDIA's GPUs by model, each with the driver's version.
    """

    cpu: str
    cores: int
    flags: tuple[str, ...]
    isa_limit: str
    gpus: tuple[str, ...] = ()

    @classmethod
    def detect(cls) -> Self:
        """Return the hardware that this process may use."""
        facts = _cpuinfo()
        return cls(
            cpu=read_cpu_name(),
            cores=len(os.sched_getaffinity(0)),
            flags=tuple(sorted(facts.get("flags", facts.get("Features", "")).split())),
            isa_limit=os.environ.get(_ISA_LIMIT, ""),
            gpus=list_nvidia_gpus(),
        )


def read_cpu_name() -> str:
    """Return the processor's name, such as `AMD EPYC`."""
    facts = _cpuinfo()
    return facts.get("model name") or platform.processor() or platform.machine()


def list_nvidia_gpus() -> tuple[str, ...]:
    """Return the NVIDIA GPUs that the kernel's driver lists, by model, with the driver's version.

    No library is loaded, because that would take memory and CUDA does not survive a fork.
    """
    try:
        driver = (_NVIDIA / "version").read_text(encoding="utf-8").partition("\n")[0].split()
        files = sorted((_NVIDIA / "gpus").glob("*/information"))
        entries = [file.read_text(encoding="utf-8") for file in files]
    except OSError:
        return ()
    version = next((word for word in driver if word[:1].isdigit()), "unknown")
    models = (
        line.partition(":")[2].strip()
        for entry in entries
        for line in entry.splitlines()
        if line.startswith("Model:")
    )
    return tuple(f"{model}, driver {version}" for model in models)


def _cpuinfo() -> dict[str, str]:
    """Return the first processor's entry; empty if the kernel has none."""
    try:
        entry = _CPUINFO.read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in entry.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
