"""The agent's results as frozen values."""

from __future__ import annotations

from dataclasses import dataclass

from hilum.catalog import CatalogFinding


@dataclass(frozen=True, slots=True)
class Spacing:
    """Millimetres per pixel as the header declares; not measured in the patient."""

    row_mm: float
    column_mm: float


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """Facts about the radiograph. Texts are empty and `spacing` is None where unknown.

    `rows` x `columns` is the size of the original image in pixels; `format` is `dicom`, `jpeg`,
    `png` or `tiff`; `view` the DICOM View Position such as `PA`; `laterality` `L`, `R`, `B` or `U`.
    """

    rows: int
    columns: int
    format: str
    transfer_syntax: str = ""
    photometric: str = ""
    bits_stored: int = 0
    view: str = ""
    laterality: str = ""
    body_part: str = ""
    manufacturer: str = ""
    spacing: Spacing | None = None


@dataclass(frozen=True, slots=True)
class Box:
    """Corners in pixels of the original image.

    x to the right, y down, origin at the top left corner of the top left pixel.
    """

    x_min: float
    y_min: float
    x_max: float
    y_max: float

    def fractions(self, image: ImageFacts) -> tuple[float, float, float, float]:
        """Return (x_min, y_min, x_max, y_max) as fractions of the image's width and height."""
        return (
            self.x_min / image.columns,
            self.y_min / image.rows,
            self.x_max / image.columns,
            self.y_max / image.rows,
        )


@dataclass(frozen=True, slots=True)
class Finding:
    """A detected abnormality: its catalogue entry, score 0-1 and box in original pixels."""

    entry: CatalogFinding
    score: float
    box: Box

    @property
    def name(self) -> str:
        """The catalogue's name, such as `Pleural effusion`."""
        return self.entry.name

    @property
    def slug(self) -> str:
        """The stable identifier, such as `pleural_effusion`."""
        return self.entry.slug


@dataclass(frozen=True, slots=True)
class ImageWarning:
    """There is a result, but the image is unlike those that the model was made for.

    `code` is one of `hilum.codes.WarningCode`, or a newer agent's.
    """

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Timings:
    """The duration of each stage at the agent, in milliseconds."""

    decode_ms: float
    queue_ms: float
    infer_ms: float
    postprocess_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one study image.

    `findings` are sorted by falling score; none means that the image was analysed and no finding
    reached its threshold. `bundle_digest` (SHA-256, hexadecimal) and `engine` identify the model
    and the variant that answered.
    """

    request_id: str
    findings: tuple[Finding, ...]
    image: ImageFacts
    warnings: tuple[ImageWarning, ...]
    bundle_digest: str
    engine: str
    timings: Timings


@dataclass(frozen=True, slots=True)
class ModelFinding:
    """A kind of finding and the score from which on it is reported."""

    entry: CatalogFinding
    operating_point: float


@dataclass(frozen=True, slots=True)
class Model:
    """The served model, its engine, and why that engine was selected. Input size in pixels."""

    name: str
    version: str
    bundle_digest: str
    engine: str
    engine_reason: str
    compute_device: str
    input_height: int
    input_width: int
    findings: tuple[ModelFinding, ...]
    intended_use: str
