"""A mask for an edit: where it is black the picture stays, where it is white it is edited, grey mixes the two.

Latents. Where the mask is black, the latent is the picture's, noised to the level of each step: RePaint's eq. 8
(Lugmayr et al. 2022), algorithm 1 of Blended Latent Diffusion (Avrahami et al. 2023). They put z0 + sigma' noise in
place after a step. Here the run starts from z0 + sigma noise there and the denoised prediction is z0 there, so that the
step of any sampler, z' = D + sigma' / sigma (z - D), leaves z0 + sigma' noise there itself: with the sampler's own
noise, also inside of a step of second order.

Pixels. The decoder carries an edit some pixels over the edge, so the edited pixels are put over the picture's through
the mask. Only this mixes by grey: a latent is free if any of its pixels is not black, else kept.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from ..control import Control
from ..data.colour import as_rgb
from ..data.fits import Fitted
from ..data.images import Picture, open_image, to_tensor
from ..data.picture_files import open_picture
from ..data.pixels import ImageError, from_array
from ..diffusion import Field
from .batching import is_list

BILINEAR = Image.Resampling.BILINEAR
"""how masks are resized: LANCZOS, as for pictures, would leave traces of white beyond an edge"""

Mask = Picture | Tensor | None
"""of one picture, of any size: what `images.open_image` reads, or a tensor (y, x) or (c, y, x); None is white"""


def open_mask(mask: Mask | Sequence[Mask]) -> Any:
    """A mask as a picture of mode L, by its lightness; of a list a list.

    Values are read by their type: floats are 0 to 1, whole numbers 0 to 255. Raises ImageError for what is no picture,
    for transparency, and for whole numbers of which the largest is 1.
    """
    if is_list(mask):
        return [open_mask(each) for each in mask]
    if mask is None:
        return Image.new("L", (1, 1), 255)
    if isinstance(mask, Tensor):
        values = mask.detach().cpu()
        values = values.float() if values.is_floating_point() else values
        mask = (values.movedim(0, -1) if values.dim() == 3 else values).numpy()
    if isinstance(mask, (str, os.PathLike)):
        with open_picture(Path(mask), f"mask {mask}") as image:
            return _lightness(image, f"mask {mask}")
    drawn: Any = from_array(mask) if isinstance(mask, np.ndarray) else mask
    return _lightness(drawn if isinstance(drawn, Image.Image) else open_image(drawn), "the mask")


def _lightness(image: Image.Image, name: str) -> Image.Image:
    grey = as_rgb(image, name).convert("L")
    if image.has_transparency_data and min(image.convert("RGBA").getchannel("A").tobytes()) < 255:
        expected = "expected black, where the picture stays, to white, where it is edited"
        raise ImageError(f"{name} is transparent in places; {expected}: put it on black or white")
    if max(grey.tobytes()) == 1:
        raise ImageError(f"{name} is nearly black, of values 0 and 1 out of 255; expected 0 and 255, or booleans")
    return grey


def fit_mask(mask: Image.Image, picture: Fitted) -> Image.Image:
    """The mask at the size of `picture.image`: stretched over the original, then resized, cropped and padded alike."""
    left, top, right, bottom = picture.placed
    width, height = picture.image.size
    part = _over(picture.original, mask).resize((right - left, bottom - top), BILINEAR, box=picture.taken)
    return Image.fromarray(np.pad(np.asarray(part), ((top, height - bottom), (left, width - right)), mode="edge"))


def _over(picture: Image.Image, mask: Image.Image) -> Image.Image:
    return mask if mask.size == picture.size else mask.resize(picture.size, BILINEAR)


@dataclass(frozen=True, eq=False)
class KeepOutside(Control):
    """The denoised prediction is z0 (b, c, y, x) where `free` (b, 1, y, x) is False."""

    free: Tensor
    z0: Tensor

    def wrap(self, field: Field) -> Field:
        def kept(z: Tensor, sigma: float) -> Tensor:
            return torch.where(self.free, field(z, sigma), self.z0)

        return kept


def keep_outside(batch: Sequence[Any], z0: Tensor, control: Sequence[Control]) -> dict[str, Any]:
    """Options of `LatentDiffusion.sample` that keep the latents z0 (b, c, y, x) outside of the masks: those to which
    the initial noise is added, and the run's control with one more. batch: items with a `picture` and a `mask`."""
    masks = torch.stack([_values(fit_mask(item.mask, item.picture)) for item in batch])
    free = adaptive_max_pool2d(masks[:, None], z0.shape[2:]).to(z0.device) > 0
    return {"z0": torch.where(free, torch.zeros_like(z0), z0), "control": [*control, KeepOutside(free, z0)]}


def blend_pixels(result: Any, picture: Fitted, mask: Image.Image, keep_size: bool) -> Any:
    """A finished result over its picture: equal to the picture where the mask is black, to the result where white."""
    source, mask = (
        (picture.original, _over(picture.original, mask)) if keep_size else (picture.image, fit_mask(mask, picture))
    )
    if isinstance(result, Image.Image):
        return Image.composite(result, source, mask)
    return torch.lerp(to_tensor(source).to(result), result, _values(mask).to(result))


def _values(mask: Image.Image) -> Tensor:
    """(y, x) from 0 to 1."""
    return torch.from_numpy(np.array(mask)).float() / 255
