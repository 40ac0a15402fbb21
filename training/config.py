"""What a training run is made of, stated in one frozen place."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class TrainConfig(BaseModel):
    """Settings of one run; stored in every checkpoint, so that a resumed run is the same run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str = Field("yolo11n", pattern=r"^yolo11[nslmx]$")
    input_size: int = Field(416, ge=64, le=1280, multiple_of=32)
    small_size: int = Field(256, ge=64, multiple_of=32, description="input of the first epochs")
    small_epochs: int = Field(
        4, ge=0, description="epochs at small_size; cheap, and they carry over"
    )
    epochs: int = Field(12, ge=1, description="all epochs, the small ones included")
    restart_epoch: int | None = Field(
        7, ge=1, description="where the learning rate rises once more; null: nowhere"
    )
    restart_share: float = Field(0.5, gt=0, le=1, description="how far it rises then")
    batch: int = Field(16, ge=1)
    learning_rate: float = Field(2e-3, gt=0)
    final_share: float = Field(0.02, gt=0, le=1, description="last learning rate over the first")
    weight_decay: float = Field(0.02, ge=0)
    warmup_steps: int = Field(120, ge=0)
    hidden_weight: float = Field(
        0.3, ge=0, le=1, description="what the absence of a class counts where it may be hidden"
    )
    hidden_weight_small: float = Field(0.0, ge=0, le=1, description="the same in the small epochs")
    ema_decay: float = Field(0.997, gt=0, lt=1)
    box_gain: float = 7.5
    class_gain: float = 0.7
    dfl_gain: float = 1.5
    seed: int = 11
    threads: int = Field(
        1, ge=1, description="two that wait for each other lose more where others run"
    )
    bfloat16: bool = True
    augment: bool = True

    def hidden_in(self, epoch: int) -> float:
        """Weight of an absence that nobody has confirmed, in an epoch.

        At 0 the network may say anything there, and ends up marking all real radiographs; at 1 it
        would learn that real disease is nothing.
        """
        return self.hidden_weight_small if epoch < self.small_epochs else self.hidden_weight

    def size_in(self, epoch: int) -> int:
        """Input size in an epoch, in pixels."""
        return self.small_size if epoch < self.small_epochs else self.input_size
