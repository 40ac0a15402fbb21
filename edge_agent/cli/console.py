"""The consoles of the command line, and how errors are printed on them.

This module imports neither gRPC nor the decoders: commands that need neither start at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from edge_agent.errors import HilumError

if TYPE_CHECKING:
    from hilum.client import DetectError


def open_stdout() -> Console:
    """Return a console on standard output, for results."""
    return Console(highlight=False, emoji=False)


def open_stderr() -> Console:
    """Return a console on standard error, for everything that is not a result."""
    return Console(stderr=True, highlight=False, emoji=False)


def print_error(
    console: Console, error: HilumError | DetectError, *, file: Path | None = None
) -> None:
    """Print an error's code and message, and its hint below.

    Args:
        console: where it is printed.
        error: the error.
        file: the file that it concerns, if it is one.
    """
    subject = f"{escape(str(file))}: " if file else ""
    console.print(
        f"[bold red]error[/bold red] {subject}{error.code}: {escape(error.message)}",
        soft_wrap=True,
    )
    if error.hint:
        console.print(f"  {escape(error.hint)}", soft_wrap=True)


def print_usage_error(console: Console, message: str) -> None:
    """Print what is wrong with the command line."""
    console.print(f"[bold red]error[/bold red] {escape(message)}", soft_wrap=True)
