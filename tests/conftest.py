"""Fixtures and hooks for all tests: real input, required programs, order of the files."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.system.signal_stack import SignalStack

IN_CI = os.environ.get("CI") == "true"


def skip_or_fail(reason: str) -> None:
    """Skip the test on a laptop; fail it in CI, where everything that a test needs is installed."""
    if IN_CI:
        pytest.fail(f"{reason}; in CI this is a failure, not a skip")
    pytest.skip(reason)


def pytest_configure() -> None:
    """Let Hypothesis run the same examples each time and without a time limit for each.

    Neither chance nor a busy machine decides then. The campaigns draw new examples.
    """
    settings.load_profile("ci")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow files: one that came last would keep one core busy while others wait."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def signal_stack() -> SignalStack:
    """Return the main thread's alternate signal stack before the first test."""
    return SignalStack.of_this_thread()


@pytest.fixture(autouse=True)
def _own_signal_stack(signal_stack: SignalStack) -> None:
    """Restore the signal stack after OpenVINO cores of tests and NNCF (see `openvino_core`)."""
    signal_stack.install()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("service"):
        for command in marker.args:
            if shutil.which(command) is None:
                skip_or_fail(f"needs the program {command!r}")
    if item.get_closest_marker("training") and find_spec("torch") is None:
        skip_or_fail("needs the training extra (torch)")


@pytest.fixture(scope="session")
def radiographs() -> list[Path]:
    """Return real frontal chest radiographs (JPEG and PNG), sorted by name."""
    folder = os.environ.get("HILUM_TEST_DATA", "")
    files = sorted(p for p in Path(folder).glob("radiographs/*") if p.suffix in {".jpg", ".png"})
    if not folder or not files:
        skip_or_fail("HILUM_TEST_DATA does not name the folder that holds radiographs/")
    return files


def pydicom_file(name: str) -> Path:
    """Return the path of a file of the package pydicom-data, such as `RG1_UNCI.dcm`."""
    import data_store

    return next(Path(data_store.__file__).parent.rglob(name))


@pytest.fixture(scope="session")
def rg1() -> bytes:
    """Return a real PA chest CR, uncompressed, with several round masses."""
    return pydicom_file("RG1_UNCI.dcm").read_bytes()
