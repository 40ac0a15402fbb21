"""What was settled when a run began: bounds, split, source, libraries. Written once, never after.

`run.json` lies in the run's folder. Whatever is later said of the model (its proof, its list of
parts) refers to this file, so bounds cannot be moved once results are known.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Final, Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import BaseModel, ConfigDict, ValidationError

from training.config import Config, ParityBounds
from training.data.atomic_files import replace_files
from training.errors import TrainingError

FILE: Final = "run.json"
_OURS: Final = ("hilum", "training")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Library(_Frozen):
    """An installed distribution; `needs` are the names of those among the others that it asks for.

    `licence` is its SPDX expression, where it states one.
    """

    name: str
    version: str
    licence: str = ""
    needs: tuple[str, ...] = ()


class RunManifest(_Frozen):
    """`run.json`."""

    format: Literal[1] = 1
    bounds: ParityBounds
    split: str
    split_digest: str
    git_revision: str
    python: str
    libraries: tuple[Library, ...]

    def to_bytes(self) -> bytes:
        """UTF-8 JSON, two-space indent, a final newline."""
        return (self.model_dump_json(indent=2) + "\n").encode()

    @property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def note(
    config: Config, split_digest: str, git_revision: str, *, resume: bool = False
) -> RunManifest:
    """Write down what holds from now on, or check that what a stopped run began with still does.

    Raises:
        TrainingError: the run that is gone on with declared other bounds, or had another split.
    """
    path = config.out / FILE
    if resume:
        begun = read(config)
        if begun.split_digest != split_digest:
            raise TrainingError(f"{path} tells of another split than is configured now")
        return begun
    begun = RunManifest(
        bounds=config.parity,
        split=config.evaluate.split,
        split_digest=split_digest,
        git_revision=git_revision,
        python=platform.python_version(),
        libraries=libraries(),
    )
    with replace_files(config.out) as place:
        place(FILE).write_bytes(begun.to_bytes())
    return begun


def read(config: Config) -> RunManifest:
    """What was settled when the configured run began.

    Raises:
        TrainingError: there is no such file, or the bounds or the split that is judged on were
            changed since.
    """
    path = config.out / FILE
    try:
        begun = RunManifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise TrainingError(
            f"there is no {path}, which a run writes when it begins",
            hint="Bounds are declared before the run: begin one with `hilum-train run`.",
        ) from error
    except ValidationError as error:
        raise TrainingError(f"{path} is not understood: {error.errors()[0]['msg']}") from error
    for name, declared in begun.bounds.model_dump().items():
        stated = getattr(config.parity, name)
        if stated != declared:
            raise TrainingError(
                f"parity.{name} is {stated:g}, but {declared:g} was declared when the run began "
                f"({path})",
                hint="State the declared bound again, or begin a new run in another `out`.",
            )
    if begun.split != config.evaluate.split:
        raise TrainingError(
            f"evaluate.split is {config.evaluate.split!r}, but {begun.split!r} was declared when "
            f"the run began ({path})"
        )
    return begun


def libraries(
    root: tuple[str, str] = _OURS,
    find: Callable[[str], Distribution] = distribution,
) -> tuple[Library, ...]:
    """All installed libraries that training stands on, by name, the indirect ones included.

    Args:
        root: a distribution and an extra, whose requirements are followed; not listed itself.
        find: gives an installed distribution by its name.
    """
    met: dict[str, tuple[Distribution, set[str]]] = {}
    seen: set[tuple[str, str]] = set()
    left = [root, (root[0], "")]
    while left:
        name, extra = left.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            found = find(name)
        except PackageNotFoundError:  # for another platform, or overridden in the lock
            continue
        _, needs = met.setdefault(name, (found, set()))
        for requirement in map(Requirement, found.requires or ()):
            if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                continue
            wanted = canonicalize_name(requirement.name)
            needs.add(wanted)
            left += [(wanted, ""), *((wanted, of) for of in requirement.extras)]
    return tuple(
        Library(
            name=name,
            version=found.version,
            licence=_licence(found),
            needs=tuple(sorted((needs & set(met)) - {name, root[0]})),
        )
        for name, (found, needs) in sorted(met.items())
        if name != root[0]
    )


def _licence(found: Distribution) -> str:
    stated = "License-Expression" in found.metadata
    return str(found.metadata["License-Expression"]) if stated else ""
