"""The denoisers' training: the paper's objective (eq. 2) on latents, with conditioning dropout."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..diffusion import Cond, Denoiser, Guidance, three_way
from ..nn.lora import add_lora
from ..pipeline import Pipeline
from . import draws
from .config import HELD_OUT, DiffusionTraining
from .examples import Example, Mixture
from .parts import write_parts

BANDS = {"loss_low": (0.0, 0.5), "loss_mid": (0.5, 5.0), "loss_high": (5.0, math.inf)}
"""the loss is also told for these noise levels"""
LORA_ON = ("q", "k", "v", "out")
"""the linear layers of the UNet that LoRA adds to: those of its attentions"""


@dataclass(kw_only=True)
class Batch:
    """Examples and all that is drawn for them; the first axis is the pictures."""

    texts: list[str]
    pixels: Tensor | None
    """(b, 2, 3, y, x) in [-1, 1], source and target; or"""
    latents: Tensor | None
    """(b, 3, c, y, x): the source's mode, the target's mean and standard deviation, in the autoencoder's unit"""
    keep: Tensor
    """(b,) whether the network sees the source"""
    posterior: Tensor
    """(b, c, y, x): of the target's latent, the draw from its posterior"""
    noise: Tensor
    """(b, c, y, x)"""
    sigma: Tensor
    """(b,) float64"""
    broken: list[str] = field(default_factory=list)
    """pairs in whose place others stand"""

    def pin_memory(self) -> "Batch":
        """Page-locked, so that a GPU can fetch it while it computes."""
        moved = {name: value.pin_memory() for name, value in vars(self).items() if torch.is_tensor(value)}
        return replace(self, **moved)


class DiffusionStage:
    """eps, v or x0 prediction of a latent, given a text and, for an editor, the latent of the picture to edit.

    Departures from the paper, each a config word: times may lean to high noise, the loss may weigh what an edit changes
    more, and the text encoder may be trained too.
    """

    def __init__(self, config: DiffusionTraining, pipe: Pipeline, examples: Mixture, held_out: list[Example], origin=""):
        """pipe: the networks to begin with; held_out: examples that are not trained on; origin: what the data are."""
        self.config, self.pipe, self.examples, self.held_out, self.origin = config, pipe, examples, held_out, origin
        self.schedule = pipe.denoiser.schedule
        unet, text = pipe.unet, pipe.text_encoder
        for frozen in (pipe.vae, *(() if config.train_text else (text,))):
            frozen.eval().requires_grad_(False)
        if config.lora_rank:
            add_lora(unet, config.lora_rank, config.lora_alpha or config.lora_rank, LORA_ON)
        unet.checkpointing = config.train.checkpointing
        self.module = nn.ModuleDict({"unet": unet} | ({"text": text} if config.train_text else {}))

    @property
    def edits_pictures(self) -> bool:
        """Whether the network sees the picture to edit."""
        return self.pipe.config.unet.in_channels > self.pipe.config.unet.out_channels

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        vae = self.pipe.config.vae
        side = self.config.size >> (len(vae.widths) - 1)
        return vae.latent_channels, side, side

    def batch(self, step: int, rows: range | None = None) -> Batch:
        c = self.config
        drawn = [self._draw(step * c.train.batch_size + i, step) for i in rows or range(c.train.batch_size)]
        examples, broken, u, t, noises = zip(*drawn, strict=True)
        drop_text, drop_image = draws.dropout(torch.tensor(u), c.dropout)
        t = torch.tensor(t, dtype=torch.float64) ** (1 / c.noise_power)
        posterior, noise = torch.stack(noises).unbind(1)
        return Batch(
            texts=["" if drop else each.text for drop, each in zip(drop_text.tolist(), examples, strict=True)],
            **stacked(examples), keep=~drop_image, posterior=posterior, noise=noise,
            sigma=self.schedule.sigma(t * (self.schedule.steps - 1)), broken=[name for names in broken for name in names],
        )  # fmt: skip

    def _draw(self, number: int, step: int) -> tuple[Example, list[str], float, float, Tensor]:
        """Picture `number`: its example, what was broken before it, u, t, and the posterior's and the forward noise."""
        rng = draws.generator(self.config.train.seed, number)
        u, t = rng.random(2).tolist()
        noises = draws.normal(rng, (2, *self.latent_shape))
        example, broken = self.examples.example(number, rng, step)
        return example, broken, u, t, noises

    def loss(self, module: nn.ModuleDict, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        losses = self.losses(module, batch)
        figures = {}
        for name, (low, high) in BANDS.items():
            within = ((batch.sigma >= low) & (batch.sigma < high)).to(losses)
            figures[name] = torch.stack([(losses.detach() * within).sum(), within.sum()])
        return losses.mean(), figures

    def losses(self, module: nn.ModuleDict, batch: Batch) -> Tensor:
        """Of each picture (b,)."""
        device, vae = self.pipe.device, self.pipe.config.vae

        def there(x: Tensor) -> Tensor:
            return x.to(device, non_blocking=True)

        tokens = there(self.pipe.tokenizer(batch.texts))
        text = module["text"](tokens) if self.config.train_text else self._frozen_text(tokens)
        image, mean, std = self.encode(batch.pixels) if batch.latents is None else there(batch.latents).unbind(1)
        z0 = vae.scaling_factor * (mean + std * there(batch.posterior))
        weight = 1 + self.config.change_weight * change(image, mean, vae.scaling_factor)
        shown = image * there(batch.keep)[:, None, None, None] if self.edits_pictures else None
        denoiser = Denoiser(module["unet"], self.schedule, self.pipe.config.schedule.prediction)
        return denoiser.loss(z0, there(batch.noise), batch.sigma, Cond(text, shown), weight=weight)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pairs (b, 2, 3, y, x) -> the source's mode, the target's mean and standard deviation, each (b, c, y, x)."""
        with torch.autocast(self.pipe.device.type, enabled=False):
            x = pixels.flatten(0, 1).to(self.pipe.device, non_blocking=True, memory_format=torch.channels_last)
            posterior = self.pipe.vae.encode(x)
        mean, std = (t.unflatten(0, (-1, 2)) for t in (posterior.mean, (0.5 * posterior.logvar).exp()))
        return mean[:, 0], mean[:, 1], std[:, 1]

    @torch.no_grad()
    def _frozen_text(self, tokens: Tensor) -> Tensor:
        return self.pipe.text_encoder(tokens)

    @property
    def networks(self) -> list[nn.Module]:
        """All that lie in memory while it trains."""
        return list(self.pipe.parts.values())

    def rehearse(self, module: nn.ModuleDict, n: int) -> Tensor:
        """What the loss of n pictures does with what is trained, on tensors of zeros."""
        text_config, unet = self.pipe.config.text, self.pipe.config.unet
        if "text" in module:
            text = module["text"](torch.zeros(n, text_config.max_length, dtype=torch.long))
        else:
            text = torch.zeros(n, text_config.max_length, text_config.width)
        z = torch.zeros(n, unet.in_channels, *self.latent_shape[1:])
        return module["unet"](z, torch.zeros(n), text).square().mean()

    def pipeline(self, module: nn.ModuleDict) -> Pipeline:
        """What is trained, as a user has it."""
        return replace(self.pipe, unet=module["unet"], text_encoder=module["text"] if "text" in module else self.pipe.text_encoder)

    def export(self, module: nn.ModuleDict, path: Path, done: dict[str, int] | None = None) -> None:
        pipe = self.pipeline(module)
        write_parts(path, pipe.config, pipe.parts, pipe.tokenizer, self.config, (done or {}) | {"data": self.origin})

    def preview(self, module: nn.ModuleDict, path: Path) -> dict[str, float]:
        return {"held_out_loss": self.held_out_loss(module)} if self.held_out else {}

    def held_out_loss(self, module: nn.ModuleDict) -> float:
        """The mean loss of the held-out examples with their text and image, each at its own noise and noise level: the
        same every time, the levels evenly spread over the training times."""
        n = len(self.held_out)
        rngs = [draws.generator(self.config.train.seed, HELD_OUT + i) for i in range(n)]
        posterior, noise = torch.stack([draws.normal(rng, (2, *self.latent_shape)) for rng in rngs]).unbind(1)
        t = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        whole = Batch(
            texts=[each.text for each in self.held_out], **stacked(self.held_out),
            keep=torch.ones(n, dtype=torch.bool), posterior=posterior, noise=noise,
            sigma=self.schedule.sigma(t * (self.schedule.steps - 1)),
        )  # fmt: skip
        return float(torch.cat([self.losses(module, part) for part in parts_of(whole, 16)]).mean())


def stacked(examples: Sequence[Example]) -> dict[str, Tensor | None]:
    """Their pixels or latents as a batch's. ValueError where some have the one and some the other."""
    got = {name: [getattr(each, name) for each in examples] for name in ("pixels", "latents")}
    if any(0 < sum(x is not None for x in each) < len(examples) for each in got.values()):
        raise ValueError("pictures and precomputed latents cannot be mixed: precompute the other sets, too")
    return {name: None if each[0] is None else torch.stack(each) for name, each in got.items()}


def parts_of(batch: Batch, n: int) -> Iterator[Batch]:
    """The batch in parts of n pictures."""
    for i in range(0, len(batch.texts), n):
        yield Batch(**{
            name: value[i : i + n] if name == "texts" or torch.is_tensor(value) else value
            for name, value in vars(batch).items()
        })  # fmt: skip


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


def change(source: Tensor, target: Tensor, scaling_factor: float) -> Tensor:
    """Where the two latents (b, c, y, x) differ: (b, 1, y, x) in [0, 1), relative to their unit variance, scaled."""
    d = (scaling_factor * (source - target)).square().mean(dim=1, keepdim=True)
    return d / (d + 1)
