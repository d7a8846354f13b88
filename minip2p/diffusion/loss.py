"""What a denoiser is trained on."""

from typing import Any

from torch import Tensor

from .schedule import factor, levels


def loss(
    denoiser: Any, z0: Tensor, noise: Tensor, sigma: float | Tensor, cond: Any, weight: float | Tensor = 1.0
) -> Tensor:
    """The squared error of a `Denoiser`'s own prediction at z0 + sigma noise, averaged over c, y and x: (b,).

    For eps this is DDPM's simple loss (eq. 14), for flow conditional flow matching (Lipman et al. 2023, eq. 23). In
    terms of the denoised latent it is that error over c_out^2. `weight`, a number or anything that broadcasts to
    (b, c, y, x), weights some places more than others.
    """
    output = denoiser.output(noisy(z0, noise, sigma), sigma, cond)
    return squared_error(output, target(denoiser, z0, noise, sigma), weight)


def problem(
    denoiser: Any, z0: Tensor, noise: Tensor, sigma: float | Tensor, image: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """What the network reads beside the text, (b, c, y, x) and (b,), and what it should predict, (b, c, y, x).

    For who runs the network itself: `loss` is the `squared_error` of what it then predicts.
    """
    x, t = denoiser.inputs(noisy(z0, noise, sigma), sigma, image)
    return x, t, target(denoiser, z0, noise, sigma)


def target(denoiser: Any, z0: Tensor, noise: Tensor, sigma: float | Tensor) -> Tensor:
    """What the network should predict for z = z0 + sigma noise, (b, c, y, x): the noise, v, z0 or the velocity."""
    return denoiser.row.target(z0, noise, factor(levels(sigma, z0), z0))


def noisy(z0: Tensor, noise: Tensor, sigma: float | Tensor) -> Tensor:
    """The forward process: z0 + sigma noise."""
    return z0 + factor(levels(sigma, z0), z0) * noise


def squared_error(output: Tensor, target: Tensor, weight: float | Tensor = 1.0) -> Tensor:
    """Of each item, averaged over c, y and x: (b,)."""
    return (weight * (output - target).square()).mean(dim=(1, 2, 3))
