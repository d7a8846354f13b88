"""Pictures and masks that a browser sends: read within limits, under names of ours.

Every file is decoded by `data.picture_files`, which knows damaged ones; the limits here are lower, since anybody who
reaches the page may send one.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.picture_files import decode, open_picture
from ..data.pixels import ImageError

MOST_BYTES = 32 << 20
MOST_PIXELS = 1 << 25
"""34 megapixels"""
NAME = "the picture"
"""what errors call an upload, whose name anybody may have chosen"""


def read_upload(path: str | Path | None) -> Image.Image:
    """The upload as an RGB picture. Raises ImageError for none, and for one that is too large or cannot be read."""
    if path is None:
        raise ImageError("there is no picture; choose one first")
    path = Path(path)
    if path.is_file() and path.stat().st_size > MOST_BYTES:
        raise ImageError(f"{NAME} has {path.stat().st_size / 2**20:.0f} MiB; the limit is {MOST_BYTES >> 20} MiB")
    with open_picture(path, NAME) as header:
        _check_size(*header.size)
    return decode(path, NAME)


def ending(path: Path) -> str:
    """The usual ending of the format in a file, whatever its name, e.g. ".jpg"."""
    with open_picture(path, NAME) as image:
        return {"JPEG": ".jpg", "MPO": ".jpg"}.get(str(image.format), f".{str(image.format).lower()}")


def mask_of(layers: Sequence[bytes | Path], size: tuple[int, int]) -> Image.Image | None:
    """A mask (mode L, white where it was drawn) from the layers of a drawing; None if nothing was drawn.

    layers: files with transparency, of any size; the mask has the `size` (width, height) of the picture below.
    """
    mask = np.zeros(size[::-1], np.uint8)
    for layer in layers:
        with open_picture(io.BytesIO(layer) if isinstance(layer, bytes) else layer, "the mask") as image:
            _check_size(*image.size)
            drawn = image.convert("RGBA").getchannel("A").resize(size, Image.Resampling.BILINEAR)
        mask = np.maximum(mask, np.asarray(drawn))
    return Image.fromarray(mask) if mask.any() else None


def _check_size(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        most = f"{MOST_PIXELS / 1e6:.0f} megapixels"
        raise ImageError(f"{NAME} has {width:,} x {height:,} pixels; the limit is {most}; make it smaller first")
