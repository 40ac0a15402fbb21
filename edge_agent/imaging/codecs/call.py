"""Calls into decoders that are native code."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from edge_agent.imaging.errors import corrupt_error

Result = TypeVar("Result")


def call_decoder(
    decoder: Callable[..., Result | None], *arguments: object, **options: object
) -> Result:
    """What a native decoder makes of its arguments; whatever it complains of is the file's fault.

    Raises:
        StudyImageRefused: CORRUPT.
    """
    try:
        result = decoder(*arguments, **options)
    except MemoryError:
        raise
    except Exception as error:
        raise _undecodable() from error
    except BaseException as error:
        # A panic in Rust is caught at the language border, but arrives as no Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise _undecodable() from error
    if result is None:
        raise _undecodable()
    return result


def _undecodable() -> Exception:
    return corrupt_error("its decoder cannot read the picture")
