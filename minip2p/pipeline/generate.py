"""Generating: a prompt -> a picture, by classifier-free guidance (Ho & Salimans 2022)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..control import Control
from ..control.inversion import Inversion
from ..diffusion import Guidance, Step, two_way
from .batching import Item, Progress, Work, check, common
from .core import LatentDiffusion
from .settings import InvertedGuidance, default_scale, latent_size, sampling


@dataclass(frozen=True, kw_only=True)
class GenerateItem(Item):
    """One picture to generate."""

    prompt: str
    negative: str
    scale: float
    start: Inversion | None = None
    """an inverted picture to start from, in place of noise"""


def generate(
    pipe: LatentDiffusion,
    prompt: str | Sequence[str],
    *,
    negative: str | Sequence[str] = "",
    scale: float | Sequence[float] | None = None,
    steps: int | None = None,
    seed: int | Sequence[int] = 0,
    sampler: str | None = None,
    sampler_options: Mapping[str, Any] | None = None,
    spacing: str | None = None,
    size: int | tuple[int, int] | None = None,
    output: str = "pil",
    start: Inversion | Sequence[Inversion] | None = None,
    control: Sequence[Control] = (),
    low_memory: bool = False,
    batch_size: int = 1,
    on_step: Callable[[Progress], None] | None = None,
) -> Any:
    """A picture of the prompt.

    Prompts, negative prompts, scales, seeds and starts may be lists, as for `edit`. Up to `batch_size` items share the
    UNet's calls: that changes a result by rounding only.

    negative: what to steer away from, in place of the empty prompt. scale: the model's own unless given (7.5 for
    published ones). steps: 50 unless given. sampler, spacing: words of `diffusion.SAMPLERS`, `SPACINGS`, else
    euler_ancestral and linspace; sampler_options: e.g. {"eta": 0.5}. size: a side in pixels, or (width, height); the
    model's resolution unless given. output: as for `edit`. start: what `invert` returned for a picture: with its prompt
    this generates that picture again; steps, sampler and spacing are then the inversion's, and so is the scale unless
    given. control: `minip2p.control`. Raises ValueError for an invalid option and for a model of another kind.
    """
    check(batch_size=batch_size, output=output)
    how = sampling(start, steps=steps, sampler=sampler, spacing=spacing)
    pipe.require("text-to-image")
    work = Work(
        GenerateItem,
        on_step,
        prompt=prompt,
        negative=negative,
        scale=default_scale(pipe, start) if scale is None else scale,
        seed=seed,
        start=start,
        steps=how["steps"],
    )
    size = latent_size(pipe, size, start)
    for batch in work.batches(batch_size):
        for step in sample_prompts(
            pipe, batch, size, sampler_options=sampler_options, control=control, low_memory=low_memory, **how
        ):
            work.report(batch, step)
        for item, z in zip(batch, step.z, strict=True):
            work.results[item.number] = pipe.finish(z, output)
        pipe.offload(low_memory)
    return work.in_order()


def sample_prompts(
    pipe: LatentDiffusion, batch: Sequence[GenerateItem], size: tuple[int, int], *, low_memory: bool, **how: Any
) -> Iterator[Step]:
    """The sampler's steps for a batch of prompts, on latents of `size` (y, x). how: options of `pipe.sample`."""
    prompts = [item.prompt for item in batch]
    text, null_text = pipe.encode_text(prompts), pipe.encode_text([item.negative for item in batch])
    pipe.offload(low_memory)

    # D(null) + scale (D(prompt) - D(null))
    scale = common([item.scale for item in batch])
    branches: Guidance | Callable[[float], Guidance] = two_way(scale, text, null_text)
    if starts := [item.start for item in batch if item.start is not None]:
        branches = InvertedGuidance(starts, scale, text, null_text)
        how["start"] = torch.stack([start.z for start in starts]).to(pipe.device)

    seeds = [int(item.seed) for item in batch]
    return pipe.sample(branches, seeds, size, prompts=prompts, low_memory=low_memory, **how)
