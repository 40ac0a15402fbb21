"""The installed libraries that training needs, for the run manifest and the SBOM."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import BaseModel, ConfigDict

_ROOT: Final = ("hilum", "training")


class Library(BaseModel):
    """An installed distribution.

    Attributes:
        name, version: as installed.
        licence: SPDX expression, empty where the distribution states none.
        needs: names of the other listed distributions that it requires.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    licence: str = ""
    needs: tuple[str, ...] = ()


def list_libraries(
    root: tuple[str, str] = _ROOT,
    find: Callable[[str], Distribution] = distribution,
) -> tuple[Library, ...]:
    """List the installed libraries that training needs, direct and indirect, sorted by name.

    Args:
        root: a distribution and its extra, whose requirements are followed; not listed itself.
        find: returns an installed distribution by its name.
    """
    known: dict[str, tuple[Distribution, set[str]]] = {}
    seen: set[tuple[str, str]] = set()
    pending = [root, (root[0], "")]
    while pending:
        name, extra = pending.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            installed = find(name)
        except PackageNotFoundError:  # for another platform, or overridden in the lock
            continue
        _, needs = known.setdefault(name, (installed, set()))
        for requirement in map(Requirement, installed.requires or ()):
            if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                continue
            required = canonicalize_name(requirement.name)
            needs.add(required)
            pending += [
                (required, ""),
                *((required, extra_name) for extra_name in requirement.extras),
            ]
    return tuple(
        Library(
            name=name,
            version=installed.version,
            licence=_read_licence(installed),
            needs=tuple(sorted((needs & set(known)) - {name, root[0]})),
        )
        for name, (installed, needs) in sorted(known.items())
        if name != root[0]
    )


def _read_licence(installed: Distribution) -> str:
    has_licence = "License-Expression" in installed.metadata
    return str(installed.metadata["License-Expression"]) if has_licence else ""
