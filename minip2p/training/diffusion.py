"""Training of a denoiser: the paper's objective (eq. 2) on latents, with conditioning dropout.

dataset -> Batch (workers; every random number) -> Inputs (on the device, by the frozen networks) -> loss (trained ones)
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..data.sizes import sides
from ..diffusion import Schedule
from ..diffusion.loss import problem, squared_error
from ..nn.lora import add_lora
from ..pipeline import Pipeline
from . import rng
from .buckets import BucketMixture, by_size
from .build import frozen_marks, unfreeze
from .checkpoint_parts import write_parts, write_trained_lora
from .config import HELD_OUT, DiffusionTraining
from .data import Example, Mixture, PairDataset
from .precision import HalfEncoder, computes_in_half

BANDS = {"loss_low": (0.0, 0.5), "loss_mid": (0.5, 5.0), "loss_high": (5.0, math.inf)}
"""ranges of sigma over which the log averages the loss, too"""
LORA_LAYERS = ("q", "k", "v", "out")
"""the linear layers of the denoiser that LoRA adds to: those of its attentions"""
ENCODED = 32
"""pictures that the autoencoder encodes together: more are no faster and take 230 MiB each at 256 px"""
Draw = Callable[[Pipeline, Path], dict[str, float]]
"""draws a preview (a PNG) of what a pipeline does, and measures it"""


@dataclass(kw_only=True)
class Batch:
    """Examples with all their random numbers; the first axis is the items."""

    texts: list[str]
    """"" where dropped"""
    text: Tensor
    """of these, tokens (b, m), or the frozen text encoder's states (b, m, d)"""
    pixels: Tensor | None
    """(b, 2, 3, y, x) in [-1, 1], source and target; or"""
    latents: Tensor | None
    """(b, 3, c, y, x): the source's mode, the target's mean and standard deviation, not scaled"""
    keep: Tensor
    """(b,) whether the network sees the source"""
    posterior: Tensor
    """(b, c, y, x): noise of the target's latent as a sample of its posterior"""
    noise: Tensor
    """(b, c, y, x): noise of the forward process"""
    sigma: Tensor
    """(b,) float64"""
    broken: list[str] = field(default_factory=list)
    """errors of pairs that were replaced by others"""

    def pin_memory(self) -> "Batch":
        """The same in page-locked memory, so that a GPU can fetch it while it computes."""
        return replace(self, **{name: x.pin_memory() for name, x in vars(self).items() if torch.is_tensor(x)})


class Inputs(NamedTuple):
    """What the trained networks read of a batch and should predict: on the device, of the same shapes in each batch."""

    x: Tensor
    """(b, inputs, y, x): the noisy latent, and for an editor the source's"""
    t: Tensor
    """(b,): times"""
    text: Tensor
    """(b, m, d) states; tokens (b, m) where the text encoder is trained"""
    target: Tensor
    """(b, c, y, x)"""
    weight: Tensor
    """(b, 1, y, x), of the squared error"""
    bands: Tensor
    """(bands, b): 1 where an item is in this one of `BANDS`"""


@dataclass(frozen=True, kw_only=True)
class DiffusionData:
    """Batches of examples, noise and noise levels. Item i of step s has the number s * batch_size + i."""

    config: DiffusionTraining
    examples: Mixture | BucketMixture
    schedule: Schedule
    latent_shape: tuple[int, int, int]
    """(c, y, x); where there are buckets the square's, which is the largest"""
    factor: int
    """an image's side / its latent's side"""
    tokenizer: Callable[[list[str]], Tensor]
    null_states: Tensor | None = None
    """(m, d): the text encoder's states of "", where the examples have those of their texts"""

    def batch(self, step: int, rows: range | None = None) -> Batch:
        c = self.config
        items = [self._item(step * c.train.batch_size + i, step) for i in rows or range(c.train.batch_size)]
        examples, broken, u, t, noises = zip(*items, strict=True)
        drop_text, drop_image = rng.conditioning_dropout(torch.tensor(u), c.dropout)
        posterior, noise = torch.stack(noises).unbind(1)
        return Batch(
            **self._texts(examples, drop_text.tolist()),
            **stack(examples),
            keep=~drop_image,
            posterior=posterior,
            noise=noise,
            sigma=self.schedule.sigma(self._times(torch.tensor(t, dtype=torch.float64))),
            broken=[error for errors in broken for error in errors],
        )

    def _texts(self, examples: Sequence[Example], drop: Sequence[bool]) -> dict[str, list[str] | Tensor]:
        texts = ["" if each else example.text for each, example in zip(drop, examples, strict=True)]
        if self.null_states is None:
            return {"texts": texts, "text": self.tokenizer(texts)}
        states = [self.null_states if each else example.states for each, example in zip(drop, examples, strict=True)]
        return {"texts": texts, "text": torch.stack(states)}

    def _times(self, u: Tensor) -> Tensor:
        """Training times from uniform numbers."""
        return rng.TIMES[self.config.times](u ** (1 / self.config.timestep_power), self.schedule)

    def _item(self, number: int, step: int) -> tuple[Example, list[str], float, float, Tensor]:
        """An item's example, errors of broken ones, two uniform numbers (for dropout and time) and its two noises."""
        generator = rng.item_generator(self.config.train.seed, number)
        u, t = generator.random(2).tolist()
        shape = self._shape(*self.examples.size(step)) if self.config.buckets else self.latent_shape
        noises = rng.normal(generator, (2, *shape))
        example, broken = self.examples.example(number, generator, step)
        return example, broken, u, t, noises

    def _shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(c, y, x) of the latents of images of this size."""
        return self.latent_shape[0], height // self.factor, width // self.factor

    def held_out(self, examples: Sequence[Example], rows: Sequence[int]) -> Batch:
        """These rows of held-out examples, of one size, with nothing dropped, fixed noise, and times that are evenly
        spread over all examples: the same at every call."""
        generators = [rng.item_generator(self.config.train.seed, HELD_OUT + i) for i in rows]
        chosen = [examples[i] for i in rows]
        pixels = chosen[0].pixels
        shape = self.latent_shape if pixels is None else self._shape(*pixels.shape[:-3:-1])
        noises = torch.stack([rng.normal(generator, (2, *shape)) for generator in generators])
        return Batch(
            **self._texts(chosen, [False] * len(chosen)),
            **stack(chosen),
            keep=torch.ones(len(rows), dtype=torch.bool),
            posterior=noises[:, 0],
            noise=noises[:, 1],
            sigma=self.schedule.sigma(
                rng.uniform((torch.tensor(rows, dtype=torch.float64) + 0.5) / len(examples), self.schedule)
            ),
        )


class DiffusionStage:
    """A network learns to predict eps, v, x0 or flow from a noisy latent, a text and, to edit, the source's latent.

    Deviations from the paper, each a word of the config and off by default: more steps at high noise, more weight where
    source and target differ, and a text encoder that learns too.
    """

    def __init__(
        self,
        config: DiffusionTraining,
        pipe: Pipeline,
        examples: Mixture | BucketMixture,
        held_out: Sequence[Example] = (),
        draw: Draw | None = None,
        origin: str = "",
        mark: str | None = None,
        states: bool = False,
    ):
        """pipe: the networks to start from. held_out: examples that are not trained on.

        origin: describes the data; mark: does so, wherever they are stored. states: the examples have the states of
        their texts, so that the text encoder stays in the CPU's memory. Raises ValueError where inputs for the source
        image are zero and would stay so.
        """
        self.config, self.pipe, self.held_out, self.draw, self.origin = config, pipe, held_out, draw, origin
        factor, (width, height) = pipe.config.vae.factor, sides(config.size)
        shape = pipe.config.vae.latent_channels, height // factor, width // factor
        null = pipe.encode_text([""])[0].half().cpu().clone() if states else None
        if states:
            pipe.text_encoder.to("cpu")
        self.data = DiffusionData(
            config=config,
            examples=examples,
            schedule=pipe.denoiser.schedule,
            latent_shape=shape,
            factor=factor,
            tokenizer=pipe.tokenizer,
            null_states=null,
        )
        self.half = computes_in_half(config.train.precision, pipe.device)
        self.edits_images = pipe.kind == "editor"
        self.reads_pictures = any(isinstance(each, PairDataset) for each in examples.sets)
        self.notes = pipe.notes
        for frozen in (pipe.vae, *(() if config.train_text else (pipe.text_encoder,))):
            frozen.eval().requires_grad_(False)
        self.encoder = pipe.vae if config.vae_precision == "fp32" else HalfEncoder(pipe.vae)
        self.compiled = [self.encoder.encoder] if isinstance(self.encoder, HalfEncoder) else []
        """networks that are not trained and may be compiled, as no preview has them"""
        if config.lora_rank:
            add_lora(pipe.unet, config.lora_rank, config.lora_alpha or config.lora_rank, LORA_LAYERS)
            unfreeze(pipe.unet, config.lora_also)
        pipe.unet.checkpointing = config.train.checkpointing
        self.module = nn.ModuleDict({"unet": pipe.unet} | ({"text": pipe.text_encoder} if config.train_text else {}))
        self.marks = {"data": mark or origin} | frozen_marks(pipe, config.train_text)

    @torch.no_grad()
    def inputs(self, batch: Batch) -> Inputs:
        """On the device of the trained networks, without waiting for it."""
        device, c = next(self.module.parameters()).device, self.pipe.config
        keep, posterior, noise = (x.to(device, non_blocking=True) for x in (batch.keep, batch.posterior, batch.noise))
        image, mean, std = self.encode_images(batch, device)
        z0 = c.vae.scaling_factor * (mean + std * posterior)
        keep = keep & (self.config.image_condition != "none")
        shown = image * keep[:, None, None, None] if self.edits_images else None
        x, t, target = problem(self.pipe.denoiser, z0, noise, batch.sigma, shown)
        weight = 1 + self.config.change_weight * difference(image, mean, c.vae.scaling_factor)
        bands = torch.stack([(batch.sigma >= low) & (batch.sigma < high) for low, high in BANDS.values()]).to(x)
        return Inputs(x, t, self.encode_text(batch.text, device), target, weight, bands)

    def loss(self, module: nn.ModuleDict, inputs: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
        """The batch's mean loss; (sum, count) of the losses in each band of noise levels."""
        losses = self.losses(module, inputs)
        sums = torch.stack([inputs.bands @ losses.detach(), inputs.bands.sum(1)], dim=1)
        return losses.mean(), dict(zip(BANDS, sums, strict=True))

    def losses(self, module: nn.ModuleDict, inputs: Inputs) -> Tensor:
        """The loss of each item (b,)."""
        text = module["text"](inputs.text) if "text" in module else inputs.text
        prediction = module["unet"](inputs.x, inputs.t, text).to(inputs.target)
        return squared_error(prediction, inputs.target, inputs.weight)

    def encode_text(self, text: Tensor, device: torch.device) -> Tensor:
        """Tokens or states as the networks read them (`Inputs.text`)."""
        text = text.to(device, non_blocking=True)
        if text.is_floating_point() or "text" in self.module:
            return text.float() if text.is_floating_point() else text
        with torch.autocast(device.type, torch.bfloat16, enabled=self.half):
            return self.pipe.text_encoder.to(device)(text).float()

    def encode_images(self, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """The source's mode, the target's mean and standard deviation, each (b, c, y, x), not scaled."""
        if batch.latents is not None:
            return batch.latents.to(device, non_blocking=True).unbind(1)
        x = batch.pixels.flatten(0, 1).to(device, non_blocking=True, memory_format=torch.channels_last)
        posteriors = [self.encoder.encode(part) for part in x.split(ENCODED)]
        mean = torch.cat([each.mean for each in posteriors]).unflatten(0, (-1, 2))
        std = torch.cat([(0.5 * each.logvar).exp() for each in posteriors]).unflatten(0, (-1, 2))
        return mean[:, 0], mean[:, 1], std[:, 1]

    def pipeline(self, module: nn.ModuleDict) -> Pipeline:
        """The trained networks with the frozen ones."""
        trained = {"text_encoder": module["text"]} if "text" in module else {}
        return replace(self.pipe, unet=module["unet"], **trained)

    def export(self, module: nn.ModuleDict, path: Path, done: dict[str, int] | None = None) -> None:
        pipe = self.pipeline(module)
        done = (done or {}) | {"data": self.origin}
        write_parts(path, pipe.config, pipe.parts, pipe.tokenizer, self.config, done)
        if self.config.lora_rank:  # by itself, too
            write_trained_lora(path.with_name("lora.safetensors"), pipe.config, pipe.unet, self.config, done)

    def preview(self, module: nn.ModuleDict, path: Path) -> dict[str, float]:
        figures = {"held_out_loss": self.held_out_loss(module)} if self.held_out else {}
        return figures | (self.draw(self.pipeline(module), path) if self.draw else {})

    def held_out_loss(self, module: nn.ModuleDict) -> float:
        alike = by_size([None if each.pixels is None else each.pixels.shape for each in self.held_out])
        rows = [each[i : i + 16] for each in alike for i in range(0, len(each), 16)]
        parts = [self.data.held_out(self.held_out, each) for each in rows]
        return float(torch.cat([self.losses(module, self.inputs(part)) for part in parts]).mean())


def stack(examples: Sequence[Example]) -> dict[str, Tensor | None]:
    """The examples' pixels or latents as a batch's. ValueError where some have the one and some the other."""
    found = {name: [getattr(each, name) for each in examples] for name in ("pixels", "latents")}
    if any(0 < sum(x is not None for x in each) < len(examples) for each in found.values()):
        raise ValueError("images and precomputed latents cannot be mixed: precompute the other sets, too")
    return {name: None if each[0] is None else torch.stack(each) for name, each in found.items()}


def difference(source: Tensor, target: Tensor, scaling_factor: float) -> Tensor:
    """Where the two latents (b, c, y, x) differ: (b, 1, y, x) in [0, 1); 1/2 where by their standard deviation."""
    d = (scaling_factor * (source - target)).square().mean(dim=1, keepdim=True)
    return d / (d + 1)
