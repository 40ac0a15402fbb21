"""The run manifest: acceptance bounds, split, source revision and libraries at a run's start.

`run.json` is written into the run's folder once and never changed. The model's parity result and
SBOM refer to it, so bounds cannot be moved once results are known.
"""

from __future__ import annotations

import hashlib
import platform
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from training.config import Config, ParityBounds
from training.data.atomic_files import replace_files
from training.errors import TrainingError
from training.train.dependencies import Library, list_libraries

FILE: Final = "run.json"


class RunManifest(BaseModel):
    """`run.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    bounds: ParityBounds
    split: str
    split_digest: str
    git_revision: str
    python: str
    libraries: tuple[Library, ...]

    def to_bytes(self) -> bytes:
        """Return the file's content: UTF-8 JSON, two-space indent, a final newline."""
        return (self.model_dump_json(indent=2) + "\n").encode()

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the file."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def create_or_check(
    config: Config, split_digest: str, git_revision: str, *, resume: bool = False
) -> RunManifest:
    """Write the manifest of a new run, or check that a resumed run still agrees with its own.

    Args:
        config: the run.
        split_digest: of the frozen split that is configured.
        git_revision: of the source; empty where there is none.
        resume: the run exists already.

    Returns:
        The manifest in the run's folder.

    Raises:
        TrainingError: the resumed run declared other bounds, or had another split.
    """
    path = config.out / FILE
    if resume:
        manifest = load(config)
        if manifest.split_digest != split_digest:
            raise TrainingError(f"{path} names another split than is configured now")
        return manifest
    manifest = RunManifest(
        bounds=config.parity,
        split=config.evaluate.split,
        split_digest=split_digest,
        git_revision=git_revision,
        python=platform.python_version(),
        libraries=list_libraries(),
    )
    with replace_files(config.out) as place:
        place(FILE).write_bytes(manifest.to_bytes())
    return manifest


def load(config: Config) -> RunManifest:
    """Load the manifest of the configured run.

    Raises:
        TrainingError: there is no manifest, or the bounds or the split that the model is judged
            on were changed since.
    """
    path = config.out / FILE
    try:
        manifest = RunManifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise TrainingError(
            f"there is no {path}, which a run writes when it starts",
            hint="Bounds are declared before the run: start one with `hilum-train run`.",
        ) from error
    except ValidationError as error:
        raise TrainingError(f"{path} is not valid: {error.errors()[0]['msg']}") from error
    for name, declared in manifest.bounds.model_dump().items():
        configured = getattr(config.parity, name)
        if configured != declared:
            raise TrainingError(
                f"parity.{name} is {configured:g}, but {declared:g} was declared when the run "
                f"started ({path})",
                hint="State the declared bound again, or start a new run in another `out`.",
            )
    if manifest.split != config.evaluate.split:
        raise TrainingError(
            f"evaluate.split is {config.evaluate.split!r}, but {manifest.split!r} was declared "
            f"when the run started ({path})"
        )
    return manifest
