"""Speed, side by side in one run: `python -m tests.bench [NAME ...]`; without names, all but int8.

`int8` quantizes a large network in many forms first, which takes minutes of all cores.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
from importlib import metadata
from pathlib import Path

BENCHES = (
    "imaging",
    "engines",
    "content_check",
    "serving",
    "throughput",
    "swap",
    "footprint",
    "targets",
)
ON_REQUEST = ("int8",)
LIBRARIES = (
    "numpy",
    "opencv-python-headless",
    "imagecodecs",
    "pillow",
    "pydicom",
    "openvino",
    "onnxruntime",
    "grpcio",
)


def main() -> None:
    """Print the machine, then run each benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, epilog="example: make bench ARGS=int8"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHES + ON_REQUEST))
    names = parser.parse_args().names or list(BENCHES)
    if unknown := sorted(set(names) - {*BENCHES, *ON_REQUEST}):
        known = ", ".join(BENCHES + ON_REQUEST)
        parser.error(f"there is no benchmark {', '.join(unknown)}; known: {known}")
    print(machine())
    for name in names:
        print(f"\n## {name}\n", flush=True)
        importlib.import_module(f"tests.bench.{name}").run()


def machine() -> str:
    """Return the machine that the figures were measured on, with the libraries' versions."""
    cores = len(os.sched_getaffinity(0))
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES)
    return "\n".join(
        [
            f"{processor()}, {cores} cores, {memory_gib():.0f} GiB, load {os.getloadavg()[0]:.1f}",
            f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
            versions,
        ]
    )


def processor() -> str:
    """Return the processor's name, with the instructions that matter to INT8 and BF16."""
    about: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        about.setdefault(key.strip(), value.strip())
    flags = set(about.get("flags", "").split())
    known = [name for name in ("avx2", "avx512_vnni", "avx512_bf16", "amx_int8") if name in flags]
    return f"{about.get('model name', platform.machine())} ({' '.join(known)})"


def memory_gib() -> float:
    """Return the machine's memory in GiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)


if __name__ == "__main__":
    main()
