"""What a training run is made of, stated in one frozen place."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class TrainConfig(BaseModel):
    """Settings of one run; stored in every checkpoint, so that a resumed run is the same run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str = Field("yolo11n", pattern=r"^yolo11[nslmx]$")
    input_size: int = Field(416, ge=64, le=1280, multiple_of=32)
    epochs: int = Field(8, ge=1)
    batch: int = Field(16, ge=1)
    learning_rate: float = Field(2e-3, gt=0)
    final_share: float = Field(0.02, gt=0, le=1, description="last learning rate over the first")
    weight_decay: float = Field(0.02, ge=0)
    warmup_steps: int = Field(150, ge=0)
    ema_decay: float = Field(0.998, gt=0, lt=1)
    box_gain: float = 7.5
    class_gain: float = 0.7
    dfl_gain: float = 1.5
    seed: int = 11
    threads: int = Field(2, ge=1)
    bfloat16: bool = True
    augment: bool = True
