"""What the encoder says of an image: a normal distribution of latents (Kingma & Welling 2014)."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DiagonalGaussian:
    """q(z | x): `mean` and `logvar` (b, c, y, x), latents in the autoencoder's own unit (not scaled)."""

    mean: Tensor
    logvar: Tensor

    def mode(self) -> Tensor:
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw, made on the CPU so that it does not depend on the device."""
        noise = torch.randn(self.mean.shape, generator=generator).to(self.mean)
        return self.mean + (0.5 * self.logvar).exp() * noise

    def kl(self) -> Tensor:
        """KL(q || N(0, 1)) of each item in nats (b,) (Kingma and Welling 2014, appendix B)."""
        return 0.5 * (self.mean**2 + self.logvar.exp() - 1 - self.logvar).sum(dim=(1, 2, 3))
