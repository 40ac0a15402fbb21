"""What this box computes with, as far as an engine's speed and answers depend on it."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

_CPUINFO: Final = Path("/proc/cpuinfo")
_ISA_LIMIT: Final = "ONEDNN_MAX_CPU_ISA"


@dataclass(frozen=True, slots=True)
class Hardware:
    """The processor's name, the cores that this process may use, and the instructions it may use.

    `flags` are the kernel's names, sorted (`amx_int8`, `avx512_vnni`, ...). `isa_limit` is what
    the operator allows oneDNN, which both runtimes compute with, by its environment variable.
    """

    cpu: str
    cores: int
    flags: tuple[str, ...]
    isa_limit: str

    @classmethod
    def here(cls) -> Self:
        """This box, as this process sees it."""
        facts = _cpuinfo()
        return cls(
            cpu=cpu_model(),
            cores=len(os.sched_getaffinity(0)),
            flags=tuple(sorted(facts.get("flags", facts.get("Features", "")).split())),
            isa_limit=os.environ.get(_ISA_LIMIT, ""),
        )


def cpu_model() -> str:
    """The processor's own name, such as `AMD EPYC`."""
    facts = _cpuinfo()
    return facts.get("model name") or platform.processor() or platform.machine()


def _cpuinfo() -> dict[str, str]:
    """The first processor's entry; empty where the kernel shows none."""
    try:
        entry = _CPUINFO.read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in entry.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
