"""The agent's log: one line per event on standard error, `key=value` pairs, no patient data."""

from __future__ import annotations

import logging
import re
import sys
import traceback
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TextIO

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_PLAIN: Final = re.compile(r"[^\s\"=]+")


class LineFormatter(logging.Formatter):
    """`2026-11-23T21:57:26Z INFO serving address=127.0.0.1:50051 engine=openvino-int8`.

    Keys are the record's extras in the order given. No traceback is written: an exception's own
    words may quote a file's content.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the values hold."""
        time = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        pairs = [
            f"{key}={_value(value)}" for key, value in vars(record).items() if key not in _STANDARD
        ]
        message = record.getMessage().replace("\n", " ")
        return " ".join([time, record.levelname, message, *pairs])


def _value(value: object) -> str:
    text = str(value)
    if _PLAIN.fullmatch(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def configure_logging(level: str = "INFO", stream: TextIO | None = None) -> None:
    """Let this program's own log through, and of other libraries only errors.

    pydicom quotes the header's values in its warnings and log lines, so it is silenced whole.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(LineFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.ERROR)
    logging.getLogger("edge_agent").setLevel(level)
    silence_header_quotes()


def silence_header_quotes() -> None:
    """Keep header values, which may be the patient's, out of warnings and logs."""
    pydicom = logging.getLogger("pydicom")
    pydicom.propagate = False
    pydicom.handlers[:] = [logging.NullHandler()]
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")


def where_raised(error: BaseException, depth: int = 4) -> str:
    """The innermost places of an exception, such as `pixels.py:40 < read.py:88`; not its words."""
    frames = traceback.extract_tb(error.__traceback__)[-depth:]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
