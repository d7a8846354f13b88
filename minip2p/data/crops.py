"""From a pair of images of any size to one of a given size: both are resized, cropped, mirrored alike (section 3.2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .fits import LANCZOS


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A part of a pair: it is resized to cover an area of the part's shape, out of which the part is cut and perhaps
    mirrored."""

    side: int
    """the shorter side of that area"""
    left: float
    """place of the part, 0 to 1 of the pixels that are cut off"""
    top: float
    flip: bool = False

    @classmethod
    def draw(cls, rng: np.random.Generator, resize: Sequence[int], flip: float) -> "Crop":
        """A random crop; resize: limits of `side`, flip: probability of mirroring."""
        left, top, mirrored = rng.random(3).tolist()
        return cls(side=int(rng.integers(resize[0], resize[1] + 1)), left=left, top=top, flip=mirrored < flip)

    def __call__(self, source: Image.Image, target: Image.Image, size: tuple[int, int]) -> Tensor:
        """(2, 3, y, x) in [-1, 1] for a size (x, y). A target of another size is first resized to the source's."""
        if target.size != source.size:
            target = target.resize(source.size, LANCZOS)
        (w, h), (x, y) = source.size, size
        area = round(x * self.side / min(x, y)), round(y * self.side / min(x, y))
        scale = max(area[0] / w, area[1] / h)
        w, h = max(area[0], round(w * scale)), max(area[1], round(h * scale))
        left, top = round(self.left * (w - x)), round(self.top * (h - y))
        box = left, top, left + x, top + y
        both = np.stack([picture.resize((w, h), LANCZOS).crop(box) for picture in (source, target)])  # (2, y, x, 3)
        pixels = torch.from_numpy(both).movedim(-1, 1).float() / 255
        return 2 * (pixels.flip(-1) if self.flip else pixels).contiguous() - 1
