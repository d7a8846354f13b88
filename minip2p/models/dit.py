"""A diffusion transformer (Peebles & Xie 2023): patches of the latent as tokens, blocks with adaLN-zero, and
cross-attention to the text (as in PixArt-alpha, Chen et al. 2023)."""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import silu
from torch.utils.checkpoint import checkpoint

from ..config import DiTConfig
from ..nn.attention import FEED_FORWARD, Attention
from ..nn.blocks import TimeEmbedding, pick, sinusoids
from ..nn.site import Site


def positions(y: int, x: int, width: int, like: Tensor) -> Tensor:
    """(y x, width): for each patch, sinusoids of its row in the first half and of its column in the second."""
    rows, columns = (sinusoids(torch.arange(n, device=like.device), width // 2) for n in (y, x))
    grid = [rows[:, None].expand(y, x, -1), columns[None].expand(y, x, -1)]
    return rearrange(torch.cat(grid, dim=-1), "y x c -> (y x) c").to(like.dtype)


class Modulated(nn.Module):
    """adaLN: the layer norm of h (b, n, width), scaled and shifted by vectors of the time; at first the plain norm.

    With `gate` a third vector is returned, by which to scale what the next layer adds: at first 0 (adaLN-zero).
    """

    def __init__(self, width: int, gate: bool = True):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.vectors = nn.Linear(width, (3 if gate else 2) * width)
        for weight in self.vectors.parameters():
            nn.init.zeros_(weight)

    def forward(self, h: Tensor, time: Tensor) -> tuple[Tensor, ...]:
        shift, scale, *gate = rearrange(self.vectors(silu(time)), "b (k c) -> k b 1 c", c=h.shape[-1])
        return self.norm(h) * (1 + scale) + shift, *gate


class Block(nn.Module):
    """Self-attention, cross-attention on the text, feed-forward; each modulated and gated by the time, with a residual.

    h (b, n, width), time (b, width), text (b, m, text_width) -> (b, n, width). At first it changes nothing.
    """

    def __init__(self, config: DiTConfig, number: int):
        super().__init__()
        c = config
        self.adaln_1 = Modulated(c.width)
        self.attention_1 = Attention(c.width, c.heads, site=Site("mid", "self", 2 * number))
        self.adaln_2 = Modulated(c.width)
        self.attention_2 = Attention(c.width, c.heads, c.text_width, site=Site("mid", "cross", 2 * number + 1))
        self.adaln_3 = Modulated(c.width)
        self.ff = pick(FEED_FORWARD, c.feed_forward, "feed_forward")(c.width)

    def forward(self, h: Tensor, time: Tensor, text: Tensor, control: tuple) -> Tensor:
        x, gate = self.adaln_1(h, time)
        h = h + gate * self.attention_1(x, None, control)
        x, gate = self.adaln_2(h, time)
        h = h + gate * self.attention_2(x, text, control)
        x, gate = self.adaln_3(h, time)
        return h + gate * self.ff(x)


class DiT(nn.Module):
    """z (b, in_channels, y, x), t (b,) or a number, text (b, m, text_width) -> prediction (b, out_channels, y, x).

    y and x are divisible by `patch`. An editor's z is the noisy latent and the image latent, concatenated. With
    `checkpointing` the backward pass recomputes every block instead of storing activations.
    """

    checkpointing: bool = False

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.config = c = config
        self.conv_in = nn.Conv2d(c.in_channels, c.width, c.patch, stride=c.patch)
        self.time = TimeEmbedding(c.width // 4)
        self.blocks = nn.ModuleList(Block(c, number) for number in range(c.depth))
        self.adaln_out = Modulated(c.width, gate=False)
        self.linear_out = nn.Linear(c.width, c.patch**2 * c.out_channels)
        for weight in self.linear_out.parameters():
            nn.init.zeros_(weight)  # the initial prediction is zero

    def forward(self, z: Tensor, t: Tensor | float, text: Tensor, control: tuple = ()) -> Tensor:
        p = self.config.patch
        time = self.time(torch.as_tensor(t, device=z.device).expand(len(z)))  # (b, width)
        h = self.conv_in(z)  # (b, width, y / p, x / p)
        y, x = h.shape[2:]
        h = rearrange(h, "b c y x -> b (y x) c") + positions(y, x, self.config.width, h)
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                h = checkpoint(block, h, time, text, control, use_reentrant=False, preserve_rng_state=False)
            else:
                h = block(h, time, text, control)
        (h,) = self.adaln_out(h, time)
        return rearrange(self.linear_out(h), "b (y x) (c p q) -> b c (y p) (x q)", y=y, p=p, q=p)

    def map_sizes(self, size: Sequence[int]) -> list[tuple[int, int]]:
        """(y, x) of the attention maps for latents of `size` (y, x): one size, a pixel per patch."""
        (y, x), p = size, self.config.patch
        return [(y // p, x // p)]
