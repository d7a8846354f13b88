"""How noise levels become vectors."""

import math

import torch
from torch import Tensor, nn


def sinusoids(t: Tensor, width: int) -> Tensor:
    """[cos, sin] of t (b,), fractional or not, at width / 2 frequencies from 1 down to 1/10000 -> (b, width) float32.

    Vaswani et al. 2017, section 3.5, with cosines first as in DDPM's successors.
    """
    half = width // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    """t (b,) -> (b, 4 width): sinusoids and a small MLP."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width
        self.linear_1 = nn.Linear(width, 4 * width)
        self.linear_2 = nn.Linear(4 * width, 4 * width)

    def forward(self, t: Tensor) -> Tensor:
        x = sinusoids(t, self.width).to(self.linear_1.weight.dtype)
        return self.linear_2(nn.functional.silu(self.linear_1(x)))
