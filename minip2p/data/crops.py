"""From a pair of pictures of any size to two squares: what training does to both alike (section 3.2 of the paper)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .images import LANCZOS, to_tensor


@dataclass(frozen=True, kw_only=True)
class Crop:
    """How a pair is brought to a square: the shorter side to `side`, the square's place, and whether it is mirrored."""

    side: int
    left: float
    """0 to 1, of what overhangs"""
    top: float
    flip: bool = False

    @classmethod
    def draw(cls, rng: np.random.Generator, resize: Sequence[int], flip: float) -> "Crop":
        left, top, mirrored = rng.random(3).tolist()
        return cls(side=int(rng.integers(resize[0], resize[1] + 1)), left=left, top=top, flip=mirrored < flip)

    def __call__(self, source: Image.Image, target: Image.Image, size: int) -> Tensor:
        """(2, 3, size, size) in [-1, 1]. A target of another shape than its source is first taken to that."""
        if target.size != source.size:
            target = target.resize(source.size, LANCZOS)
        w, h = source.size
        scale = self.side / min(w, h)
        w, h = max(self.side, round(w * scale)), max(self.side, round(h * scale))
        left, top = round(self.left * (w - size)), round(self.top * (h - size))
        both = []
        for picture in (source, target):
            x = to_tensor(picture.resize((w, h), LANCZOS).crop((left, top, left + size, top + size)))
            both.append(x.flip(-1) if self.flip else x)
        return 2 * torch.stack(both) - 1
