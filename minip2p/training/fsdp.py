"""Fully sharded data parallelism (FSDP2): shard a model over the ranks, and gather it again.

What is on disk is whole, so any number of ranks can resume a run.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def apply_fsdp(module: nn.Module, device: torch.device, world: int) -> Callable[[Any], Any]:
    """Shard the module's weights in place, each block by itself; a function that gathers the module or a tensor.

    All ranks must call that function together.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    whole = meta_copy(module)
    module.to(memory_format=torch.contiguous_format)  # channels-last weights cannot be sharded
    mesh = init_device_mesh(device.type, (world,))
    for part in module.children():
        for block in blocks(part):
            fully_shard(block, mesh=mesh)
        fully_shard(part, mesh=mesh)

    def gather(value: nn.Module | Tensor) -> nn.Module | Tensor:
        if isinstance(value, Tensor):
            return gather_tensors(value)
        whole.load_state_dict(gather_tensors(value.state_dict()), assign=True)
        return whole.to(device)

    return gather


def sync_gradients(module: nn.Module, on: bool) -> None:
    """Whether the sharded parts exchange gradients in the next backward pass."""
    for each in module.modules():
        if hasattr(each, "set_requires_gradient_sync"):
            each.set_requires_gradient_sync(on, recurse=False)


def blocks(network: nn.Module) -> list[nn.Module]:
    """The network's outermost blocks: members of its module lists that have a forward pass."""
    found: list[nn.Module] = []
    for parent in network.modules():
        if isinstance(parent, nn.ModuleList) and not any(parent is m for block in found for m in block.modules()):
            found += [block for block in parent if type(block).forward is not nn.Module.forward]
    return [block for block in found if not isinstance(block, nn.ModuleList)]


def meta_copy(module: nn.Module) -> nn.Module:
    """A copy whose weights take no memory until they are loaded."""
    weights = {id(w): nn.Parameter(w.detach().to("meta"), w.requires_grad) for w in module.parameters()}
    return copy.deepcopy(module, weights)


def gather_tensors(value: Any) -> Any:
    """Nested dicts and lists with every sharded tensor gathered on the CPU. All ranks must call it together."""
    if isinstance(value, dict):
        return {key: gather_tensors(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(gather_tensors(each) for each in value)
    return value.full_tensor().cpu() if hasattr(value, "full_tensor") else value


def shard_like(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor on the device of `like`, sharded as it is."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device).contiguous(), like.device_mesh, like.placements)
