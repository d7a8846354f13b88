"""Pictures in and out: any picture file as RGB, the size rule, fitting and its undoing, tensors.

picture = open_image("photo.jpg")
fitted = fit(picture, fit_size(*picture.size, resolution=512, multiple=64))
x = to_tensor(fitted.image)                 # (3, y, x) in [0, 1]
back = fitted.restore(from_tensor(x))       # of the size of `picture`
"""

import math
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .colour import as_rgb
from .fits import LANCZOS, Fitted, pad, stretch
from .picture_files import decode
from .pixels import ImageError, from_array

Picture = str | os.PathLike | Image.Image | np.ndarray


def open_image(picture: Picture) -> Image.Image:
    """Any picture as 8-bit RGB: a path, a PIL image, or an array (y, x), (y, x, 1), (y, x, 3) or (y, x, 4).

    Rotated as its EXIF says, in sRGB by its ICC profile; transparency is put on white; of an animation, the first
    frame. More than 8 bits are scaled down, not cut (`colour.as_rgb`). Raises ImageError for a file that cannot be read
    as a picture or is too large (`picture_files.open_picture`).
    """
    if isinstance(picture, np.ndarray):
        return as_rgb(from_array(picture), "an array")
    if isinstance(picture, (str, os.PathLike)):
        return decode(Path(picture), str(picture))
    if not isinstance(picture, Image.Image):
        raise ImageError(f"a {type(picture).__name__} is no picture; expected a path, a PIL image or a numpy array")
    plain = type(picture) is Image.Image and picture.mode == "RGB" and not picture.info and not picture.getexif()
    return picture.copy() if plain and all(picture.size) else as_rgb(picture, f"a picture of mode {picture.mode}")


def fit_size(width: int, height: int, resolution: int, multiple: int = 64) -> tuple[int, int]:
    """The authors' size for editing a (width, height) picture: both sides multiples of `multiple`, of about its shape.

    The longer side comes near `resolution`, the shorter is rounded up. The order of operations is theirs, so rounding
    agrees too. Unlike theirs, a side has at least one multiple, and that of a sliver (over 16 : 1 at 512) at most
    2 * resolution, where theirs is unbounded. Raises ValueError unless all are whole numbers above 0.
    """
    for name, n in {"width": width, "height": height, "resolution": resolution, "multiple": multiple}.items():
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ValueError(f"{name} {n!r}: expected a whole number of pixels, at least 1")
    factor = resolution / max(width, height)
    factor = math.ceil(min(width, height) * factor / multiple) * multiple / min(width, height)
    most = max(1, 2 * resolution // multiple)
    width, height = (min(max(1, int(side * factor // multiple)), most) * multiple for side in (width, height))
    return width, height


def crop(image: Image.Image, size: tuple[int, int]) -> Fitted:
    """Scaled to cover `size`, then cropped in the centre: ImageOps.fit with LANCZOS, as the authors do."""
    (w, h), ratio = image.size, size[0] / size[1]
    part = min(w, h * ratio), min(h, w / ratio)
    left, top = (w - part[0]) / 2, (h - part[1]) / 2
    box = (left, top, left + part[0], top + part[1])
    return Fitted(ImageOps.fit(image, size, LANCZOS), image, box, (0, 0, *size))


FITS = {"crop": crop, "pad": pad, "stretch": stretch}


def fit(image: Image.Image, size: tuple[int, int], how: str = "crop") -> Fitted:
    """An RGB picture at `size` (width, height), with what undoes it. `how` is a word of `FITS`."""
    if how not in FITS:
        raise ValueError(f"unknown fit {how!r}; there are {', '.join(FITS)}")
    return FITS[how](image, size)


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB picture as (3, y, x) float32 in [0, 1]; the networks read 2 x - 1."""
    return torch.from_numpy(np.array(image.convert("RGB"))).movedim(-1, 0).contiguous().float() / 255


def from_tensor(x: Tensor, *, truncate: bool = False) -> Image.Image:
    """(3, y, x), clipped to [0, 1], as an 8-bit picture: rounded, or truncated as the authors do.

    Raises ValueError for another shape, and for values that are not finite.
    """
    if x.dim() != 3 or x.shape[0] != 3:
        raise ValueError(f"a picture of shape {tuple(x.shape)}; expected (3, y, x)")
    x = x.detach().float().cpu()
    if not x.isfinite().all():
        raise ValueError("a picture holds values that are not finite (NaN or infinity)")
    levels = 255 * x.clamp(0, 1)
    return Image.fromarray((levels if truncate else levels.round()).byte().movedim(0, -1).contiguous().numpy())
