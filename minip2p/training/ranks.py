"""Several processes that train one model: who has which pictures, and what they add up.

Started by torchrun, whose environment tells each process its rank. Every process draws only its own part of a batch;
gradients are averaged, by DistributedDataParallel, or by fully sharded data parallelism (FSDP2), which also spreads
weights, averages and the optimiser's state. What is on disk is whole, so any number of processes can go on with it.
"""

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process' place among those that train together; alone unless said otherwise."""

    device: torch.device = torch.device("cpu")
    rank: int = 0
    world: int = 1
    shard: bool = False
    """spread weights over the processes, too"""
    slow: Any = None
    """the group that talks over the CPU, for what must not wait for the device"""

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def rows(self, batch_size: int, at_once: int | None) -> list[range]:
        """This process' pictures of a batch, in the parts in which they are computed. ValueError if they are no whole
        number for each process."""
        if batch_size % self.world:
            raise ValueError(f"train.batch_size = {batch_size}: no multiple of the {self.world} processes")
        mine = range(self.rank * batch_size // self.world, (self.rank + 1) * batch_size // self.world)
        step = at_once or len(mine)
        return [mine[i : i + step] for i in range(0, len(mine), step)]

    def any(self, flag: bool) -> bool:
        """Whether it is so for one of the processes."""
        if self.world == 1:
            return flag
        flags = torch.tensor([int(flag)])
        dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self.slow)
        return bool(flags.item())

    def sum(self, x: Tensor) -> Tensor:
        """Over the processes, on the CPU."""
        x = x.cpu()
        if self.world > 1:
            dist.all_reduce(x, group=self.slow)
        return x

    def wait(self) -> None:
        """Until all have come here."""
        if self.world > 1:
            dist.barrier(group=self.slow)

    def spread(self, module: nn.Module) -> None:
        """Where weights are to be sharded, do so in place, the larger blocks each on their own."""
        if not self.shard:
            return
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        module.to(memory_format=torch.contiguous_format)  # the only one that can be sharded
        mesh = init_device_mesh(self.device.type, (self.world,))
        for part in module.children():
            for block in _blocks(part):
                fully_shard(block, mesh=mesh)
            fully_shard(part, mesh=mesh)

    def together(self, module: nn.Module) -> nn.Module:
        """The module whose gradients are the processes' mean."""
        if self.world == 1 or self.shard:
            return module
        from torch.nn.parallel import DistributedDataParallel

        ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=ids, gradient_as_bucket_view=True)

    @contextmanager
    def adding(self, module: nn.Module, last: bool) -> Iterator[None]:
        """A part of a batch: gradients are exchanged only after the last one."""
        if self.shard:
            for each in module.modules():
                if hasattr(each, "set_requires_gradient_sync"):
                    each.set_requires_gradient_sync(last, recurse=False)
        with module.no_sync() if hasattr(module, "no_sync") and not last else nullcontext():
            yield


@contextmanager
def joined(device: torch.device, shard: bool = False) -> Iterator[Ranks]:
    """The processes that torchrun started, this one on `device`; without torchrun, this one alone."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1 and not shard:
        yield Ranks(device=device)
        return
    if shard and "RANK" not in os.environ:
        raise ValueError("--shard spreads a model over processes; start them: torchrun --nproc-per-node N train.py ...")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(minutes=30))
    try:
        slow = dist.new_group(backend="gloo") if device.type == "cuda" else dist.group.WORLD
        yield Ranks(device=device, rank=dist.get_rank(), world=world, shard=shard, slow=slow)
    finally:
        dist.destroy_process_group()


def _blocks(network: nn.Module) -> list[nn.Module]:
    """The network's blocks: members of its lists that are called, and are not within another such."""
    found: list[nn.Module] = []
    for parent in network.modules():
        if isinstance(parent, nn.ModuleList) and not any(parent is m for block in found for m in block.modules()):
            found += [block for block in parent if type(block).forward is not nn.Module.forward]
    return [block for block in found if not isinstance(block, nn.ModuleList)]


def twin_of(module: nn.Module) -> nn.Module:
    """A copy without memory, to be given weights."""
    weights = {id(w): nn.Parameter(w.detach().to("meta"), w.requires_grad) for w in module.parameters()}
    return copy.deepcopy(module, weights)


def whole(value: Any) -> Any:
    """The same in nested dicts and lists, each sharded tensor whole and on the CPU. All processes must ask together."""
    if isinstance(value, dict):
        return {key: whole(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(whole(each) for each in value)
    if hasattr(value, "full_tensor"):
        return value.full_tensor().cpu()
    return value


def spread_like(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor as `like` is: on its device, laid out as it is in memory, and sharded if it is."""
    if not hasattr(like, "device_mesh"):
        return torch.empty_like(like, dtype=value.dtype).copy_(value)  # the fused optimiser goes through memory in order
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device).contiguous(), like.device_mesh, like.placements)
