"""Picture files, arrays and pictures of any mode and depth as 8-bit RGB."""

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


class ImageError(ValueError):
    """A picture that cannot be used, in one line that names it."""


def decode(file: Path | BinaryIO, name: str) -> Image.Image:
    """`images.open_image` for a file or for bytes (io.BytesIO); errors call it `name`."""
    if isinstance(file, Path) and file.is_dir():
        raise ImageError(f"{name} is a directory; expected a picture file")
    if isinstance(file, Path) and not file.exists():
        raise ImageError(f"{name}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the error, at twice as many, stays
            with Image.open(file) as image:
                image.load()
                return as_rgb(image, name)
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"{name} has more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller first") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not a picture that can be read; expected PNG, JPEG, WebP, TIFF, ...") from None
    except MemoryError:
        raise ImageError(f"{name} does not fit into memory") from None
    except Exception as error:  # decoders raise anything on damaged data: OSError, SyntaxError, struct.error, ...
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name} is damaged or cut short: {reason}") from None


def as_rgb(image: Image.Image, name: str) -> Image.Image:
    """Rotated as its EXIF says, transparency on white."""
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block says nothing about rotation
        pass
    if image.width == 0 or image.height == 0:
        raise ImageError(f"{name} has no pixels")
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(eight_bits(np.asarray(image), name, 65535 if ";16" in image.mode else None))
    try:
        if image.has_transparency_data:
            image = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        return image.convert("RGB")
    except ValueError:
        raise ImageError(f"{name}: colours of mode {image.mode} cannot be read; save it as RGB first") from None


def from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in array.shape:
        raise ImageError(f"an array of shape {array.shape}; expected (y, x), (y, x, 1), (y, x, 3) or (y, x, 4)")
    return as_rgb(Image.fromarray(np.ascontiguousarray(eight_bits(array, "an array"))), "an array")


def eight_bits(values: np.ndarray, name: str, top: int | None = None) -> np.ndarray:
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
