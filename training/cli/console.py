"""The terminal: errors in two lines, bars, exit statuses. Quick to import."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Final, ParamSpec

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edge_agent.errors import HilumError

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1

Arguments = ParamSpec("Arguments")
stderr = Console(stderr=True)


def reported(command: Callable[Arguments, None]) -> Callable[Arguments, int]:
    """Run a command to its exit status; errors go to the terminal in two lines."""

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
def bars() -> Iterator[Callable[[str, int, int], None]]:
    """One bar per step, made when the step is first told about."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=stderr,
    ) as progress:
        tasks: dict[str, object] = {}

        def told(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = progress.add_task(step, total=total)
            progress.update(tasks[step], completed=done)  # type: ignore[arg-type] # an opaque id

        yield told
