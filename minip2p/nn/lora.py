"""LoRA (Hu et al. 2022): a trainable low-rank addition to linear layers, merged into them when saved."""

import math
from collections.abc import Collection

import torch
from torch import Tensor, nn


class LoRA(nn.Module):
    """`base`, frozen, plus (alpha / rank) up down x: their eq. 3. At first `up` is zero, so nothing changes."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float):
        super().__init__()
        self.base, self.scale = base, alpha / rank
        device, dtype = base.weight.device, base.weight.dtype
        self.down = nn.Parameter(torch.empty(rank, base.in_features, device=device, dtype=dtype))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank, device=device, dtype=dtype))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * (x @ self.down.T @ self.up.T)

    @property
    def weight(self) -> Tensor:
        """The merged matrix (out, in)."""
        return self.base.weight + self.scale * (self.up @ self.down)


def add_lora(network: nn.Module, rank: int, alpha: float, names: Collection[str]) -> list[str]:
    """Freeze `network` in place and add a LoRA to each linear layer whose own name is in `names`.

    Returns these layers' full names. ValueError for a rank below 1, or where no layer has such a name.
    """
    if rank < 1:
        raise ValueError(f"LoRA rank {rank}: expected at least 1")
    found = [
        name
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear) and name.rpartition(".")[2] in names
    ]
    if not found:
        raise ValueError(f"no linear layer is called {' or '.join(sorted(names))}")
    network.requires_grad_(False)
    for name in found:
        parent, _, own = name.rpartition(".")
        parent = network.get_submodule(parent)
        setattr(parent, own, LoRA(getattr(parent, own), rank, alpha))
    return found


@torch.no_grad()
def merged(network: nn.Module) -> dict[str, Tensor]:
    """The network's tensors with every LoRA merged, under the names that they have without LoRA."""
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, LoRA)}
    inner = tuple(f"{name}." for name in layers)
    tensors = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(inner)}
    for name, layer in layers.items():
        tensors[f"{name}.weight"] = layer.weight
        if layer.base.bias is not None:
            tensors[f"{name}.bias"] = layer.base.bias
    return tensors


@torch.no_grad()
def halves(network: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Name of a layer with LoRA -> its down (rank, in) and its up (out, rank), alpha / rank included in the latter."""
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, LoRA)}
    return {name: (layer.down.detach(), layer.scale * layer.up) for name, layer in layers.items()}
