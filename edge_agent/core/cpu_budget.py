"""A budget of processor time: a bounded share of the passing time.

Pure: the caller passes `now` (monotonic seconds). After a run that took `cpu_s` seconds of
processor time, the next may start when `cpu_s / share` seconds have passed. So in any stretch of
time, all runs that ended in it but the last took together at most its length times the share.
"""

from __future__ import annotations

import math


class CpuBudget:
    """Decides when the next run may start."""

    def __init__(self, share: float) -> None:
        """Create a budget of which nothing is spent.

        Args:
            share: seconds of processor time per second; above 1 for several cores.

        Raises:
            ValueError: the share is not a positive number.
        """
        if not (math.isfinite(share) and share > 0):
            raise ValueError(f"a share of {share:g} is not a positive number")
        self._share = share
        self._next_start = -math.inf

    def may_run(self, now: float) -> bool:
        """Return True if a run may start."""
        return now >= self._next_start

    def wait_s(self, now: float) -> float:
        """Return the seconds until a run may start."""
        return max(0.0, self._next_start - now)

    def spent(self, now: float, cpu_s: float) -> None:
        """Charge the processor time of a run that has ended.

        Args:
            now: when the run ended.
            cpu_s: the processor time that it took.

        Raises:
            ValueError: the processor time is negative, or not a number.
        """
        if not (math.isfinite(cpu_s) and cpu_s >= 0):
            raise ValueError(f"{cpu_s:g} s of processor time cannot be charged")
        self._next_start = max(self._next_start, now) + cpu_s / self._share
