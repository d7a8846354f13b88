"""Normalisations of feature maps, by name. Each is made as NORMS[word](channels, groups, eps)."""

import torch
from torch import Tensor, nn


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of each pixel of (b, c, y, x)."""

    def __init__(self, channels: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x.movedim(1, -1), x.shape[1:2], self.weight, self.bias, self.eps).movedim(-1, 1)


class RMSNorm2d(nn.Module):
    """Root-mean-square norm over the channels of each pixel of (b, c, y, x) (Zhang and Sennrich 2019)."""

    def __init__(self, channels: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x.movedim(1, -1), x.shape[1:2], self.weight, self.eps).movedim(-1, 1)


NORMS = {
    "group": lambda channels, groups, eps: nn.GroupNorm(groups, channels, eps=eps),
    "layer": lambda channels, groups, eps: LayerNorm2d(channels, eps),
    "rms": lambda channels, groups, eps: RMSNorm2d(channels, eps),
}


def pick(options: dict, word: str, what: str):
    """`options[word]`, or a ValueError that lists the words. Used for every part that swaps by name."""
    if word not in options:
        raise ValueError(f"{what} = {word!r}: expected one of {', '.join(options)}")
    return options[word]
