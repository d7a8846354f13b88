"""Arrays as pictures."""

import numpy as np
from PIL import Image

TOLERANCE = 0.5 / 255
"""how far values may lie outside of black ... white, as a fraction of it: they round to black and white"""


class ImageError(ValueError):
    """A picture that cannot be used, in one line that names it."""


def from_array(array: np.ndarray) -> Image.Image:
    """An array (y, x), (y, x, 1), (y, x, 3) or (y, x, 4) as a picture of mode L, RGB or RGBA."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in array.shape:
        raise ImageError(f"an array of shape {array.shape}; expected (y, x), (y, x, 1), (y, x, 3) or (y, x, 4)")
    return Image.fromarray(np.ascontiguousarray(eight_bits(array, "an array")))


def eight_bits(values: np.ndarray, name: str) -> np.ndarray:
    """Values as uint8, by their type: floats lie in 0 ... 1, uint16 in 0 ... 65535, other whole numbers in 0 ... 255.

    No range is guessed from the values. Raises ImageError for values outside of it, and for other types.
    """
    if values.dtype == np.uint8:
        return values
    whites = {"b": 1, "f": 1, "u": 65535 if values.dtype == np.uint16 else 255, "i": 255}
    if values.dtype.kind not in whites:
        raise ImageError(f"{name} holds {values.dtype}; expected numbers")
    return scaled(values, 0, whites[values.dtype.kind], name)


def scaled(values: np.ndarray, black: int, white: int, name: str) -> np.ndarray:
    """Values from black to white as uint8. Raises ImageError for values that lie outside by more than rounding."""
    levels = (values.astype(np.float64) - black) / (white - black)
    if not (-TOLERANCE <= levels.min() <= levels.max() <= 1 + TOLERANCE):  # nor NaN
        found, ends = f"values from {values.min():g} to {values.max():g}", sorted((black, white))
        raise ImageError(f"{name} holds {found}; expected {ends[0]} to {ends[1]} in {values.dtype}")
    return np.rint(255 * levels.clip(0, 1)).astype(np.uint8)
