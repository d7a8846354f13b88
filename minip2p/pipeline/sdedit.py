"""SDEdit (Meng et al. 2022), the paper's baseline: noise a picture, then denoise it towards a prompt."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..control import Control
from ..data.fits import Fitted
from ..data.images import Picture, to_tensor
from .batching import Progress, Work, check
from .core import LatentDiffusion
from .generate import GenerateItem, sample_prompts
from .unchanged import unchanged


@dataclass(frozen=True, kw_only=True)
class SDEditItem(GenerateItem):
    """One picture to change; pictures of one size can share a batch."""

    picture: Fitted
    strength: float

    @property
    def group(self) -> tuple[int, int]:
        return self.picture.image.size

    @property
    def steps_to_run(self) -> int:
        return round(self.strength * self.steps)


def sdedit(
    pipe: LatentDiffusion,
    image: Picture | Sequence[Picture],
    prompt: str | Sequence[str],
    strength: float | Sequence[float] = 0.75,
    *,
    negative: str | Sequence[str] = "",
    scale: float | Sequence[float] | None = None,
    steps: int = 50,
    seed: int | Sequence[int] = 0,
    sampler: str = "euler_ancestral",
    sampler_options: Mapping[str, Any] | None = None,
    spacing: str = "linspace",
    resolution: int | None = None,
    fit: str = "crop",
    keep_size: bool = False,
    output: str = "pil",
    control: Sequence[Control] = (),
    low_memory: bool = False,
    batch_size: int = 1,
    on_step: Callable[[Progress], None] | None = None,
) -> Any:
    """The picture changed towards the prompt by a text-to-image model; no training on edits is needed.

    Of the `steps`, the last round(strength * steps) are taken, from the picture's latent plus noise. A strength of 0
    takes none and returns the fitted picture; at 1 nothing of the picture is left: the result is `generate`'s. Lists
    and the other options are as for `edit` and `generate`. Raises ValueError as they do.
    """
    check(steps=steps, batch_size=batch_size, output=output)
    pipe.require("text-to-image")
    work = Work(
        SDEditItem,
        on_step,
        picture=pipe.fitted(image, resolution, fit),
        prompt=prompt,
        strength=strength,
        negative=negative,
        seed=seed,
        scale=pipe.config.sampling.text_scale if scale is None else scale,
        steps=steps,
    )
    for item in work.items:
        if item.steps_to_run == 0:
            work.results[item.number] = unchanged(pipe, item.picture, output, keep_size)

    how = {"sampler": sampler, "sampler_options": sampler_options, "spacing": spacing, "control": control}
    for batch in work.batches(batch_size):
        skip = steps - batch[0].steps_to_run
        latents = pipe.encode_image(torch.stack([to_tensor(item.picture.image) for item in batch]))
        y, x = latents.shape[2:]
        z0 = pipe.config.vae.scaling_factor * latents if skip > 0 else None  # at strength 1, noise alone
        for step in sample_prompts(pipe, batch, (y, x), steps=steps, skip=skip, z0=z0, low_memory=low_memory, **how):
            work.report(batch, step)
        for item, z in zip(batch, step.z, strict=True):
            work.results[item.number] = pipe.finish(z, output, item.picture if keep_size else None)
        pipe.offload(low_memory)
    return work.in_order()
