"""Norms, time embedding, residual blocks and resampling: what the denoisers and the autoencoder are built of."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d, interpolate, pad, silu

from .channels_last import group_norm
from .variants import LayerNorm2d, RMSNorm2d, scale_and_shift, transposed_kernel


class GroupNorm(nn.GroupNorm):
    """Wu & He 2018: x (b, c, y, x) with the mean and variance of each group of channels over all pixels.

    In channels-last memory we have our own. There PyTorch on the CPU sums squares in one float32 and takes the squared
    mean off: at 512x512 that loses 3 digits. On CUDA it answers in contiguous memory, which convolutions change back.
    """

    def forward(self, x: Tensor) -> Tensor:
        last = x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        if not last or x.device.type not in ("cpu", "cuda") or torch.compiler.is_compiling():
            return super().forward(x)
        if x.device.type == "cpu" and x.numel() <= 1 << 17:  # where two copies take less time than our reduction
            return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)
        return group_norm(x, self.weight, self.bias, self.num_groups, self.eps)


def norm_silu(norm: nn.Module, x: Tensor) -> Tensor:
    """silu(norm(x)); where no gradient is taken, in the memory of norm(x)."""
    h = norm(x)
    return silu(h, inplace=h is not x and not torch.is_grad_enabled())


NORMS = {
    "group": lambda channels, groups, eps: GroupNorm(groups, channels, eps=eps),
    "layer": lambda channels, groups, eps: LayerNorm2d(channels, eps),
    "rms": lambda channels, groups, eps: RMSNorm2d(channels, eps),
}


def pick(options: dict, word: str, what: str):
    """`options[word]`, or a ValueError that lists the words. Used for every part that swaps by name."""
    if word not in options:
        raise ValueError(f"{what} = {word!r}: expected one of {', '.join(options)}")
    return options[word]


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


def add_time(h: Tensor, norm: nn.Module, e: Tensor) -> Tensor:
    """Ho et al. 2020: add, then normalise."""
    return norm(h + e)


TIME_INJECTION = {"add": (1, add_time), "scale_shift": (2, scale_and_shift)}
"""word -> (vectors of the block's width made from the time embedding, how they enter before the second convolution)"""


class ResBlock(nn.Module):
    """Two 3x3 convolutions with a skip; the noise level enters between them where `time_width` is given.

    x (b, c_in, y, x), time (b, time_width) -> (b, c_out, y, x).
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        norm: str,
        groups: int,
        eps: float,
        time_width: int | None = None,
        injection: str = "add",
    ):
        super().__init__()
        make_norm = pick(NORMS, norm, "norm")
        vectors, self.inject = pick(TIME_INJECTION, injection, "time_injection")
        self.norm_1 = make_norm(c_in, groups, eps)
        self.conv_1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time = None if time_width is None else nn.Linear(time_width, vectors * c_out)
        self.norm_2 = make_norm(c_out, groups, eps)
        self.conv_2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = None if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        h = self.conv_1(norm_silu(self.norm_1, x))
        if self.time is None or time is None:
            h = self.norm_2(h)
        else:
            h = self.inject(h, self.norm_2, self.time(silu(time))[:, :, None, None])
        h = self.conv_2(silu(h, inplace=not torch.is_grad_enabled()))
        return (x if self.skip is None else self.skip(x)) + h


class Downsample(nn.Module):
    """Halve y and x by a 3x3 convolution of stride 2, padded on all sides (UNet) or right and bottom only (VAE)."""

    def __init__(self, channels: int, *, symmetric: bool):
        super().__init__()
        self.symmetric = symmetric
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1 if symmetric else 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x if self.symmetric else pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest x2, then a 3x3 convolution; or, with `fuse`, the equal 4x4 transposed convolution of stride 2."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.register_buffer("fused", None, persistent=False)

    def fuse(self, on: bool = True) -> None:
        """Switch the fused form on or off. It holds a copy of the current weights: for inference only."""
        self.fused = transposed_kernel(self.conv.weight) if on else None

    def forward(self, x: Tensor) -> Tensor:
        if self.fused is None or self.training:
            return self.conv(interpolate(x, scale_factor=2.0, mode="nearest"))
        return conv_transpose2d(x, self.fused, self.conv.bias, stride=2, padding=1)
