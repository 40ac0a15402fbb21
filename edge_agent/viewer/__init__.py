"""The page a radiographer opens: static files, no framework, nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
