"""Editing: a picture and an instruction -> the edited picture (InstructPix2Pix, section 3.2)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..control import Control
from ..data.fits import Fitted
from ..data.images import Picture, to_tensor
from ..diffusion import three_way
from .batching import Item, Progress, Work, check, common
from .core import LatentDiffusion
from .mask import Mask, blend_pixels, keep_outside, open_mask
from .unchanged import unchanged


@dataclass(frozen=True, kw_only=True)
class Edit(Item):
    """One edit; edits of one picture size can share a batch."""

    picture: Fitted
    instruction: str
    text_scale: float
    image_scale: float
    mask: Any = None

    @property
    def group(self) -> tuple[int, int]:
        return self.picture.image.size


def edit(
    pipe: LatentDiffusion,
    image: Picture | Sequence[Picture],
    instruction: str | Sequence[str],
    *,
    mask: Mask | Sequence[Mask] = None,
    text_scale: float | Sequence[float] | None = None,
    image_scale: float | Sequence[float] | None = None,
    steps: int = 100,
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
    """The picture edited as the instruction says; on the CPU, the authors' result seed for seed.

    Pictures, masks, instructions, scales and seeds may be lists of one length; the result is then a list. A single
    value holds for every item, but a single seed counts up from the first. Up to `batch_size` items of one size share
    the UNet's calls: that changes a result by rounding only. An empty instruction returns the fitted input.

    mask: black where the picture stays, white where it is edited (`pipeline.mask`), stretched over the picture.
    text_scale, image_scale: the model's own unless given. sampler, spacing: words of `diffusion.SAMPLERS`, `SPACINGS`;
    sampler_options: e.g. {"eta": 0.5}. resolution: about the longer side (`images.fit_size`). fit: a word of
    `images.FITS`; keep_size undoes it. output: "pil", truncated to 8 bits as the authors do; "tensor" (3, y, x) in
    [0, 1]; "latent" (c, y, x), scaled, before decoding, of the fitted size. control: observes or changes attention
    (`minip2p.control`). low_memory: one branch at a time, VAE and text encoder on the CPU when not in use.
    Raises ValueError for an invalid option (ImageError for a picture) and for a model that is no editor.
    """
    check(steps=steps, batch_size=batch_size, output=output)
    pipe.require("editor")
    own = pipe.config.sampling
    work = Work(
        Edit,
        on_step,
        picture=pipe.fitted(image, resolution, fit),
        instruction=instruction,
        text_scale=own.text_scale if text_scale is None else text_scale,
        image_scale=own.image_scale if image_scale is None else image_scale,
        mask=None if mask is None else open_mask(mask),
        seed=seed,
        steps=steps,
    )
    for item in work.items:
        if not item.instruction.strip():
            work.results[item.number] = unchanged(pipe, item.picture, output, keep_size)

    how: dict[str, Any] = {"steps": steps, "sampler": sampler, "sampler_options": sampler_options, "spacing": spacing}
    for batch in work.batches(batch_size):
        # c_T and c_I: the instruction's text states and the picture's latent. No text is "", no picture is zeros.
        instructions = [item.instruction for item in batch]
        text, null_text = pipe.encode_text(instructions), pipe.encode_text([""])
        image_latent = pipe.encode_image(torch.stack([to_tensor(item.picture.image) for item in batch]))
        y, x = image_latent.shape[2:]
        pipe.offload(low_memory)

        # Equation 3: e(z, 0, 0) + s_I (e(z, c_I, 0) - e(z, 0, 0)) + s_T (e(z, c_I, c_T) - e(z, c_I, 0)).
        s_text, s_image = common([item.text_scale for item in batch]), common([item.image_scale for item in batch])
        branches = three_way(s_text, s_image, text, null_text, image_latent)

        # From noise to the edited latent, one step of the sampler at a time; outside of a mask, to the image's latent.
        seeds, z0 = [int(item.seed) for item in batch], pipe.config.vae.scaling_factor * image_latent
        kept = {"control": control} if mask is None else keep_outside(batch, z0, control)
        for step in pipe.sample(branches, seeds, (y, x), prompts=instructions, low_memory=low_memory, **how, **kept):
            work.report(batch, step)

        # From latents to pictures.
        for item, z in zip(batch, step.z, strict=True):
            work.results[item.number] = pipe.finish(z, output, item.picture if keep_size else None)
        pipe.offload(low_memory)
    for item in work.items if mask is not None and output != "latent" else ():
        work.results[item.number] = blend_pixels(work.results[item.number], item.picture, item.mask, keep_size)
    return work.in_order()
