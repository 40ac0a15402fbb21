"""The long fault-injection runs: `python -m tests.campaign [NAME ...]`; without names, all."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path


def main() -> int:
    """Run the campaigns one after the other; fail if one fails."""
    known = sorted(
        path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_")
    )
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    names = parser.parse_args().names or known
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"there is no campaign {', '.join(unknown)}; known: {', '.join(known)}")
    failed = [
        name for name in names if importlib.import_module(f"tests.campaign.{name}").main([]) != 0
    ]
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
