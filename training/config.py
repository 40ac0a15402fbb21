"""The configuration of a training run: frozen sections, read from one YAML file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from hilum.catalog import BY_SLUG
from training.errors import TrainingError

SHA256: Final = r"^[0-9a-f]{64}$"

Activation = Literal["silu", "hardswish", "relu"]


class Section(BaseModel):
    """A part of the configuration: frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class DataConfig(Section):
    """The training data. Relative paths here and below start at the current folder."""

    dataset: Path = Field(description="a stored set (`hilum-train data` or `synthetic`)")
    split_file: Path | None = Field(
        None, description="the frozen split; null: split.json in the set's own folder"
    )


class Range(Section):
    """Numbers from `low` to `high`; integers if both are."""

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _check_order(self) -> Range:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError("low must be below high, and above 0 where log")
        return self


class SearchSpace(Section):
    """A choice among values."""

    choices: tuple[str | int | float | bool | None, ...] = Field(min_length=1)


class TrainConfig(Section):
    """Settings of one run. Every checkpoint stores them, so that a resumed run has the same."""

    architecture: str = Field("yolo11n", pattern=r"^yolo11[nslmx]$")
    activation: Activation = "silu"
    weights: Path | None = Field(
        None, description="initial weights; null: random. `.pt` of tensors only, or converted"
    )
    weights_sha256: str | None = Field(
        None, pattern=SHA256, description="digest of that file; without it nothing is loaded"
    )
    input_size: int = Field(416, ge=64, le=1280, multiple_of=32)
    small_size: int = Field(256, ge=64, multiple_of=32, description="input of the first epochs")
    small_epochs: int = Field(0, ge=0, description="epochs at small_size, which are cheaper")
    epochs: int = Field(12, ge=1, description="all epochs, including those at small_size")
    restart_epoch: int | None = Field(
        None, ge=1, description="epoch of a warm restart of the learning rate; null: none"
    )
    restart_share: float = Field(0.5, gt=0, le=1, description="learning rate then, as a share")
    batch: int = Field(16, ge=1, description="images of one step in all processes together")
    learning_rate: float = Field(2e-3, gt=0)
    final_share: float = Field(0.02, gt=0, le=1, description="last learning rate, as a share")
    weight_decay: float = Field(0.02, ge=0)
    warmup_steps: int = Field(120, ge=0)
    unlabelled_negative_weight: float = Field(
        0.3, ge=0, le=1, description="weight of a negative for a class that is not labelled"
    )
    unlabelled_negative_weight_small: float = Field(
        0.0, ge=0, le=1, description="the same in the small epochs"
    )
    ema_decay: float = Field(0.997, gt=0, lt=1)
    box_gain: float = 7.5
    class_gain: float = 0.7
    dfl_gain: float = 1.5
    class_weights: Literal["even", "balanced"] | dict[str, float] = Field(
        "even", description="balanced: rare classes weigh more; or a weight by finding's slug"
    )
    reader_weights: bool = Field(
        True, description="a finding that few of an image's readers marked weighs less"
    )
    prune: float = Field(
        0.0, ge=0, lt=1, description="share of inner channels to remove before the first epoch"
    )
    metric: Literal["map50", "map40"] = Field("map50", description="on the validation split")
    validate_every: int = Field(1, ge=1, description="epochs")
    patience: int | None = Field(
        None, ge=1, description="epochs without a better metric before the run stops; null: never"
    )
    augment: bool = True
    mosaic: float = Field(0.0, ge=0, le=1, description="share of inputs made of four images")
    vertical_flip: float = Field(0.0, ge=0, le=1, description="share of inputs upside down")
    seed: int = 11
    bfloat16: bool = Field(True, description="use BF16 where the hardware has it")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA if available")
    threads: int = Field(
        1, ge=1, description="of torch; on a shared machine two threads are slower than one"
    )
    loaders: int = Field(1, ge=1, description="threads that read and augment images")

    @field_validator("class_weights")
    @classmethod
    def _check_class_weights(cls, weights: str | dict[str, float]) -> str | dict[str, float]:
        if isinstance(weights, dict):
            for slug, weight in weights.items():
                if slug not in BY_SLUG:
                    near = get_close_matches(slug, BY_SLUG, n=1)
                    hint = f"; did you mean {near[0]}?" if near else ""
                    raise ValueError(f"{slug} is not a finding{hint}")
                if not weight > 0:
                    raise ValueError(f"{slug}: a weight must be above 0")
        return weights

    @model_validator(mode="after")
    def _check_combinations(self) -> TrainConfig:
        if (self.weights is None) != (self.weights_sha256 is None):
            raise ValueError("weights and weights_sha256 go together: a file and its digest")
        if self.prune and self.weights is None:
            raise ValueError("prune removes channels from trained weights: state weights")
        if (self.mosaic or self.vertical_flip) and not self.augment:
            raise ValueError("mosaic and vertical_flip need augment")
        return self

    def is_same_run(self, other: TrainConfig) -> bool:
        """Return whether a run may resume the other's checkpoint; the machine may differ."""
        ignored = {"device", "threads", "loaders", "weights"}
        return self.model_dump(exclude=ignored) == other.model_dump(exclude=ignored)

    def unlabelled_negative_weight_in(self, epoch: int) -> float:
        """Return the weight of a negative that no reader has confirmed, in an epoch.

        With 0 nothing limits the scores there, and the network marks findings on every real
        radiograph. With 1 it would learn that unlabelled disease is background.
        """
        if epoch < self.small_epochs:
            return self.unlabelled_negative_weight_small
        return self.unlabelled_negative_weight

    def input_size_in(self, epoch: int) -> int:
        """Return the input size in an epoch, in pixels."""
        return self.small_size if epoch < self.small_epochs else self.input_size


class TuneConfig(Section):
    """The search. Every trial is a run with the settings of `train` except those in `space`."""

    trials: int = Field(20, ge=1, description="finished trials, including those of earlier calls")
    storage: str = Field("sqlite:///runs/tune.db", pattern=r"^sqlite:///.+")
    study: str = Field("hilum", min_length=1)
    warm_trials: int = Field(4, ge=1, description="finished trials before any is pruned")
    warm_epochs: int = Field(2, ge=0, description="epochs before a trial may be pruned")
    space: dict[str, Range | SearchSpace] = Field(
        {
            "learning_rate": Range(low=5e-4, high=5e-3, log=True),
            "weight_decay": Range(low=5e-3, high=5e-2, log=True),
            "class_gain": Range(low=0.3, high=1.5),
        },
        min_length=1,
        description="settings of `train` by name",
    )

    @field_validator("space")
    @classmethod
    def _check_names(cls, space: dict[str, Range | SearchSpace]) -> dict[str, Range | SearchSpace]:
        for name in space:
            if name not in TrainConfig.model_fields:
                near = get_close_matches(name, TrainConfig.model_fields, n=1)
                raise ValueError(
                    f"train has no {name}" + (f"; did you mean {near[0]}?" if near else "")
                )
        return space


class EvaluateConfig(Section):
    """The evaluation of the trained model."""

    split: str = Field("test", min_length=1, description="split that the metrics are measured on")
    choose_on: str = Field(
        "valid", min_length=1, description="the split on which operating points are chosen"
    )
    false_positives: float | None = Field(
        0.05, ge=0, description="at most, per class and image, at the operating points"
    )
    sensitivity: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of each class's boxes to find",
    )
    floor: float = Field(0.1, gt=0, lt=1, description="lowest operating point")
    resamples: int = Field(1000, ge=10, description="bootstrap samples, for intervals")
    seed: int = Field(0, ge=0, description="of the bootstrap")
    rules: Path | None = Field(None, description="acceptance rules; null: none")
    baseline: Path | None = Field(
        None, description="a bundle to compare with, image by image; null: `bundle.replaces`"
    )

    @model_validator(mode="before")
    @classmethod
    def _replace_false_positives(cls, content: Any) -> Any:  # noqa: ANN401 - not yet checked
        """A sensitivity takes the place of the usual rate of false positives."""
        if not isinstance(content, Mapping) or content.get("sensitivity") is None:
            return content
        if content.get("false_positives") is not None:
            raise ValueError("state false_positives or sensitivity, not both")
        return {**content, "false_positives": None}

    @model_validator(mode="after")
    def _check_target(self) -> EvaluateConfig:
        if self.false_positives is None and self.sensitivity is None:
            raise ValueError("state one of false_positives and sensitivity")
        return self

    @model_serializer(mode="wrap")
    def _omit_later_settings(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit null settings that were added later, so that digests of earlier steps still hold."""
        plain: dict[str, Any] = serialize(self)
        later = {"sensitivity", "baseline"}
        return {name: it for name, it in plain.items() if name not in later or it is not None}


class ExportConfig(Section):
    """The exported graphs and their quantization."""

    calibrate_on: str = Field(
        "train", min_length=1, description="split whose images set the INT8 ranges"
    )
    calibration_images: int = Field(
        300, ge=0, description="real radiographs; 300 are a good number"
    )
    symmetric: bool = Field(False, description="quicker INT8 IR, with activations around zero")
    fast_bias_correction: bool | None = Field(
        None, description="null: try both ways and keep the one closer to the float graph"
    )
    max_drop: float | None = Field(
        None, gt=0, lt=1, description="accuracy control: largest drop of mAP50 on `control_on`"
    )
    control_on: str = Field("valid", min_length=1, description="accuracy control's split")
    float_ir: bool = Field(
        True, description="false: OpenVINO's float variants read the ONNX graph; a smaller bundle"
    )
    capabilities: tuple[str, ...] = Field(
        ("8.6", "8.9", "12.0"), description="compute capabilities that engines are compiled for"
    )


class ParityBounds(Section):
    """The largest drops of the exported graphs; declared before the run, not changed after it."""

    map50_drop: float = Field(0.01, ge=0, le=1)
    sensitivity_drop: float = Field(
        0.03, ge=0, le=1, description="of any class, at its operating point"
    )


class BundleConfig(Section):
    """The description of the bundle."""

    name: str = Field("hilum", pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    version: str = Field("0.1.0", pattern=r"^\d+\.\d+\.\d+$")
    intended_use: str = Field(
        "Research use only. Not a medical device, not for diagnosis.", min_length=1
    )
    data: str | None = Field(None, description="name of the data set; null: its folder's name")
    variants: tuple[str, ...] | None = Field(
        None, min_length=1, description="engine variants to ship; null: all that were measured"
    )
    content_check: Path | None = Field(
        None, description="a content check from `hilum-train content-check`, or a bundle with one"
    )
    replaces: Path | None = Field(None, description="the bundle that this one replaces")
    plan: str = Field("", description="name of the change control plan")
    modifications: str = Field("First version.", min_length=1, description="what changed, and why")
    impact: str = Field(
        "Scores and operating points are this bundle's own: thresholds of another do not hold.",
        min_length=1,
        description="what the change means for those who use it",
    )
    limits: tuple[str, ...] = Field((), description="known limits, one sentence each")
    command: str = Field(
        "hilum-train all --config c.yaml",
        min_length=1,
        description="command that creates it",
    )
    credits: Path | None = Field(
        None, description="Markdown at the end of the model card: origins of data and images"
    )


class TrackingConfig(Section):
    """The MLflow server that records runs, or a SQLite file without a server."""

    uri: str = "sqlite:///runs/mlflow.db"
    experiment: str = Field("hilum", min_length=1)
    model: str = Field("hilum", min_length=1, description="name of the registered model")

    @field_validator("uri")
    @classmethod
    def _refuse_password(cls, uri: str) -> str:
        if "@" in urlsplit(uri).netloc:
            raise ValueError("must hold no name or password: put them into ~/.mlflow/credentials")
        return uri


class Config(Section):
    """The configuration of a model, from the data to the published bundle."""

    out: Path = Field(Path("runs/hilum"), description="folder of the run")
    data: DataConfig
    train: TrainConfig = TrainConfig()
    tune: TuneConfig = TuneConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    export: ExportConfig = ExportConfig()
    parity: ParityBounds = ParityBounds()
    bundle: BundleConfig = BundleConfig()
    tracking: TrackingConfig = TrackingConfig()


def load_config(path: Path) -> Config:
    """Load and check a configuration.

    Raises:
        TrainingError: the file is absent or no YAML, or has an unknown key or an invalid value; the
            message names file and key.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainingError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise TrainingError(f"{path} has no settings; it should have sections such as `data:`")
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise TrainingError(f"{path}: {'; '.join(_describe_errors(error))}") from error


def _describe_errors(error: ValidationError) -> Iterator[str]:
    known = tuple(_list_keys(Config))
    for fault in error.errors(include_url=False):
        key = ".".join(map(str, fault["loc"])) or "configuration"
        if fault["type"] == "extra_forbidden":
            near = get_close_matches(key, known, n=1)
            yield f"unknown key {key}" + (f"; did you mean {near[0]}?" if near else "")
        else:
            yield f"{key}: {fault['msg'].removeprefix('Value error, ')}"


def _list_keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    fields: Mapping[str, Any] = section.model_fields
    for name, field in fields.items():
        yield prefix + name
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _list_keys(inner, f"{prefix}{name}.")
