"""The folder that export, quantisation and parity share: graphs as a bundle lays them out.

export.json names every file with its digest and says what was quantised on what. It is written
last, so a folder whose files do not agree with it was cut short.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hilum.manifest import EngineTarget, HeadSpec, InputSpec, MemberPath, Sha256
from training.bundle.variants import ModelFiles
from training.data.atomic_files import replace_files
from training.errors import TrainingError

FILE: Final = "export.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Calibration(_Frozen):
    """What INT8 ranges rest on, and what was left float to keep the accuracy."""

    split: str
    split_digest: Sha256
    images: int = Field(ge=1)
    max_drop: float | None = None
    drop: float | None = None
    left_float: tuple[str, ...] = ()


class PlanInspection(_Frozen):
    """What an engine compiled ahead of time consists of, for one compute capability.

    `convolutions` counts them by the type of what goes in (`Int8`, `Half`, `Float`), as far as the
    compiler kept them apart from other layers. `left_out` says why it is not shipped; empty if it
    is.
    """

    variant: str
    capability: str
    layers: int
    convolutions: dict[str, int]
    size_bytes: int
    left_out: str = ""


class ExportManifest(_Frozen):
    """`export.json`."""

    format: Literal[1] = 1
    weights_sha256: Sha256
    input: InputSpec
    head: HeadSpec
    files: dict[MemberPath, Sha256]
    calibration: Calibration | None = None
    targets: dict[str, tuple[EngineTarget, ...]] = {}
    inspected: tuple[PlanInspection, ...] = ()

    @property
    def digest(self) -> str:
        """What names exactly these graphs, in parity's result."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ExportArtifacts:
    """The record and the files that it names."""

    record: ExportManifest
    members: Mapping[str, bytes]

    @property
    def graphs(self) -> ModelFiles:
        """What a bundle is made of."""
        return ModelFiles(self.members, self.record.input, self.record.head, self.record.targets)

    def with_graphs(self, graphs: ModelFiles) -> ExportArtifacts:
        """The same with these files and engines."""
        record = self.record.model_copy(
            update={"files": digests(graphs.members), "targets": dict(graphs.targets)}
        )
        return replace(self, record=record, members=graphs.members)


def digests(members: Mapping[str, bytes]) -> dict[str, str]:
    """SHA-256 of each file, by its path."""
    return {path: hashlib.sha256(content).hexdigest() for path, content in sorted(members.items())}


def load(folder: Path) -> ExportArtifacts:
    """Read the folder and check every file.

    Raises:
        TrainingError: nothing was exported there, or a file is not what export.json says.
    """
    path = folder / FILE
    try:
        record = ExportManifest.model_validate_json(path.read_bytes())
        members = {name: (folder / name).read_bytes() for name in record.files}
    except FileNotFoundError as error:
        raise TrainingError(
            f"there is no {error.filename}", hint="Run `hilum-train export` first."
        ) from error
    except ValidationError as error:
        raise TrainingError(f"{path} is not understood: {error.errors()[0]['msg']}") from error
    for name, digest in digests(members).items():
        if digest != record.files[name]:
            raise TrainingError(
                f"{folder / name} is not what {FILE} says", hint="Run `hilum-train export` again."
            )
    return ExportArtifacts(record, members)


def save(folder: Path, exported: ExportArtifacts) -> None:
    """Write all files beside their places, then rename; the record last."""
    contents = dict(exported.members)
    contents[FILE] = (exported.record.model_dump_json(indent=2) + "\n").encode()
    with replace_files(folder) as place:
        for name, content in contents.items():
            place(name).write_bytes(content)
