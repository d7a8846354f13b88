"""Several processes (ranks) that train one model together, as torchrun starts them.

Each rank draws only its own part of a batch. Gradients are averaged by DistributedDataParallel, or by fully sharded
data parallelism (FSDP2), which also shards weights, averages and the optimiser's state.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process' place among those that train together; by default it is alone."""

    device: torch.device = torch.device("cpu")
    rank: int = 0
    world: int = 1
    """number of ranks"""
    shard: bool = False
    """shard the weights over the ranks, too (FSDP2)"""
    cpu_group: Any = None
    """the process group that communicates over the CPU"""

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files."""
        return self.rank == 0

    def rows(self, batch_size: int, micro_batch: int | None) -> list[range]:
        """This rank's rows of a batch, a range for each micro-batch. ValueError where the ranks do not divide it."""
        if batch_size % self.world:
            raise ValueError(f"train.batch_size = {batch_size}: expected a multiple of the {self.world} processes")
        mine = range(self.rank * batch_size // self.world, (self.rank + 1) * batch_size // self.world)
        step = micro_batch or len(mine)
        return [mine[i : i + step] for i in range(0, len(mine), step)]

    def any(self, *flags: bool) -> list[bool]:
        """Of each flag, whether it is set on any rank."""
        return self.sum(torch.tensor(flags, dtype=torch.int)).bool().tolist()

    def least(self, n: int) -> int:
        """The smallest of the ranks' numbers."""
        x = torch.tensor(n)
        if self.world > 1:
            dist.all_reduce(x, op=dist.ReduceOp.MIN, group=self.cpu_group)
        return int(x)

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all ranks, on the CPU."""
        x = x.cpu()
        if self.world > 1:
            dist.all_reduce(x, group=self.cpu_group)
        return x

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier(group=self.cpu_group)

    def wrap_ddp(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over the ranks; as it is for one rank, or where FSDP does that."""
        if self.world == 1 or self.shard:
            return module
        from torch.nn.parallel import DistributedDataParallel

        ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=ids, gradient_as_bucket_view=True)

    def apply_fsdp(self, module: nn.Module) -> Callable[[Any], Any]:
        """Shard the module's weights, if `shard`; a function that gathers the whole module or tensor again."""
        if not self.shard:
            return gathered
        from .fsdp import apply_fsdp

        return apply_fsdp(module, self.device, self.world)

    def accumulate(self, module: nn.Module, last: bool) -> contextlib.AbstractContextManager:
        """For the backward pass of a micro-batch: ranks exchange gradients after the last one only."""
        if self.shard:
            from .fsdp import sync_gradients

            sync_gradients(module, last)
        return module.no_sync() if hasattr(module, "no_sync") and not last else contextlib.nullcontext()


def gathered(value: Any) -> Any:
    """What is whole on every rank already."""
    return value


@contextlib.contextmanager
def join_ranks(device: torch.device, shard: bool = False) -> Iterator[Ranks]:
    """Join the processes that torchrun started, this one on `device`; without torchrun, this process is alone."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1 and not shard:
        yield Ranks(device=device)
        return
    if shard and "RANK" not in os.environ:
        raise ValueError("--shard needs several processes: torchrun --nproc-per-node N train.py ... --shard")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(minutes=30))
    try:
        group = dist.new_group(backend="gloo") if device.type == "cuda" else dist.group.WORLD
        yield Ranks(device=device, rank=dist.get_rank(), world=world, shard=shard, cpu_group=group)
    finally:
        dist.destroy_process_group()
