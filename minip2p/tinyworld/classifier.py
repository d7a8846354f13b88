"""The attribute classifier: a small convolutional network that predicts what an image of the tiny world shows."""

from dataclasses import dataclass
from os import PathLike
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, silu

from .. import checkpoints
from ..config import Widths, check_levels
from ..loading import place, prepare, read, shipped
from ..nn.blocks import NORMS, Downsample, ResBlock, pick
from ..schema import Name, Pixels, Width, checked

EPS = 1e-5


@checked
class ClassifierConfig:
    """The attribute classifier, and the words of its answers."""

    size: Pixels = 64
    """side of its input images, in pixels"""
    widths: Widths = (32, 64, 96)
    """channels of each level; the first has half the image's side, and each next one half of the one before"""
    blocks: tuple[Annotated[int, Field(ge=0, le=1000)], ...] = (0, 1, 2)
    """residual blocks of each level; only the first level may have none"""
    norm: Name = "group"
    norm_groups: Width = 8
    settings: tuple[str, ...] = ()
    times: tuple[str, ...] = ()
    media: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    colours: tuple[str, ...] = ()

    def __post_init__(self):
        check_levels(self.widths, self.norm, self.norm_groups)
        if len(self.widths) != len(self.blocks) or any(n < (i > 0) for i, n in enumerate(self.blocks)):
            raise ValueError(
                f"blocks = {self.blocks}: expected a number for each of {len(self.widths)} widths; only the first may "
                "be 0"
            )


checkpoints.KINDS["classifier"] = ClassifierConfig  # so that files of ours can hold one


@dataclass(frozen=True)
class Logits:
    """setting (b, settings), time (b, times), medium (b, media), and the colour of each kind of thing, things
    (b, kinds, 1 + colours), where class 0 means that the thing is absent."""

    setting: Tensor
    time: Tensor
    medium: Tensor
    things: Tensor

    def argmax(self) -> Tensor:
        """The predicted classes (b, 3 + kinds)."""
        whole = torch.stack([logits.argmax(dim=-1) for logits in (self.setting, self.time, self.medium)], dim=1)
        return torch.cat([whole, self.things.argmax(dim=-1)], dim=1)


class Level(nn.Module):
    """Residual blocks at one resolution, then downsampling by 2 (except in the last level)."""

    def __init__(self, c_in: int, c_out: int, blocks: int, last: bool, config: ClassifierConfig):
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


class AttributeClassifier(nn.Module):
    """Images (b, 3, y, x) in [0, 1] -> Logits. Every position of the last feature map votes.

    Setting, time and medium belong to the whole image: their votes are averaged. A thing is at one place: its votes are
    pooled by log-mean-exp, so that one confident position is enough. The logit of "absent" is fixed at 0.
    """

    def __init__(self, config: ClassifierConfig):
        super().__init__()
        self.config = config
        widths, blocks = config.widths, config.blocks
        self.stem = nn.Conv2d(3, widths[0], 4, stride=2, padding=1)
        self.levels = nn.ModuleList(
            Level(widths[max(i - 1, 0)], widths[i], blocks[i], i == len(widths) - 1, config) for i in range(len(widths))
        )
        self.norm = pick(NORMS, config.norm, "norm")(widths[-1], config.norm_groups, EPS)
        self.whole = [len(config.settings), len(config.times), len(config.media)]
        things = len(config.kinds) * len(config.colours)
        self.votes = nn.Conv2d(widths[-1], sum(self.whole) + things, 1)

    def forward(self, images: Tensor) -> Logits:
        h = self.stem(2 * self.fit(images) - 1)
        for level in self.levels:
            h = level(h)
        votes = self.votes(silu(self.norm(h))).flatten(2).float()
        whole, things = votes.split([sum(self.whole), votes.shape[1] - sum(self.whole)], dim=1)
        things = things.logsumexp(dim=-1) - torch.tensor(float(votes.shape[-1])).log()
        things = things.unflatten(1, (len(self.config.kinds), len(self.config.colours)))
        return Logits(*whole.mean(dim=-1).split(self.whole, dim=1), pad(things, (1, 0)))

    def fit(self, images: Tensor) -> Tensor:
        """Images of any size, resized (antialiased) to the classifier's."""
        size = (self.config.size, self.config.size)
        if tuple(images.shape[2:]) == size:
            return images
        return interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)


def load_classifier(path: str | PathLike | None = None, *, device: str | torch.device = "cpu") -> AttributeClassifier:
    """The attribute classifier of a file; without a path, the shipped one."""
    device, dtype = place(device, torch.float32)
    loaded = read(shipped("classifier") if path is None else path, ClassifierConfig)
    with checkpoints.on_meta():
        whole = nn.ModuleDict({"classifier": AttributeClassifier(loaded.config)})
    checkpoints.assign(whole, loaded.joined(), device=device, dtype=dtype, source=loaded.path)
    return prepare(whole["classifier"])
