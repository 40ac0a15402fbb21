"""The agent's log: one line of logfmt per event on standard error, without patient data.

Call sites log a fixed sentence, and pass values with `extra={...}`, which become `key=value`
pairs. So lines can be grouped by sentence and filtered by key.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TextIO

_STANDARD_FIELDS: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_UNQUOTED: Final = re.compile(r"[^\s\"=]+")


class LogfmtFormatter(logging.Formatter):
    """Formats a record as time, level, message and `key=value` pairs.

    `2026-11-23T21:57:26Z INFO serving address=127.0.0.1:50051 engine=openvino-int8`. Keys are the
    record's extras in the order given; a value with spaces, quotes or `=` is quoted. No traceback
    is written, because an exception's text may quote a file's content.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        time = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        pairs = [
            f"{key}={_format_value(value)}"
            for key, value in vars(record).items()
            if key not in _STANDARD_FIELDS
        ]
        message = record.getMessage().replace("\n", " ")
        return " ".join([time, record.levelname, message, *pairs])


def _format_value(value: object) -> str:
    text = str(value)
    if _UNQUOTED.fullmatch(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def configure_logging(level: str = "INFO", stream: TextIO | None = None) -> None:
    """Write the agent's own log to a stream, and of libraries only errors.

    pydicom quotes header values in its warnings and log lines, so it is silenced completely.

    Args:
        level: the lowest level of the agent's own log.
        stream: the stream; None for standard error.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(LogfmtFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.ERROR)
    logging.getLogger("edge_agent").setLevel(level)
    silence_pydicom()


def silence_pydicom() -> None:
    """Keep header values, which pydicom quotes, out of warnings and logs."""
    pydicom = logging.getLogger("pydicom")
    pydicom.propagate = False
    pydicom.handlers[:] = [logging.NullHandler()]
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")


def describe_origin(error: BaseException, depth: int = 4) -> str:
    """Return where an exception was raised, without its text: `pixels.py:40 < read.py:88`."""
    frames = traceback.extract_tb(error.__traceback__)[-depth:]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
