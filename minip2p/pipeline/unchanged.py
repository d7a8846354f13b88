"""The result of an edit that changes nothing: an empty instruction, or no step of SDEdit."""

from typing import Any

from ..data.fits import Fitted
from ..data.images import to_tensor
from .core import LatentDiffusion


def unchanged(pipe: LatentDiffusion, picture: Fitted, output: str, keep_size: bool) -> Any:
    """The fitted picture itself as the output asked for."""
    if output == "latent":
        return pipe.config.vae.scaling_factor * pipe.encode_image(to_tensor(picture.image)[None])[0].clone()
    image = picture.restore(picture.image) if keep_size else picture.image
    return to_tensor(image).to(pipe.device) if output == "tensor" else image
