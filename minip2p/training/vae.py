"""Training of the autoencoder."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..config import Config
from ..evaluation.metrics import psnr
from ..models.vae import AutoencoderKL
from .build import Files, build, load_weights
from .checkpoint_parts import write_parts
from .config import HELD_OUT, VAETraining

Images = Callable[[np.random.Generator, int], Tensor]
"""a data set of images: (generator, n) -> (n, 3, y, x) in [-1, 1]; it pickles"""


@dataclass(frozen=True)
class VAEData:
    """New images for each step."""

    images: Images
    batch_size: int
    seed: int

    def batch(self, step: int, rows: range | None = None) -> tuple[Tensor, int]:
        """Images, and a seed for the noise of their latents."""
        rng = np.random.default_rng([self.seed, step])
        return self.images(rng, self.batch_size), 2**32 * self.seed + step


class VAEStage:
    """loss = mean |d| + 4 mean d^2 + edge_weight * (mean |d_y| + mean |d_x|) + kl_weight * KL per pixel value, where d
    is the reconstruction's error, and d_y and d_x are its differences between neighbouring pixels.

    images: what it is trained on; whole: what it is evaluated on (None: the same). Sides are multiples of the factor.
    """

    def __init__(self, config: VAETraining, images: Images, init_from: Files = (), whole: Images | None = None):
        self.config, self.whole = config, whole or images
        self.marks: dict[str, str] = {}
        self.data = VAEData(images, config.train.batch_size, config.train.seed)
        self.module: AutoencoderKL = build({"vae": config.model}, config.train.seed)["vae"]
        load_weights({"vae": self.module}, init_from)

    def loss(self, module: nn.Module, batch: tuple[Tensor, int]) -> tuple[Tensor, dict[str, Tensor]]:
        x, seed = batch
        x = x.to(next(module.parameters()).device, memory_format=torch.channels_last)
        posterior = module.encode(x)
        z = posterior.sample(torch.Generator().manual_seed(seed))
        difference = module.decode(z).float() - x
        error = difference.abs().mean() + 4 * difference.square().mean()
        if self.config.edge_weight:
            edges = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
            error = error + self.config.edge_weight * edges
        kl = posterior.kl().float().mean() / x[0].numel()
        return error + self.config.kl_weight * kl, {"error": error.detach(), "kl": kl.detach()}

    @torch.no_grad()
    def held_out(self, module: nn.Module, n: int = 64) -> tuple[Tensor, Tensor, Tensor]:
        """Held-out images, the modes of their latents, and their reconstructions in [-1, 1]."""
        rng = np.random.default_rng([self.config.train.seed, HELD_OUT])
        x = self.whole(rng, n).to(next(module.parameters()).device)
        z = module.encode(x).mode()
        return x, z, module.decode(z).clamp(-1, 1)

    def export(self, module: nn.Module, path: Path, done: dict[str, int] | None = None) -> None:
        """The autoencoder, with the scaling factor that gives its latents unit variance."""
        _, z, _ = self.held_out(module)
        vae = replace(self.config.model, scaling_factor=round(1 / float(z.std()), 5))
        write_parts(path, Config(vae=vae), {"vae": module}, None, self.config, done)

    def preview(self, module: nn.Module, path: Path) -> dict[str, float]:
        """Draws images above their reconstructions; the median PSNR in dB."""
        from torchvision.utils import save_image  # here, since importing it takes 3 s

        x, _, y = self.held_out(module)
        save_image(torch.cat([x[:16], y[:16]]) / 2 + 0.5, path, nrow=16)
        return {"psnr": float(psnr(x / 2 + 0.5, y / 2 + 0.5).median())}
