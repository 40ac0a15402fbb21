from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.system.systemd import ServiceManager


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        yield listener


def bind(listener: socket.socket, tmp_path: Path, *, abstract: bool) -> str:
    """Bind the socket as a service manager does; return the value of NOTIFY_SOCKET."""
    if abstract:
        name = f"hilum-test-{os.getpid()}"
        listener.bind(f"\0{name}")
        return f"@{name}"
    listener.bind(str(tmp_path / "notify"))
    return str(tmp_path / "notify")


@pytest.mark.parametrize("abstract", [False, True])
def test_fields_are_sent_as_one_datagram(
    listener: socket.socket, tmp_path: Path, abstract: bool
) -> None:
    address = bind(listener, tmp_path, abstract=abstract)
    manager = ServiceManager.from_environment({"NOTIFY_SOCKET": address})
    assert manager.is_present
    manager.notify(READY=1, STATUS="It serves.\nWATCHDOG=1")
    assert listener.recv(1024) == b"READY=1\nSTATUS=It serves. WATCHDOG=1"


@pytest.mark.parametrize("address", [None, "", "relative", "vsock:2:1234"])
def test_without_a_manager_nothing_is_sent(address: str | None) -> None:
    environment = {"WATCHDOG_USEC": "1000000"} | (
        {} if address is None else {"NOTIFY_SOCKET": address}
    )
    manager = ServiceManager.from_environment(environment)
    assert not manager.is_present
    assert manager.watchdog_s is None
    manager.notify(READY=1)


@pytest.mark.parametrize(
    ("watchdog", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdogs_interval_is_read_if_it_is_for_this_process(
    watchdog: dict[str, str], seconds: float | None
) -> None:
    manager = ServiceManager.from_environment({"NOTIFY_SOCKET": "/nowhere"} | watchdog)
    assert manager.watchdog_s == seconds


def test_a_manager_that_is_gone_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manager = ServiceManager(str(tmp_path / "gone"))
    manager.notify(READY=1)
    manager.notify(WATCHDOG=1)
    assert caplog.messages == ["systemd cannot be notified"]
