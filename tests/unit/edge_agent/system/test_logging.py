from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from edge_agent.system.logging import configure_logging, describe_origin
from tests.support.agents.tagged import logging_restored


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    with logging_restored():
        configure_logging(stream=stream)
        yield stream


def test_an_event_is_one_line_of_logfmt(written: io.StringIO) -> None:
    log = logging.getLogger("edge_agent.app.agent")
    log.info("serving", extra={"address": "127.0.0.1:5005", "compute_device": 'CPU: "x"\nline'})
    (line,) = written.getvalue().splitlines()
    assert line.endswith('INFO serving address=127.0.0.1:5005 compute_device="CPU: \\"x\\"\\nline"')


def test_only_errors_of_libraries_are_written(written: io.StringIO) -> None:
    logging.getLogger("some.library").warning("chatter")
    logging.getLogger("some.library").error("broken")
    assert "chatter" not in written.getvalue()
    assert "ERROR broken" in written.getvalue()


def test_pydicom_is_silenced_because_it_quotes_headers(written: io.StringIO) -> None:
    logging.getLogger("pydicom").error("PatientName Doe^Jane")
    assert written.getvalue() == ""


def test_no_traceback_is_written(written: io.StringIO) -> None:
    try:
        int("Doe^Jane")
    except ValueError as error:
        logging.getLogger("edge_agent").exception("failed", extra={"at": describe_origin(error)})
    assert "Doe^Jane" not in written.getvalue()
    assert "at=test_logging.py:" in written.getvalue()
