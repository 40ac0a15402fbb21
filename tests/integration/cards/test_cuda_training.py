"""Training on a real GPU; skipped, and so untested, where there is none.

.venv/bin/python -m pytest tests/integration/cards/test_cuda_training.py -rs
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytestmark = pytest.mark.training

torch = pytest.importorskip("torch")

if not torch.cuda.is_available():
    pytest.skip("no CUDA: training on a GPU is NOT tested here", allow_module_level=True)

import torch.distributed as dist  # noqa: E402  # torch may be absent

from edge_agent.core.findings import BOX_ROWS  # noqa: E402
from hilum.manifest import HeadSpec, InputSpec  # noqa: E402
from tests.support.training.models import blobs, random_detector  # noqa: E402
from tests.support.training.toy_sets import configured  # noqa: E402
from training.config import load_config  # noqa: E402
from training.evaluation.detectors import network_detector  # noqa: E402
from training.models.grey import to_grey  # noqa: E402
from training.models.network import load_model  # noqa: E402
from training.train.distributed import SINGLE_PROCESS, ProcessGroup, choose_device  # noqa: E402
from training.train.loop import EpochReport, Progress  # noqa: E402
from training.train.run import run  # noqa: E402

if TYPE_CHECKING:
    from torch import Tensor


def test_the_first_training_step_has_the_same_loss_as_on_the_processor(tmp_path: Path) -> None:
    """From the second step on, rounding differs. Weights can be loaded without a GPU."""
    first: dict[str, tuple[float, float, float]] = {}
    for device in ("cpu", "cuda"):
        group = ProcessGroup(device=choose_device(device))
        (tmp_path / device).mkdir()
        train_settings = {"epochs": 2, "device": device}
        config = load_config(configured(tmp_path / device, train=train_settings))
        steps: list[Progress] = []
        weights = run(config, group, track=False, on_step=steps.append)
        first[device] = steps[0].loss
        assert {it.device.type for it in load_model(weights).parameters()} == {"cpu"}
    assert first["cuda"] == pytest.approx(first["cpu"], rel=0.01)


def test_a_stopped_run_can_be_resumed_on_the_gpu_and_on_the_processor(tmp_path: Path) -> None:
    card = ProcessGroup(device=choose_device("cuda"))
    config = load_config(configured(tmp_path, train={"epochs": 4, "device": "cuda"}))
    reports: list[EpochReport] = []

    def stop(report: EpochReport) -> None:
        reports.append(report)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, card, track=False, on_epoch=stop)
    with pytest.raises(KeyboardInterrupt):
        run(config, card, track=False, resume=True, on_epoch=stop)
    train = config.train.model_copy(update={"device": "cpu"})
    moved = config.model_copy(update={"train": train})
    run(moved, SINGLE_PROCESS, track=False, resume=True, on_epoch=reports.append)
    assert [report.epoch for report in reports] == [0, 1, 2, 3]


def test_the_evaluation_computes_in_full_precision_on_the_gpu() -> None:
    """By default a GPU rounds to TF32, which changes this network's scores by up to 0.2."""
    network = random_detector()
    network_detector(network, InputSpec(height=256, width=256), HeadSpec(), "cuda")
    grey = to_grey(network).eval()
    picture = torch.from_numpy(blobs(0, 256, 256))[None, None].float() / 255
    with torch.inference_mode():
        on_processor, on_gpu = (grey.to(it)(picture.to(it))[0].cpu() for it in ("cpu", "cuda"))
    difference = (on_processor - on_gpu).abs()
    assert difference[:, BOX_ROWS:].max() < 1e-3
    assert difference[:, :BOX_ROWS].max() < 0.5  # pixels


def test_processes_exchange_gradients_and_values_over_nccl(tmp_path: Path) -> None:
    """The group has one process, so every call is made but none reaches another GPU."""
    device = choose_device("cuda")
    meet = f"file://{tmp_path / 'meet'}"
    dist.init_process_group("cpu:gloo,cuda:nccl", init_method=meet, rank=0, world_size=1)
    try:
        # As if there were a second process.
        group = ProcessGroup(rank=0, world_size=2, device=device)
        wrapped = group.wrap(random_detector().to(device)).train()
        assert any(isinstance(it, torch.nn.SyncBatchNorm) for it in wrapped.modules())
        outputs = tensors(wrapped(torch.rand(2, 1, 64, 64, device=device)))
        torch.stack([it.float().mean() for it in outputs]).sum().backward()
        assert any(it.grad is not None and it.grad.any() for it in wrapped.parameters())
        assert group.all_reduce_sum(torch.tensor([2.5], device=device)).tolist() == [2.5]
        assert group.broadcast({"any": "thing"}) == {"any": "thing"}
        group.check_agreement("digest")
    finally:
        dist.destroy_process_group()


def tensors(found: Any) -> list[Tensor]:
    """Return all tensors of a network's outputs, which may be nested."""
    if isinstance(found, torch.Tensor):
        return [found]
    parts = found.values() if isinstance(found, dict) else found
    return [it for part in parts for it in tensors(part)]
