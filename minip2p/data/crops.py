"""From a pair of images of any size to two squares: both are resized, cropped and mirrored alike (section 3.2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .fits import LANCZOS


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A square of a pair: the shorter side is resized to `side`, then a square is cut out, and perhaps mirrored."""

    side: int
    left: float
    """place of the square, 0 to 1 of the pixels that are cut off"""
    top: float
    flip: bool = False

    @classmethod
    def draw(cls, rng: np.random.Generator, resize: Sequence[int], flip: float) -> "Crop":
        """A random crop; resize: limits of `side`, flip: probability of mirroring."""
        left, top, mirrored = rng.random(3).tolist()
        return cls(side=int(rng.integers(resize[0], resize[1] + 1)), left=left, top=top, flip=mirrored < flip)

    def __call__(self, source: Image.Image, target: Image.Image, size: int) -> Tensor:
        """(2, 3, size, size) in [-1, 1]. A target of another size is first resized to the source's."""
        if target.size != source.size:
            target = target.resize(source.size, LANCZOS)
        w, h = source.size
        scale = self.side / min(w, h)
        w, h = max(self.side, round(w * scale)), max(self.side, round(h * scale))
        left, top = round(self.left * (w - size)), round(self.top * (h - size))
        box = left, top, left + size, top + size
        both = np.stack([picture.resize((w, h), LANCZOS).crop(box) for picture in (source, target)])  # (2, y, x, 3)
        x = torch.from_numpy(both).movedim(-1, 1).float() / 255
        return 2 * (x.flip(-1) if self.flip else x).contiguous() - 1
