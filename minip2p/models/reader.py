"""The reader: a small convolutional network that tells what a picture of the tiny world shows."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, silu

from ..config import ReaderConfig
from ..nn.blocks import Downsample, ResBlock
from ..nn.norms import NORMS, pick

EPS = 1e-5


@dataclass(frozen=True)
class Answers:
    """Logits of one answer each: setting (b, settings), time (b, times), medium (b, media); of each kind of thing what
    colour it has, things (b, kinds, 1 + colours), where the first answer is that there is none."""

    setting: Tensor
    time: Tensor
    medium: Tensor
    things: Tensor

    def best(self) -> Tensor:
        """The likeliest answers as indices (b, 3 + kinds)."""
        alone = torch.stack([logits.argmax(dim=-1) for logits in (self.setting, self.time, self.medium)], dim=1)
        return torch.cat([alone, self.things.argmax(dim=-1)], dim=1)


class Level(nn.Module):
    """Residual blocks of one size, then half the size (absent at the end)."""

    def __init__(self, c_in: int, c_out: int, blocks: int, last: bool, config: ReaderConfig):
        super().__init__()
        norm, groups = config.norm, config.norm_groups
        self.res = nn.ModuleList(
            ResBlock(c_in if i == 0 else c_out, c_out, norm=norm, groups=groups, eps=EPS) for i in range(blocks)
        )
        self.down = None if last else Downsample(c_out, symmetric=True)

    def forward(self, x: Tensor) -> Tensor:
        for res in self.res:
            x = res(x)
        return x if self.down is None else self.down(x)


class Reader(nn.Module):
    """Pictures (b, 3, y, x) in [0, 1] -> Answers. Every place of the last map votes.

    Setting, time and medium are of the whole picture: their votes are averaged. A thing is at one place: its votes are
    joined by log-mean-exp, so that one sure place is enough, and "none" is the fixed logit 0 that they must exceed.
    """

    def __init__(self, config: ReaderConfig):
        super().__init__()
        self.config = config
        widths, blocks = config.widths, config.blocks
        if len(widths) != len(blocks) or any(n < (i > 0) for i, n in enumerate(blocks)):
            raise ValueError(f"blocks = {blocks}: expected one number for each of {len(widths)} widths; 0 only first")
        self.stem = nn.Conv2d(3, widths[0], 4, stride=2, padding=1)
        self.levels = nn.ModuleList(
            Level(widths[max(i - 1, 0)], widths[i], blocks[i], i == len(widths) - 1, config) for i in range(len(widths))
        )
        self.norm = pick(NORMS, config.norm, "norm")(widths[-1], config.norm_groups, EPS)
        self.whole = [len(config.settings), len(config.times), len(config.media)]
        things = len(config.kinds) * len(config.colours)
        self.votes = nn.Conv2d(widths[-1], sum(self.whole) + things, 1)

    def forward(self, images: Tensor) -> Answers:
        h = self.stem(2 * self.fit(images) - 1)
        for level in self.levels:
            h = level(h)
        votes = self.votes(silu(self.norm(h))).flatten(2).float()
        whole, things = votes.split([sum(self.whole), votes.shape[1] - sum(self.whole)], dim=1)
        things = things.logsumexp(dim=-1) - torch.tensor(float(votes.shape[-1])).log()
        things = things.unflatten(1, (len(self.config.kinds), len(self.config.colours)))
        return Answers(*whole.mean(dim=-1).split(self.whole, dim=1), pad(things, (1, 0)))

    def fit(self, images: Tensor) -> Tensor:
        """Pictures of any size, stretched to the reader's without aliasing."""
        size = (self.config.size, self.config.size)
        if tuple(images.shape[2:]) == size:
            return images
        return interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
