"""The callback through which long work in training reports its progress."""

from __future__ import annotations

from collections.abc import Callable

ProgressCallback = Callable[[str, int, int], None]
"""Called with the stage's name, the steps done and the steps in all."""


def ignore_progress(_stage: str, _done: int, _total: int) -> None:
    """Do nothing: the default where no caller wants to know the progress."""
