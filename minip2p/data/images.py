"""Pictures in and out: any picture file as RGB, the size rule, fitting and its undoing, tensors.

    picture = open_image("photo.jpg")
    fitted = fit(picture, fit_size(*picture.size, resolution=512, multiple=64))
    x = to_tensor(fitted.image)                 # (3, y, x) in [0, 1]
    back = fitted.restore(from_tensor(x))       # of the size of `picture`
"""

import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

Picture = str | os.PathLike | Image.Image | np.ndarray
LANCZOS = Image.Resampling.LANCZOS


class ImageError(ValueError):
    """A picture that cannot be used, in one line that names it."""


def open_image(picture: Picture) -> Image.Image:
    """Any picture as 8-bit RGB: a path, a PIL image, or an array (y, x), (y, x, 1), (y, x, 3) or (y, x, 4).

    Rotated as its EXIF says; what is transparent lies over white; of an animation, the first frame. More than 8 bits
    are scaled down, not cut (`_eight_bits`). Raises ImageError for a file that is missing, a directory, damaged or no
    picture, or has over 179 million pixels (Pillow's guard against decompression bombs).
    """
    if isinstance(picture, Image.Image):
        return _rgb(picture, f"a picture of mode {picture.mode}")
    if isinstance(picture, np.ndarray):
        return _rgb(_from_array(picture), "an array")
    if not isinstance(picture, (str, os.PathLike)):
        raise ImageError(f"a {type(picture).__name__} is no picture; expected a path, a PIL image or a numpy array")
    path = Path(picture)
    if path.is_dir():
        raise ImageError(f"{path} is a directory; expected a picture file")
    if not path.exists():
        raise ImageError(f"{path}: no such file")
    return decode(path, str(path))


def decode(file: Path | BinaryIO, name: str) -> Image.Image:
    """`open_image` of a file that is there, or of bytes (io.BytesIO); `name` is what its errors call it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the error, at twice as many, stays
            with Image.open(file) as image:
                image.load()
                return _rgb(image, name)
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"{name} has more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller first") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not a picture that can be read; expected PNG, JPEG, WebP, TIFF, ...") from None
    except MemoryError:
        raise ImageError(f"{name} does not fit into memory") from None
    except Exception as error:  # decoders raise anything on damaged data: OSError, SyntaxError, struct.error, ...
        raise ImageError(f"{name} is damaged or cut short: {_one_line(error)}") from None


def _rgb(image: Image.Image, name: str) -> Image.Image:
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block says nothing about rotation
        pass
    if image.width == 0 or image.height == 0:
        raise ImageError(f"{name} has no pixels")
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(_eight_bits(np.asarray(image), name, 65535 if ";16" in image.mode else None))
    try:
        if image.has_transparency_data:
            image = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        return image.convert("RGB")
    except ValueError:
        raise ImageError(f"{name}: colours of mode {image.mode} cannot be read; save it as RGB first") from None


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in array.shape:
        raise ImageError(f"an array of shape {array.shape}; expected (y, x), (y, x, 1), (y, x, 3) or (y, x, 4)")
    return Image.fromarray(np.ascontiguousarray(_eight_bits(array, "an array")))


def _eight_bits(values: np.ndarray, name: str, top: int | None = None) -> np.ndarray:
    """Values 0 ... `top` as uint8. Where the type does not say what white is, it is the least of 1 (if fractional),
    255, 65535 and 2^32 - 1 that is not below any value."""
    if values.dtype == bool:
        return values * np.uint8(255)
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind not in "uif" or not np.isfinite(values).all():
        raise ImageError(f"{name} holds values that are not finite numbers")
    low, high = values.min(), values.max()
    if values.dtype == np.uint16:
        top = 65535
    tops = [1] * (values.dtype.kind == "f") + [255, 65535, 2**32 - 1]
    top = top or next((t for t in tops if high <= t), None)
    if low < 0 or top is None:
        raise ImageError(f"{name} holds values from {low:g} to {high:g}; expected 0 to 1, 255 or 65535")
    return np.rint(values.astype(np.float64 if top > 65535 else np.float32) * (255 / top)).astype(np.uint8)


def fit_size(width: int, height: int, resolution: int, multiple: int = 64) -> tuple[int, int]:
    """The authors' size for an edit of a (width, height) picture: both sides multiples of `multiple`, about its shape.

    The longer side comes near `resolution` and the shorter is rounded up. Written in their order of operations, so that
    rounding agrees too. Beyond theirs: no side is below one multiple, and of slivers (over 16 : 1 at 512) none is above
    2 * resolution, where theirs grows without bound. Raises ValueError unless all are whole numbers above 0.
    """
    for name, n in {"width": width, "height": height, "resolution": resolution, "multiple": multiple}.items():
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ValueError(f"{name} {n!r}: expected a whole number of pixels, at least 1")
    factor = resolution / max(width, height)
    factor = math.ceil(min(width, height) * factor / multiple) * multiple / min(width, height)
    most = max(1, 2 * resolution // multiple)
    width, height = (min(max(1, int(side * factor // multiple)), most) * multiple for side in (width, height))
    return width, height


@dataclass(frozen=True)
class Fitted:
    """`image`, in which the part `taken` of `original` lies at `placed`; boxes are (left, top, right, bottom)."""

    image: Image.Image
    original: Image.Image
    taken: tuple[float, float, float, float]
    placed: tuple[int, int, int, int]

    def restore(self, result: Image.Image) -> Image.Image:
        """`result`, of `image`'s size, at the original's: without padding, and around what was cropped out the original
        as it was."""
        left, top, right, bottom = map(round, self.taken)
        part = result.crop(self.placed).resize((max(right - left, 1), max(bottom - top, 1)), LANCZOS)
        back = self.original.copy()
        back.paste(part, (left, top))
        return back


def crop(image: Image.Image, size: tuple[int, int]) -> Fitted:
    """Scaled to cover `size`, what overhangs cut off evenly: ImageOps.fit with LANCZOS, the authors' way."""
    (w, h), ratio = image.size, size[0] / size[1]
    part = min(w, h * ratio), min(h, w / ratio)
    left, top = (w - part[0]) / 2, (h - part[1]) / 2
    box = (left, top, left + part[0], top + part[1])
    return Fitted(ImageOps.fit(image, size, LANCZOS), image, box, (0, 0, *size))


def stretch(image: Image.Image, size: tuple[int, int]) -> Fitted:
    """All of the picture, each axis scaled on its own."""
    return Fitted(image.resize(size, LANCZOS), image, (0, 0, *image.size), (0, 0, *size))


def pad(image: Image.Image, size: tuple[int, int]) -> Fitted:
    """All of the picture in its shape, in the middle; its outermost pixels are continued to the border."""
    (w, h), (x, y) = image.size, size
    scale = min(x / w, y / h)
    inner = max(1, min(x, round(w * scale))), max(1, min(y, round(h * scale)))
    left, top = (x - inner[0]) // 2, (y - inner[1]) // 2
    right, bottom = left + inner[0], top + inner[1]
    pixels = np.asarray(image.resize(inner, LANCZOS))
    padded = np.pad(pixels, ((top, y - bottom), (left, x - right), (0, 0)), mode="edge")
    return Fitted(Image.fromarray(padded), image, (0, 0, w, h), (left, top, right, bottom))


FITS = {"crop": crop, "pad": pad, "stretch": stretch}


def fit(image: Image.Image, size: tuple[int, int], how: str = "crop") -> Fitted:
    """An RGB picture brought to `size` (width, height), and what is needed to undo it. `how` is a word of `FITS`."""
    if how not in FITS:
        raise ValueError(f"unknown fit {how!r}; there are {', '.join(FITS)}")
    return FITS[how](image, size)


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB picture as (3, y, x) float32 in [0, 1]; the networks read 2 x - 1."""
    return torch.from_numpy(np.array(image.convert("RGB"))).movedim(-1, 0).contiguous().float() / 255


def from_tensor(x: Tensor, *, truncate: bool = False) -> Image.Image:
    """(3, y, x), cut to [0, 1], as a picture; the nearest of 256 levels, or with `truncate` the next one down.

    Raises ValueError for another shape or values that are not numbers.
    """
    if x.dim() != 3 or x.shape[0] != 3:
        raise ValueError(f"a picture of shape {tuple(x.shape)}; expected (3, y, x)")
    x = x.detach().float().cpu()
    if x.isnan().any():
        raise ValueError("a picture holds values that are not numbers (NaN)")
    levels = 255 * x.clamp(0, 1)
    return Image.fromarray((levels if truncate else levels.round()).byte().movedim(0, -1).contiguous().numpy())


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
