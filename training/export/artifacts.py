"""The folder that export, quantization and parity share: graphs in the layout of a bundle.

export.json names every file with its digest, and the data of the quantization. It is written last,
so a folder whose files do not agree with it is incomplete.
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
    """The images that set the INT8 ranges, and what accuracy control kept float."""

    split: str
    split_digest: Sha256
    images: int = Field(ge=1)
    max_drop: float | None = None
    drop: float | None = None
    kept_float: tuple[str, ...] = ()


class PlanInspection(_Frozen):
    """The layers of an engine compiled ahead of time for one compute capability.

    `convolutions` counts them by the type of their input (`Int8`, `Half`, `Float`), as far as the
    compiler did not fuse them with other layers. `exclusion_reason` is why the engine is not
    shipped; empty if it is.
    """

    variant: str
    capability: str
    layers: int
    convolutions: dict[str, int]
    size_bytes: int
    exclusion_reason: str = ""


class ExportManifest(_Frozen):
    """`export.json`."""

    format: Literal[1] = 1
    weights_sha256: Sha256
    input: InputSpec
    head: HeadSpec
    files: dict[MemberPath, Sha256]
    calibration: Calibration | None = None
    targets: dict[str, tuple[EngineTarget, ...]] = {}
    inspections: tuple[PlanInspection, ...] = ()

    @property
    def digest(self) -> str:
        """Return the digest that identifies these graphs in the parity result."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ExportArtifacts:
    """The manifest and the files that it names."""

    manifest: ExportManifest
    members: Mapping[str, bytes]

    @property
    def graphs(self) -> ModelFiles:
        """Return the files and specifications that a bundle is made of."""
        return ModelFiles(
            self.members, self.manifest.input, self.manifest.head, self.manifest.targets
        )

    def with_graphs(self, graphs: ModelFiles) -> ExportArtifacts:
        """Return a copy with these files and engines."""
        manifest = self.manifest.model_copy(
            update={"files": digest_files(graphs.members), "targets": dict(graphs.targets)}
        )
        return replace(self, manifest=manifest, members=graphs.members)


def digest_files(members: Mapping[str, bytes]) -> dict[str, str]:
    """Return the SHA-256 of each file, by its path."""
    return {path: hashlib.sha256(content).hexdigest() for path, content in sorted(members.items())}


def load_artifacts(folder: Path) -> ExportArtifacts:
    """Load the folder and check every file.

    Raises:
        TrainingError: nothing was exported there, or a file differs from its digest in export.json.
    """
    path = folder / FILE
    try:
        manifest = ExportManifest.model_validate_json(path.read_bytes())
        members = {name: (folder / name).read_bytes() for name in manifest.files}
    except FileNotFoundError as error:
        raise TrainingError(
            f"there is no {error.filename}", hint="Run `hilum-train export` first."
        ) from error
    except ValidationError as error:
        raise TrainingError(f"{path} is not valid: {error.errors()[0]['msg']}") from error
    for name, digest in digest_files(members).items():
        if digest != manifest.files[name]:
            raise TrainingError(
                f"{folder / name} differs from its digest in {FILE}",
                hint="Run `hilum-train export` again.",
            )
    return ExportArtifacts(manifest, members)


def save_artifacts(folder: Path, exported: ExportArtifacts) -> None:
    """Write all files beside their places, then rename them, the manifest last."""
    contents = dict(exported.members)
    contents[FILE] = (exported.manifest.model_dump_json(indent=2) + "\n").encode()
    with replace_files(folder) as place:
        for name, content in contents.items():
            place(name).write_bytes(content)
