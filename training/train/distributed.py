"""The processes that train one network together: their exchange, and the check that they agree.

A single process is a group of one, so the loop has no second path. On CUDA, batch normalisation
takes its statistics over all processes (`SyncBatchNorm`). On a CPU, where torch cannot do that,
each process normalises by its own images, and running statistics are averaged after every step.
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

from edge_agent.engines.runtimes.openvino import has_native_bf16
from training.errors import TrainingError

Item = TypeVar("Item")

CPU: Final = torch.device("cpu")

_COLLECTIVE_TIMEOUT: Final = timedelta(minutes=30)
"""Long, because a process may read its images slowly; torchrun or Ray notice a dead one."""


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """This process's rank among those that train together, and its torch device."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = CPU

    @property
    def is_leader(self) -> bool:
        """Return whether this process writes files, logs and tracks."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model to call in training; its gradients are the mean over all processes."""
        if self.world_size == 1:
            return model
        if self.on_cuda:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        devices = [self.device.index] if self.on_cuda else None
        return DistributedDataParallel(
            model, device_ids=devices, forward_sync_buffers=False, gradient_as_bucket_view=True
        )

    @property
    def on_cuda(self) -> bool:
        """Return whether this process computes on a GPU."""
        return self.device.type == "cuda"

    def all_reduce_sum(self, value: torch.Tensor) -> torch.Tensor:
        """Replace the tensor's values by their sum over all processes, and return it."""
        if self.world_size > 1:
            dist.all_reduce(value)
        return value

    @torch.no_grad()
    def average_statistics(self, model: nn.Module) -> None:
        """Replace running statistics of batch normalisation by their mean over all processes."""
        if self.world_size == 1:
            return
        buffers = [b for b in model.buffers() if b.is_floating_point()]
        flat = torch.cat([b.flatten() for b in buffers])
        mean = self.all_reduce_sum(flat) / self.world_size
        start = 0
        for buffer in buffers:
            buffer.copy_(mean[start : start + buffer.numel()].view_as(buffer))
            start += buffer.numel()

    def gather(self, item: Item) -> list[Item]:
        """Return every process's item in order of rank on the leader; elsewhere an empty list."""
        if self.world_size == 1:
            return [item]
        items: list[Item | None] = [None] * self.world_size
        dist.gather_object(item, items if self.is_leader else None)
        return [i for i in items if i is not None] if self.is_leader else []

    def broadcast(self, item: Item) -> Item:
        """Return the leader's item, on every process."""
        if self.world_size == 1:
            return item
        items = [item]
        dist.broadcast_object_list(items)
        return items[0]

    def check_agreement(self, digest: str) -> None:
        """Check that all processes have the same weights.

        Raises:
            TrainingError: this process has other weights than the leader.
        """
        if self.broadcast(digest) != digest:
            raise TrainingError(
                f"process {self.rank} of {self.world_size} has other weights than the first: "
                "the processes do not train one network"
            )


SINGLE_PROCESS: Final = ProcessGroup()


@contextmanager
def join_process_group(
    requested: Literal["auto", "cpu", "cuda"] = "auto",
) -> Iterator[ProcessGroup]:
    """Join the group of `torchrun` or Ray; without either, yield a group of one.

    Raises:
        TrainingError: a CUDA device is configured and there is none.
    """
    device = choose_device(requested)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if dist.is_initialized():
        yield ProcessGroup(dist.get_rank(), dist.get_world_size(), device)
    elif world_size == 1:
        yield ProcessGroup(device=device)
    else:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=_COLLECTIVE_TIMEOUT)
        try:
            yield ProcessGroup(dist.get_rank(), world_size, device)
        finally:
            dist.destroy_process_group()


def choose_device(requested: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return this process's torch device; on a host with GPUs the one of its local rank.

    Raises:
        TrainingError: a CUDA device is configured and there is none.
    """
    if requested == "cpu" or (requested == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if local_rank >= torch.cuda.device_count():
        raise TrainingError(
            f"this process needs CUDA device {local_rank}, "
            f"this host has {torch.cuda.device_count()}",
            hint="Start fewer processes per host, or state `train: {device: cpu}`.",
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


@cache
def is_bf16_fast(device: torch.device) -> bool:
    """Return whether BF16 is quicker than FP32 on a device, not merely supported."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return has_native_bf16()


def digest_state(state: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of the names and values of a state_dict."""
    digest = hashlib.sha256()
    for name, value in state.items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
