"""A picture at another size, how to undo that, and other ways to it than the authors' crop (`images.crop`)."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

LANCZOS = Image.Resampling.LANCZOS


@dataclass(frozen=True)
class Fitted:
    """`image`, in which the part `taken` of `original` lies at `placed`; boxes are (left, top, right, bottom)."""

    image: Image.Image
    original: Image.Image
    taken: tuple[float, float, float, float]
    placed: tuple[int, int, int, int]

    def restore(self, result: Image.Image) -> Image.Image:
        """`result`, of `image`'s size, at the original's size: no padding; outside of a crop the original remains."""
        left, top, right, bottom = map(round, self.taken)
        part = result.crop(self.placed).resize((max(right - left, 1), max(bottom - top, 1)), LANCZOS)
        back = self.original.copy()
        back.paste(part, (left, top))
        return back


def stretch(image: Image.Image, size: tuple[int, int]) -> Fitted:
    """The whole picture, each axis scaled on its own."""
    return Fitted(image.resize(size, LANCZOS), image, (0, 0, *image.size), (0, 0, *size))


def pad(image: Image.Image, size: tuple[int, int]) -> Fitted:
    """The whole picture in its shape, centred; its edge pixels are repeated to the border."""
    (w, h), (x, y) = image.size, size
    scale = min(x / w, y / h)
    inner = max(1, min(x, round(w * scale))), max(1, min(y, round(h * scale)))
    left, top = (x - inner[0]) // 2, (y - inner[1]) // 2
    right, bottom = left + inner[0], top + inner[1]
    pixels = np.asarray(image.resize(inner, LANCZOS))
    padded = np.pad(pixels, ((top, y - bottom), (left, x - right), (0, 0)), mode="edge")
    return Fitted(Image.fromarray(padded), image, (0, 0, w, h), (left, top, right, bottom))
