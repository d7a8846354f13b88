"""What a denoiser is trained on."""

from typing import Any

from torch import Tensor

from .schedule import levels


def loss(
    denoiser: Any, z0: Tensor, noise: Tensor, sigma: float | Tensor, cond: Any, weight: float | Tensor = 1.0
) -> Tensor:
    """The squared error of a `Denoiser`'s own prediction at z0 + sigma noise, averaged over c, y and x: (b,).

    For eps this is DDPM's simple loss (eq. 14), for flow conditional flow matching (Lipman et al. 2023, eq. 23). In
    terms of the denoised latent it is that error over c_out^2. `weight`, a number or anything that broadcasts to
    (b, c, y, x), weights some places more than others.
    """
    z = z0 + levels(sigma, z0).to(z0) * noise
    error = denoiser.output(z, sigma, cond) - denoiser.target(z0, noise, sigma)
    return (weight * error.square()).mean(dim=(1, 2, 3))
