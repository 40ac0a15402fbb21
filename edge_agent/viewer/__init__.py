"""The page for radiographers: static files without a framework, loaded from this agent only."""

from __future__ import annotations

from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
