"""Time embedding, residual blocks, resampling and transformers: what the denoisers and the autoencoder are built of."""

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d, gelu, interpolate, pad, silu

from .attention import Attention, Site
from .norms import NORMS, pick
from .variants import GELU, SwiGLU, scale_and_shift, transposed_kernel


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
        h = self.conv_1(silu(self.norm_1(x)))
        if self.time is None or time is None:
            h = self.norm_2(h)
        else:
            h = self.inject(h, self.norm_2, self.time(silu(time))[:, :, None, None])
        return (x if self.skip is None else self.skip(x)) + self.conv_2(silu(h))


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


class GEGLU(nn.Module):
    """x * gelu(gate), both linear in the input (Shazeer 2020)."""

    def __init__(self, width: int):
        super().__init__()
        self.into = nn.Linear(width, 8 * width)
        self.out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.into(x).chunk(2, dim=-1)
        return self.out(x * gelu(gate))


FEED_FORWARD = {"geglu": GEGLU, "gelu": GELU, "swiglu": SwiGLU}

ATTENTION = {"full": ("self", "cross"), "cross": ("cross",), "self": ("self",), "none": ()}
"""word -> the attentions of each transformer block, in order; with none there is no transformer"""


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention on the text, feed-forward; each after a layer norm and with a residual."""

    def __init__(self, width: int, heads: int, text_width: int, sites: list[Site], feed_forward: str):
        super().__init__()
        self.kinds = [site.kind for site in sites]
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in sites)
        self.attentions = nn.ModuleList(
            Attention(width, heads, text_width if site.kind == "cross" else None, site=site) for site in sites
        )
        self.norm_ff = nn.LayerNorm(width)
        self.ff = pick(FEED_FORWARD, feed_forward, "feed_forward")(width)

    def forward(self, x: Tensor, text: Tensor, control: tuple = ()) -> Tensor:
        for kind, norm, attention in zip(self.kinds, self.norms, self.attentions, strict=True):
            x = x + attention(norm(x), text if kind == "cross" else None, control)
        return x + self.ff(self.norm_ff(x))


class Transformer(nn.Module):
    """Transformer blocks over the pixels of (b, c, y, x), as a residual."""

    def __init__(
        self,
        channels: int,
        heads: int,
        text_width: int,
        sites: list[list[Site]],
        *,
        norm: str,
        groups: int,
        feed_forward: str,
        linear: bool,
    ):
        super().__init__()
        self.linear = linear
        self.norm = pick(NORMS, norm, "norm")(channels, groups, 1e-6)
        self.into = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)
        self.blocks = nn.ModuleList(TransformerBlock(channels, heads, text_width, s, feed_forward) for s in sites)
        self.out = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, text: Tensor, control: tuple = ()) -> Tensor:
        h, y = self.norm(x), x.shape[2]
        if self.linear:
            h = self.into(rearrange(h, "b c y x -> b (y x) c"))
        else:
            h = rearrange(self.into(h), "b c y x -> b (y x) c")
        for block in self.blocks:
            h = block(h, text, control)
        if self.linear:
            return x + rearrange(self.out(h), "b (y x) c -> b c y x", y=y)
        return x + self.out(rearrange(h, "b (y x) c -> b c y x", y=y))
