"""Several processes that train one network: what they exchange, and the proof that they agree.

A process alone is a group of one, so the loop does not know the difference. Batch normalisation
takes its statistics over all processes on CUDA (`SyncBatchNorm`); on a CPU, where torch cannot,
each normalises by its own images and the running statistics are averaged after every step.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Final, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from edge_agent.engines.runtimes.openvino import has_native_bf16 as cpu_computes_bf16
from training.errors import TrainingError

Item = TypeVar("Item")

CPU: Final = torch.device("cpu")

_PATIENCE: Final = timedelta(minutes=30)
"""A process may read its pictures slowly; one that is dead is noticed by who started it."""


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """This process's place among those that train together, and where it computes."""

    rank: int = 0
    world: int = 1
    device: torch.device = CPU

    @property
    def leads(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model to call in training: gradients become the mean over all processes."""
        if self.world == 1:
            return model
        if self.on_cuda:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        devices = [self.device.index] if self.on_cuda else None
        return DistributedDataParallel(
            model, device_ids=devices, forward_sync_buffers=False, gradient_as_bucket_view=True
        )

    @property
    def on_cuda(self) -> bool:
        """Whether this process computes on a GPU."""
        return self.device.type == "cuda"

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(value)
        return value

    @torch.no_grad()
    def average_statistics(self, model: nn.Module) -> None:
        """Make the running statistics of batch normalisation the mean over all processes."""
        if self.world == 1:
            return
        buffers = [b for b in model.buffers() if b.is_floating_point()]
        flat = torch.cat([b.flatten() for b in buffers])
        mean = self.total(flat) / self.world
        start = 0
        for buffer in buffers:
            buffer.copy_(mean[start : start + buffer.numel()].view_as(buffer))
            start += buffer.numel()

    def gather(self, item: Item) -> list[Item]:
        """What every process has, in order of rank; on the leader only, else empty."""
        if self.world == 1:
            return [item]
        items: list[Item | None] = [None] * self.world
        dist.gather_object(item, items if self.leads else None)
        return [i for i in items if i is not None] if self.leads else []

    def told(self, item: Item) -> Item:
        """What the leader has."""
        if self.world == 1:
            return item
        items = [item]
        dist.broadcast_object_list(items)
        return items[0]

    def check_agreement(self, digest: str) -> None:
        """Refuse to go on with weights that are not the same everywhere.

        Raises:
            TrainingError: a process has other weights than the leader.
        """
        told = self.told(digest)
        if told != digest:
            raise TrainingError(
                f"process {self.rank} of {self.world} has other weights than the first: "
                "the processes do not train one network"
            )


ALONE: Final = ProcessGroup()


@contextmanager
def joined(wanted: Literal["auto", "cpu", "cuda"] = "auto") -> Iterator[ProcessGroup]:
    """The group that `torchrun` or Ray has put this process into; alone where nobody has.

    Raises:
        TrainingError: a CUDA device is asked for and there is none.
    """
    device = choose_device(wanted)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if dist.is_initialized():
        yield ProcessGroup(dist.get_rank(), dist.get_world_size(), device)
    elif world == 1:
        yield ProcessGroup(device=device)
    else:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=_PATIENCE)
        try:
            yield ProcessGroup(dist.get_rank(), world, device)
        finally:
            dist.destroy_process_group()


def choose_device(wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """This process's device; the GPU of its number on this host, where there are GPUs.

    Raises:
        TrainingError: a CUDA device is asked for and there is none.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    here = int(os.environ.get("LOCAL_RANK", "0"))
    if here >= torch.cuda.device_count():
        raise TrainingError(
            f"this process needs CUDA device {here}, this host has {torch.cuda.device_count()}",
            hint="Start fewer processes per host, or state `train: {device: cpu}`.",
        )
    torch.cuda.set_device(here)
    return torch.device("cuda", here)


@cache
def computes_bf16(device: torch.device) -> bool:
    """Whether BF16 is quicker than FP32 there, not merely possible."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return cpu_computes_bf16()


def digest_of(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names and values of a state_dict."""
    digest = hashlib.sha256()
    for name, value in state.items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
