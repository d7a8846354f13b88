"""The editor's training: the paper's objective (eq. 2) on latents of edits of the tiny world."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.utils import save_image

from ..config import Config
from ..data.scenes import judge, reword, sample_edit
from ..diffusion import Cond, Denoiser, Schedule, three_way
from ..models.clip import TextEncoder
from ..models.unet import UNet
from ..models.vae import AutoencoderKL
from ..pipeline import Pipeline
from ..text.bpe import BPE
from .config import HELD_OUT, EditorTraining
from .latents import LatentEdits, encode_edits
from .parts import write_parts
from .vae import pixels


class Batch(dict):
    """instructions (b) str; image, z0 (b, c, y, x): the source's latent and the target's, scaled; noise; sigma (b,)."""


class EditorStage:
    """eps, v or x0 prediction of the target's latent, given the source's latent and the instruction.

    Departures from the paper, each a config word: times may lean to high noise, the loss may weigh what changes more,
    and the text encoder may be trained too, since the tiny CLIP has read captions and no instructions.
    """

    def __init__(
        self, config: EditorTraining, vae: AutoencoderKL, unet: UNet, text: TextEncoder, tokenizer: BPE, cache: Path
    ):
        self.config, self.vae, self.tokenizer = config, vae.eval().requires_grad_(False), tokenizer
        self.model = replace(config.model, vae=vae.config, text=text.config)
        s = config.model.schedule
        self.schedule = Schedule(s.kind, s.start, s.end, s.steps)
        self.frozen_text = None if config.train_text else text.eval().requires_grad_(False)
        self.module = nn.ModuleDict({"unet": unet} | ({"text": text} if config.train_text else {}))
        self.data: LatentEdits = encode_edits(
            vae, cache, sources=config.sources, per_source=config.edits, size=config.size, seed=config.train.seed
        )

    def batch(self, step: int) -> Batch:
        c = self.config
        rng = np.random.default_rng([c.train.seed, step])
        generator = torch.Generator().manual_seed(2**32 * c.train.seed + step)
        rows = [self.data[i] for i in rng.integers(len(self.data), size=c.train.batch_size)]
        edits, sources, targets = zip(*rows, strict=True)
        image, (mean, std) = torch.stack(sources), (torch.stack(t) for t in zip(*targets, strict=True))
        z0 = self.vae.config.scaling_factor * (mean + std * torch.randn(mean.shape, generator=generator))
        u = torch.rand(len(rows), generator=generator)
        t = torch.rand(len(rows), generator=generator, dtype=torch.float64) ** (1 / c.noise_power)
        drop_text, drop_image = dropout(u, c.dropout)
        return Batch(
            instructions=[
                "" if drop else reword(edit, rng).instruction for drop, edit in zip(drop_text, edits, strict=True)
            ],
            image=image * ~drop_image[:, None, None, None], z0=z0, change=change(image, mean),
            noise=torch.randn(mean.shape, generator=generator),
            sigma=self.schedule.sigma(t * (self.schedule.steps - 1)),
        )  # fmt: skip

    def loss(self, module: nn.ModuleDict, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        device = next(module.parameters()).device
        tokens = self.tokenizer(batch["instructions"]).to(device)
        text = module["text"](tokens) if self.config.train_text else self.frozen_text(tokens)
        z0, noise, image, where = (batch[name].to(device) for name in ("z0", "noise", "image", "change"))
        denoiser = Denoiser(module["unet"], self.schedule, self.model.schedule.prediction)
        weight = 1 + self.config.change_weight * where
        losses = denoiser.loss(z0, noise, batch["sigma"], Cond(text, image), weight=weight)
        high = losses.detach()[(batch["sigma"] > 2).to(device)]
        return losses.mean(), {"loss_high_noise": high.mean()} if len(high) else {}

    def pipeline(self, module: nn.ModuleDict) -> Pipeline:
        text = module["text"] if self.config.train_text else self.frozen_text
        return Pipeline(module["unet"], self.vae, text, self.tokenizer, self.model)

    def export(self, module: nn.ModuleDict, path: Path) -> None:
        pipe = self.pipeline(module)
        parts = {"unet": pipe.unet, "vae": pipe.vae, "text": pipe.text_encoder}
        write_parts(path, self.model, parts, self.tokenizer, self.config)

    def preview(self, module: nn.ModuleDict, path: Path) -> dict[str, float]:
        """Held-out sources above edits above truths; how many of 64 edits are right, and their median PSNR."""
        rng = np.random.default_rng([self.config.train.seed, HELD_OUT])
        edits = [sample_edit(rng) for _ in range(64)]
        sources, targets = (
            pixels([getattr(e, name) for e in edits], self.config.size) / 2 + 0.5 for name in ("source", "target")
        )
        results = edit_tensors(self.pipeline(module), sources, [e.instruction for e in edits])
        judged = [judge(x, e, rng) for x, e in zip(results, edits, strict=True)]
        save_image(torch.cat([sources[:16], results[:16], targets[:16]]), path, nrow=16)
        return {"right": float(np.mean([r for r, _ in judged])), "psnr": float(np.median([p for _, p in judged]))}


def edit_tensors(pipe: Pipeline, images: Tensor, instructions: list[str], *, steps: int = 10, seed: int = 0) -> Tensor:
    """Edit pictures (b, 3, y, x) in [0, 1] all at once, at scales (1, 1): one branch, the quick look of a preview."""
    image, text = pipe.encode_image(images), pipe.encode_text(instructions)
    branches = three_way(1.0, 1.0, text, text, image)
    for step in pipe.sample(branches, range(seed, seed + len(images)), image.shape[2:], steps=steps, sampler="ddim"):
        pass
    return pipe.decode(step.z)


def dropout(u: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Which items lose their text and which their image, from one uniform u (b,) each (section 3.2.1).

    Text alone, both, image alone: p each, as u grows.
    """
    return u < 2 * p, (u >= p) & (u < 3 * p)


def change(source: Tensor, target: Tensor) -> Tensor:
    """Where the two latents (b, c, y, x) differ: (b, 1, y, x) in [0, 1), relative to the latents' own spread."""
    d = (source - target).square().mean(dim=1, keepdim=True)
    return d / (d + target.var())


def make_networks(config: Config) -> tuple[UNet, TextEncoder]:
    """A UNet and a text encoder of random weights, the UNet's output at zero so that training starts from silence."""
    unet = UNet(config.unet)
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(unet.conv_out.bias)
    return unet.to(memory_format=torch.channels_last), TextEncoder(config.text)
