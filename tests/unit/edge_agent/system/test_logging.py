from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from edge_agent.system.logging import configure_logging, where_raised
from tests.support.agents.tagged import logging_restored


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    with logging_restored():
        configure_logging(stream=stream)
        yield stream


def test_one_line_per_event_with_its_pairs(written: io.StringIO) -> None:
    log = logging.getLogger("edge_agent.app.agent")
    log.info("serving", extra={"address": "127.0.0.1:5005", "compute_device": 'CPU: "x"\nline'})
    (line,) = written.getvalue().splitlines()
    assert line.endswith('INFO serving address=127.0.0.1:5005 compute_device="CPU: \\"x\\"\\nline"')


def test_other_libraries_are_heard_only_when_something_is_wrong(written: io.StringIO) -> None:
    logging.getLogger("some.library").warning("chatter")
    logging.getLogger("some.library").error("broken")
    assert "chatter" not in written.getvalue()
    assert "ERROR broken" in written.getvalue()


def test_pydicom_is_silent_for_it_quotes_headers(written: io.StringIO) -> None:
    logging.getLogger("pydicom").error("PatientName Doe^Jane")
    assert written.getvalue() == ""


def test_no_traceback_is_written(written: io.StringIO) -> None:
    try:
        int("Doe^Jane")
    except ValueError as error:
        logging.getLogger("edge_agent").exception("failed", extra={"at": where_raised(error)})
    assert "Doe^Jane" not in written.getvalue()
    assert "at=test_logging.py:" in written.getvalue()
