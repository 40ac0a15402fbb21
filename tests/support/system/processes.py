"""Samples of memory, open files and threads of a process and all its descendants."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final, TextIO

import numpy as np

from edge_agent.system.processes import memory_kb, process_tree

_PAIRS_AT_MOST: Final = 2000
"""Samples that `growth_per_hour` compares at most; of more it takes evenly spread ones."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of a process tree, `seconds` after the start. Memory is PSS in kB."""

    seconds: float
    requests: int
    processes: int
    main_kb: int
    all_kb: int
    main_files: int
    all_files: int
    threads: int


class ProcessSampler:
    """Measures a process tree on request, and writes each sample as a line of CSV.

    Args:
        pid: the root of the tree.
        table: receives the lines.
    """

    def __init__(self, pid: int, table: TextIO) -> None:
        self._pid = pid
        self._table = table
        self._started = time.monotonic()
        self.samples: list[Sample] = []
        print(*(it.name for it in fields(Sample)), sep=",", file=table)

    def take_sample(self, requests: int = 0) -> Sample:
        """Take one sample."""
        pids = process_tree(self._pid)
        sample = Sample(
            seconds=round(time.monotonic() - self._started, 1),
            requests=requests,
            processes=len(pids),
            main_kb=memory_kb(self._pid),
            all_kb=sum(map(memory_kb, pids)),
            main_files=open_files(self._pid),
            all_files=sum(map(open_files, pids)),
            threads=len(_entries(f"/proc/{self._pid}/task")),
        )
        self.samples.append(sample)
        print(*asdict(sample).values(), sep=",", file=self._table, flush=True)
        return sample


def open_files(pid: int) -> int:
    """Return the number of open file descriptors.

    It is 0 if the process has ended, or if only root may count them.
    """
    return len(_entries(f"/proc/{pid}/fd"))


def growth_per_hour(seconds: Sequence[float], values: Sequence[float]) -> float:
    """Return the slope by Theil and Sen: the median over all pairs, which few spikes change."""
    every = -(-len(values) // _PAIRS_AT_MOST)
    at, value = np.asarray(seconds[::every], float), np.asarray(values[::every], float)
    first, second = np.triu_indices(len(at), 1)
    elapsed = at[second] - at[first]
    return (
        float(np.median((value[second] - value[first])[elapsed > 0] / elapsed[elapsed > 0])) * 3600
    )


def _entries(folder: str) -> list[Path]:
    try:
        return list(Path(folder).iterdir())
    except OSError:
        return []
