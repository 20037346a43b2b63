"""The processes that share a training run: one alone, or those that `torchrun` started.

`torchrun --nproc-per-node 4 -m training.train CONFIG` trains on four GPUs of a machine; with
`--nnodes` on several machines, which must see the same folders. The batch of the configuration is
the whole one: each process takes its share of it, and the loss is normalised over all of it, so
the number of processes changes neither the patches nor, but for rounding, the gradients.
"""

import os
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.segmenter import NoSuchDevice
from model.unet import UNet

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """Which of the processes this one is."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def share(self, items: range) -> range:
        """This process's part of a batch.

        Raises:
            ValueError: if it cannot be dealt out evenly.
        """
        if len(items) % self.count:
            raise ValueError(f"a batch of {len(items)} cannot be shared by {self.count} processes")
        each = len(items) // self.count
        return items[self.rank * each : (self.rank + 1) * each]

    def mean(self, value: Tensor) -> Tensor:
        """A number of each process, averaged over them; no gradient flows through it."""
        if self.count == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.count

    def gather(self, value: T) -> list[T]:
        """What every process has, in their order."""
        if self.count == 1:
            return [value]
        everyone: list[T | None] = [None] * self.count
        dist.all_gather_object(everyone, value)
        return cast(list[T], everyone)


class Deep(nn.Module):
    """A network whose `forward` is `forward_deep`, as the wrapping for several processes needs."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.network.forward_deep(x)


def join(device: str) -> tuple[Ranks, str]:
    """Meet the other processes, if `torchrun` started some; this one's rank and device.

    Raises:
        NoSuchDevice: PyTorch does not see it.
    """
    _check_device(device)
    if not dist.is_torchelastic_launched():
        return Ranks(), device
    if torch.device(device).type == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        _check_device(device)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return Ranks(dist.get_rank(), dist.get_world_size()), device


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise NoSuchDevice(f"{name} is no device: say cpu, cuda or cuda:0") from error
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= here:
        raise NoSuchDevice(f"the device is {name}, but PyTorch sees {here} GPUs")


def leave() -> None:
    """Part from the other processes, if there were some."""
    if dist.is_initialized():
        dist.destroy_process_group()


def for_all(network: UNet, ranks: Ranks, device: str) -> nn.Module:
    """The network as all processes train it: gradients are averaged, `forward` gives every level.

    Batch normalisation is over the whole batch on GPUs. On CPUs, for which torch has none such,
    each process normalises by its own patches, and the averages that are saved are the first's;
    instance normalisation does not depend on the number of processes.
    """
    if ranks.count == 1:
        return Deep(network)
    if torch.device(device).type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return nn.parallel.DistributedDataParallel(Deep(network))
