"""The denoisers' training, editor and painter: the paper's objective (eq. 2) on latents of edits of the tiny world."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.utils import save_image

from ..config import Config
from ..data.scenes import Edit, judge, loose_captions, reword, sample_edit
from ..diffusion import Cond, Denoiser, Guidance, Schedule, three_way, two_way
from ..models.clip import TextEncoder
from ..models.unet import UNet
from ..models.vae import AutoencoderKL
from ..pipeline import Pipeline
from ..text.bpe import BPE
from .config import HELD_OUT, DiffusionTraining
from .latents import LatentEdits, encode_edits
from .parts import write_parts
from .vae import pixels


class Batch(dict):
    """texts (b) str; image (b, c, y, x), the source's latent, or None; z0, the target's, scaled; noise; sigma (b,)."""


class DiffusionStage:
    """eps, v or x0 prediction of a latent, given a text and, for an editor, the latent of the picture to edit.

    Departures from the paper, each a config word: times may lean to high noise, the loss may weigh what an edit changes
    more, and the text encoder may be trained too.
    """

    def __init__(
        self, config: DiffusionTraining, vae: AutoencoderKL, unet: UNet, text: TextEncoder, tokenizer: BPE, cache: Path
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

    def text(self, edit: Edit, rng: np.random.Generator, step: int) -> str:
        """What the target of an edit is to be made from, at a step of the training."""
        raise NotImplementedError

    def results(self, pipe: Pipeline, edits: list[Edit], sources: Tensor) -> Tensor:
        """What the model makes of edits, sources (b, 3, y, x) in [0, 1] given: the quick look of a preview."""
        raise NotImplementedError

    @property
    def edits_pictures(self) -> bool:
        """Whether the network sees the picture to edit."""
        return self.model.unet.in_channels > self.model.unet.out_channels

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
            texts=["" if drop else self.text(edit, rng, step) for drop, edit in zip(drop_text, edits, strict=True)],
            image=image * ~drop_image[:, None, None, None] if self.edits_pictures else None,
            z0=z0, change=change(image, mean), noise=torch.randn(mean.shape, generator=generator),
            sigma=self.schedule.sigma(t * (self.schedule.steps - 1)),
        )  # fmt: skip

    def loss(self, module: nn.ModuleDict, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        device = next(module.parameters()).device
        tokens = self.tokenizer(batch["texts"]).to(device)
        text = module["text"](tokens) if self.config.train_text else self.frozen_text(tokens)
        z0, noise, where = (batch[name].to(device) for name in ("z0", "noise", "change"))
        image = None if batch["image"] is None else batch["image"].to(device)
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
        """Held-out sources above results above truths; how many of 64 results are right, and their median PSNR."""
        rng = np.random.default_rng([self.config.train.seed, HELD_OUT])
        edits = [sample_edit(rng) for _ in range(64)]
        sources, targets = (
            pixels([getattr(e, name) for e in edits], self.config.size) / 2 + 0.5 for name in ("source", "target")
        )
        results = self.results(self.pipeline(module), edits, sources)
        judged = [judge(x, e, rng) for x, e in zip(results, edits, strict=True)]
        save_image(torch.cat([sources[:16], results[:16], targets[:16]]), path, nrow=16)
        return {"right": float(np.mean([r for r, _ in judged])), "psnr": float(np.median([p for _, p in judged]))}


class EditorStage(DiffusionStage):
    """An edit's target from its source and its instruction, in changing words."""

    def text(self, edit: Edit, rng: np.random.Generator, step: int) -> str:
        return reword(edit, rng).instruction

    def results(self, pipe: Pipeline, edits: list[Edit], sources: Tensor) -> Tensor:
        return edit_tensors(pipe, sources, [edit.instruction for edit in edits])


class PainterStage(DiffusionStage):
    """A picture from its caption, which may leave sizes, places and weather open, so that noise has a say.

    For the first steps captions tell everything: drawing is learnt sooner than choosing. Edits serve as pictures that
    differ by one change, whose place counts more.
    """

    def text(self, edit: Edit, rng: np.random.Generator, step: int) -> str:
        if step < self.config.told_in_full:
            return edit.target.caption
        return loose_captions(edit.target, rng=rng, details=None)[0]

    def results(self, pipe: Pipeline, edits: list[Edit], sources: Tensor) -> Tensor:
        text, null = pipe.encode_text([edit.target.caption for edit in edits]), pipe.encode_text([""])
        branches = two_way(self.config.model.sampling.text_scale, text, null)
        return run_quickly(pipe, branches, range(len(edits)), pipe.encode_image(sources[:1]).shape[2:])


def edit_tensors(pipe: Pipeline, images: Tensor, instructions: list[str], *, steps: int = 10, seed: int = 0) -> Tensor:
    """Edit pictures (b, 3, y, x) in [0, 1] all at once, at scales (1, 1): one branch, the quick look of a preview."""
    image, text = pipe.encode_image(images), pipe.encode_text(instructions)
    branches = three_way(1.0, 1.0, text, text, image)
    return run_quickly(pipe, branches, range(seed, seed + len(images)), image.shape[2:], steps)


def run_quickly(pipe: Pipeline, branches: Guidance, seeds: Sequence[int], size: Sequence[int], steps=10) -> Tensor:
    """Pictures (b, 3, y, x) of latents of `size` (y, x), by few steps of DDIM."""
    for step in pipe.sample(branches, seeds, size, steps=steps, sampler="ddim"):
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
