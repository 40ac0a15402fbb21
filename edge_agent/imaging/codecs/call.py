"""Calls into native decoders."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from edge_agent.imaging.errors import corrupt_error

Result = TypeVar("Result")


def call_decoder(
    decoder: Callable[..., Result | None], *arguments: object, **options: object
) -> Result:
    """Call a native decoder and treat any error that it raises as damage in the file.

    Args:
        decoder: the function to call.
        arguments: its positional arguments.
        options: its keyword arguments.

    Returns:
        The decoder's result.

    Raises:
        StudyImageRefused: CORRUPT.
        MemoryError: the decoder ran out of memory.
    """
    try:
        result = decoder(*arguments, **options)
    except MemoryError:
        raise
    except Exception as error:
        raise _undecodable_error() from error
    except BaseException as error:
        # PyO3 raises a panic in Rust as PanicException, which is not an Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise _undecodable_error() from error
    if result is None:
        raise _undecodable_error()
    return result


def _undecodable_error() -> Exception:
    return corrupt_error("its decoder cannot read the picture")
