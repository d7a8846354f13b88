"""The denoising UNet of Stable Diffusion (Rombach et al. 2022): residual blocks, and transformers that read text."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import UNetConfig
from ..nn.attention import Transformer
from ..nn.blocks import NORMS, Downsample, ResBlock, TimeEmbedding, Upsample, norm_silu, pick
from .unet_parts import EPS, UNetParts, attention_sizes


class Level(nn.Module):
    """Residual blocks of one size, each followed by its transformer where the level has them, then a change of size."""

    def __init__(self, res: list[ResBlock], attention: list[Transformer], resample: nn.Module | None):
        super().__init__()
        self.res = nn.ModuleList(res)
        self.attention = nn.ModuleList(attention)
        self.resample = resample

    def block(self, i: int, h: Tensor, time: Tensor, text: Tensor, control: tuple) -> Tensor:
        h = self.res[i](h, time)
        return self.attention[i](h, text, control) if self.attention else h


class Middle(nn.Module):
    """Residual block, transformer, residual block at the smallest size."""

    def __init__(self, res_1: ResBlock, attention: Transformer | None, res_2: ResBlock):
        super().__init__()
        self.res_1, self.attention, self.res_2 = res_1, attention, res_2

    def forward(self, h: Tensor, time: Tensor, text: Tensor, control: tuple) -> Tensor:
        h = self.res_1(h, time)
        h = h if self.attention is None else self.attention(h, text, control)
        return self.res_2(h, time)


class UNet(nn.Module):
    """z (b, in_channels, y, x), t (b,) or a number, text (b, m, text_width) -> prediction (b, out_channels, y, x).

    y and x are divisible by 2^(levels - 1). An editor's z is the noisy latent and the image latent, concatenated.
    With `checkpointing` the backward pass recomputes every residual block and its transformer instead of storing
    activations: same gradients, much less memory, one more forward pass.
    """

    checkpointing: bool = False

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        widths, last = config.widths, len(config.widths) - 1
        make = UNetParts(config)

        self.time = TimeEmbedding(widths[0])
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)

        skips, c = [widths[0]], widths[0]
        self.down: Any = nn.ModuleList()  # of Level
        for i, w in enumerate(widths):
            res = [make.res(c if j == 0 else w, w) for j in range(config.blocks)]
            attention = make.attention(config.attention[i], w, "down", config.blocks)
            self.down.append(Level(res, attention, Downsample(w, symmetric=True) if i < last else None))
            skips += [w] * (config.blocks + (i < last))
            c = w

        self.mid = Middle(
            make.res(c, c), next(iter(make.attention(config.mid_attention, c, "mid", 1)), None), make.res(c, c)
        )

        self.up: Any = nn.ModuleList()  # of Level
        for i, w in reversed(list(enumerate(widths))):
            res = [make.res((c if j == 0 else w) + skips.pop(), w) for j in range(config.blocks + 1)]
            attention = make.attention(config.attention[i], w, "up", config.blocks + 1)
            self.up.append(Level(res, attention, Upsample(w) if i > 0 else None))
            c = w

        self.norm_out = pick(NORMS, config.norm, "norm")(c, config.norm_groups, EPS)
        self.conv_out = nn.Conv2d(c, config.out_channels, 3, padding=1)
        for weight in self.conv_out.parameters():
            nn.init.zeros_(weight)  # the initial prediction is zero

    def forward(self, z: Tensor, t: Tensor | float, text: Tensor, control: tuple = ()) -> Tensor:
        time = self.time(torch.as_tensor(t, device=z.device).expand(len(z)))
        h = self.conv_in(z)
        skips = [h]
        for level in self.down:
            for i in range(len(level.res)):
                h = self._run(level.block, i, h, time, text, control)
                skips.append(h)
            if level.resample is not None:
                h = level.resample(h)
                skips.append(h)

        h = self._run(self.mid, h, time, text, control)

        for level in self.up:
            for i in range(len(level.res)):
                h = self._run(level.block, i, torch.cat([h, skips.pop()], dim=1), time, text, control)
            if level.resample is not None:
                h = level.resample(h)
        return self.conv_out(norm_silu(self.norm_out, h))

    def map_sizes(self, size: Sequence[int]) -> list[tuple[int, int]]:
        """(y, x) of the attention maps for latents of `size` (y, x), the largest first."""
        return attention_sizes(self.config, size)

    def _run(self, block: Callable[..., Tensor], *inputs) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)  # no block draws numbers
        return block(*inputs)
