"""Terminal output of the commands: messages, errors, progress bars and exit statuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Final, ParamSpec

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edge_agent.errors import HilumError
from training.progress import ProgressCallback

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1

Arguments = ParamSpec("Arguments")
stderr = Console(stderr=True)


def exit_status(command: Callable[Arguments, None]) -> Callable[Arguments, int]:
    """Wrap a command so that it returns its exit status and prints errors with their hint."""

    @wraps(command)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> int:
        try:
            command(*args, **kwargs)
        except HilumError as error:
            stderr.print(f"error: {error.message}", style="red", markup=False, soft_wrap=True)
            if error.hint:
                stderr.print(error.hint, markup=False, soft_wrap=True)
            return EXIT_FAILED
        except OSError as error:
            stderr.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
            return EXIT_FAILED
        return EXIT_OK

    return run


@contextmanager
def progress_bars() -> Iterator[ProgressCallback]:
    """Show a progress bar per stage, from the first time that the stage reports progress."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=stderr,
    ) as progress:
        tasks: dict[str, object] = {}

        def on_progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done)  # type: ignore[arg-type] # an opaque id

        yield on_progress


def print_line(line: str) -> None:
    """Print a line to the terminal, above the progress bars."""
    stderr.print(line, markup=False, highlight=False, soft_wrap=True)
