"""The autoencoder's training, on renderings of the tiny world."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.utils import save_image

from ..config import Config
from ..data.scenes import Scene, render, sample_edit
from ..models.vae import AutoencoderKL
from .config import HELD_OUT, VAETraining
from .parts import write_parts


def pixels(scenes: list[Scene], size: int) -> Tensor:
    """Renderings as (b, 3, size, size) in [-1, 1]."""
    pictures = np.stack([np.asarray(render(scene, size)) for scene in scenes])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


class VAEStage:
    """Batches of scenes never seen before; loss = mean |d| + 4 mean d^2 + kl_weight * KL per pixel value."""

    def __init__(self, config: VAETraining):
        torch.manual_seed(config.train.seed)
        self.config = config
        self.module = AutoencoderKL(config.model).to(memory_format=torch.channels_last)

    def batch(self, step: int, rows: range | None = None) -> tuple[Tensor, torch.Generator]:
        """Pictures, and the generator of the posterior's draws."""
        seed = self.config.train.seed
        rng = np.random.default_rng([seed, step])
        scenes = [sample_edit(rng).target for _ in range(self.config.train.batch_size)]
        return pixels(scenes, self.config.size), torch.Generator().manual_seed(2**32 * seed + step)

    def loss(self, module: nn.Module, batch: tuple[Tensor, torch.Generator]) -> tuple[Tensor, dict[str, Tensor]]:
        x, generator = batch
        x = x.to(next(module.parameters()).device, memory_format=torch.channels_last)
        posterior = module.encode(x)
        difference = module.decode(posterior.sample(generator)).float() - x
        error = difference.abs().mean() + 4 * difference.square().mean()
        kl = posterior.kl().float().mean() / x[0].numel()
        return error + self.config.kl_weight * kl, {"error": error.detach(), "kl": kl.detach()}

    @torch.no_grad()
    def held_out(self, module: nn.Module, n: int = 64) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures that no step has drawn, their latents' modes and their reconstructions in [-1, 1]."""
        rng = np.random.default_rng([self.config.train.seed, HELD_OUT])
        x = pixels([sample_edit(rng).target for _ in range(n)], self.config.size).to(next(module.parameters()).device)
        z = module.encode(x).mode()
        return x, z, module.decode(z).clamp(-1, 1)

    def export(self, module: nn.Module, path: Path, done: dict[str, int] | None = None) -> None:
        """The autoencoder, with the scaling factor that gives its latents unit variance."""
        _, z, _ = self.held_out(module)
        vae = replace(self.config.model, scaling_factor=round(1 / float(z.std()), 5))
        write_parts(path, Config(vae=vae), {"vae": module}, None, self.config, done)

    def preview(self, module: nn.Module, path: Path) -> dict[str, float]:
        """Pictures above their reconstructions; the median PSNR in dB."""
        x, _, y = self.held_out(module)
        save_image(torch.cat([x[:16], y[:16]]) / 2 + 0.5, path, nrow=16)
        return {"psnr": float((10 * torch.log10(4 / (x - y).square().mean(dim=(1, 2, 3)))).median())}
