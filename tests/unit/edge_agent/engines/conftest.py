"""A fixture with a sound small bundle for the tests of engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.engines.bundle import Bundle
from tests.support.engines import bundles


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a bundle whose model outputs its input's pixels (see `bundles.transparent_ir`)."""
    return Bundle.open(bundles.pack(path(tmp_path_factory), bundles.contents()))


def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundle") / "transparent.bundle"
