"""From a network's prediction to a denoised latent, with EDM's preconditioning (Karras et al. 2022, eq. 7)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .schedule import Schedule


@dataclass(frozen=True)
class Cond:
    """What one guidance branch is conditioned on.

    text (b, m, d): the text encoder's output. image (b, c, y, x) or None: the latent of the picture to edit (posterior
    mode, not multiplied by the scaling factor); the network sees it after the noisy latent, the same at every noise
    level. A single row stands for all items of the batch.
    """

    text: Tensor
    image: Tensor | None = None

    def expand(self, b: int) -> "Cond":
        """The same for b items, a single row repeated. Raises ValueError where there are other than 1 or b rows."""

        def rows(x: Tensor, name: str) -> Tensor:
            if x.shape[0] not in (1, b):
                raise ValueError(f"{name} condition of {x.shape[0]} rows for {b} latents; expected {b} or 1")
            return x.expand(b, *x.shape[1:])

        return Cond(rows(self.text, "text"), None if self.image is None else rows(self.image, "image"))


class Prediction(NamedTuple):
    """What a network F says of z = z0 + sigma noise: z0 is taken to be c_skip z + c_out F(c_in z)."""

    c_skip: Callable[[Tensor], Tensor]
    c_out: Callable[[Tensor], Tensor]
    target: Callable[[Tensor, Tensor, Tensor], Tensor]
    """(z0, noise, sigma) -> what F should have said"""


PREDICTIONS: dict[str, Prediction] = {
    "eps": Prediction(  # Ho et al. 2020: the noise itself
        c_skip=lambda sigma: torch.ones_like(sigma),
        c_out=lambda sigma: -sigma,
        target=lambda z0, noise, sigma: noise,
    ),
    "v": Prediction(  # Salimans & Ho 2022, appendix D: v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) z0
        c_skip=lambda sigma: 1 / (sigma**2 + 1),
        c_out=lambda sigma: -sigma / (sigma**2 + 1) ** 0.5,
        target=lambda z0, noise, sigma: (noise - sigma * z0) / (sigma**2 + 1) ** 0.5,
    ),
    "x0": Prediction(
        c_skip=lambda sigma: torch.zeros_like(sigma),
        c_out=lambda sigma: torch.ones_like(sigma),
        target=lambda z0, noise, sigma: z0,
    ),
}


class Denoiser:
    """D(z, sigma): the expected clean latent of z = z0 + sigma noise, by a network trained on `schedule`.

    `unet(z, t, text, control=...)` is any callable: z (b, c, y, x) of unit variance (with an image condition, its
    channels after these), t (b,) fractional training times, text (b, m, d) -> (b, c, y, x). `predict` says what it
    predicts, a word of `PREDICTIONS`. The network runs in the dtype of the text condition, all else in that of z.
    """

    def __init__(self, unet: Callable[..., Tensor], schedule: Schedule, predict: str = "eps"):
        if predict not in PREDICTIONS:
            raise ValueError(f"unknown prediction {predict!r}; there are {', '.join(PREDICTIONS)}")
        self.unet, self.schedule, self.predict = unet, schedule, predict

    def __call__(self, z: Tensor, sigma: float | Tensor, cond: Cond, control: Sequence[Any] = ()) -> Tensor:
        """The denoised latent (b, c, y, x) of z (b, c, y, x) at noise level `sigma`: one for all, or one an item (b,).

        `control`: what reaches into the network's attention in this call.
        """
        prediction, s = PREDICTIONS[self.predict], levels(sigma, z)
        c_skip = prediction.c_skip(s).to(z)
        c_out = prediction.c_out(s).to(z)
        return c_skip * z + c_out * self.network(z, sigma, cond, control)

    def network(self, z: Tensor, sigma: float | Tensor, cond: Cond, control: Sequence[Any] = ()) -> Tensor:
        """F(c_in z; c_noise): what the network itself predicts, (b, c, y, x) in z's dtype."""
        s, cond = levels(sigma, z), cond.expand(len(z))
        c_in = (1 / (s**2 + 1) ** 0.5).to(z)
        c_noise = self.schedule.t(s.flatten()).to(z.device, torch.promote_types(z.dtype, torch.float32))
        x = c_in * z if cond.image is None else torch.cat([c_in * z, cond.image.to(z)], dim=1)
        return self.unet(x.to(cond.text.dtype), c_noise, cond.text, control=tuple(control)).to(z.dtype)

    def target(self, z0: Tensor, noise: Tensor, sigma: float | Tensor) -> Tensor:
        """What the network should predict for z = z0 + sigma noise, (b, c, y, x): the noise, v or z0."""
        return PREDICTIONS[self.predict].target(z0, noise, levels(sigma, z0).to(z0))

    def loss(
        self, z0: Tensor, noise: Tensor, sigma: float | Tensor, cond: Cond, weight: float | Tensor = 1.0
    ) -> Tensor:
        """The squared error of the network's own prediction, averaged over c, y and x: (b,).

        For eps this is DDPM's simple loss (eq. 14). In terms of the denoised latent it is that error over c_out^2.
        `weight`, a number or anything that broadcasts to (b, c, y, x), counts some places more than others.
        """
        z = z0 + levels(sigma, z0).to(z0) * noise
        error = self.network(z, sigma, cond) - self.target(z0, noise, sigma)
        return (weight * error.square()).mean(dim=(1, 2, 3))


def levels(sigma: float | Tensor, z: Tensor) -> Tensor:
    """`sigma` for each item of z, (b, 1, 1, 1) float64 on the CPU, so that coefficients are exact for any dtype of z.

    Raises ValueError unless it is one finite number >= 0, or b of them.
    """
    s = torch.as_tensor(sigma, dtype=torch.float64, device="cpu")
    if s.numel() not in (1, len(z)) or s.dim() > 1:
        raise ValueError(f"noise levels of shape {tuple(s.shape)} for {len(z)} latents; expected one, or one an item")
    if not ((s >= 0) & s.isfinite()).all():
        raise ValueError(f"noise level {sigma}: expected a finite number >= 0")
    return s.expand(len(z)).reshape(-1, 1, 1, 1)
