"""Editing: a picture and an instruction -> the edited picture (InstructPix2Pix, section 3.2)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ..control import Control
from ..data.images import Fitted, Picture, to_tensor
from ..diffusion import Step, three_way
from .items import (
    Item, Progress, as_items, batches, check_counts, check_scale, check_text, check_words, common, in_order, is_list,
    run_batches,
)  # fmt: skip

if TYPE_CHECKING:
    from .core import Pipeline


@dataclass(frozen=True, kw_only=True)
class Edit(Item):
    """One edit to be made. Raises ValueError for values that no edit can have."""

    picture: Fitted
    instruction: str
    text_scale: float
    image_scale: float

    def __post_init__(self):
        check_text("instruction", self.instruction)
        check_scale("text scale", self.text_scale)
        check_scale("image scale", self.image_scale)
        super().__post_init__()


def edit(
    pipe: "Pipeline", image: Picture | Sequence[Picture], instruction: str | Sequence[str], *,
    text_scale: float | Sequence[float] | None = None, image_scale: float | Sequence[float] | None = None,
    steps: int = 100, seed: int | Sequence[int] = 0, sampler: str = "euler_ancestral", spacing: str = "linspace",
    resolution: int | None = None, fit: str = "crop", keep_size: bool = False, output: str = "pil",
    control: Sequence[Control] = (), low_memory: bool = False, batch_size: int = 1,
    on_step: Callable[[Progress], None] | None = None,
) -> Any:
    """The picture as the instruction says (InstructPix2Pix, section 3.2); on the CPU, the authors' seed for seed.

    Where pictures, instructions, scales or seeds are lists, they are equally long and so is the list that comes
    back; what is no list holds for every item, but a lone seed counts up from the first. Up to `batch_size` items
    of one size share the UNet's calls: that changes an item by rounding only, and a size of 1 by nothing.
    An empty instruction returns the fitted input.

    Scales: the model's own unless given. sampler, spacing: words of `diffusion.SAMPLERS`, `SPACINGS`. resolution: of
    the longer side, about (`images.fit_size`). fit: a word of `images.FITS`; keep_size undoes it. output: "pil",
    cut down to whole levels as the authors write them; "tensor" (3, y, x) in [0, 1]; "latent" (c, y, x), before
    decoding, of the fitted size. control: what is to observe or change attention (`minip2p.control`). low_memory:
    branches one after the other, VAE and text encoder on the CPU when not in use. Raises ValueError in the user's words
    (ImageError for a picture).
    """
    check_counts(steps=steps, batch_size=batch_size)
    check_words(sampler=sampler, spacing=spacing, fit=fit, output=output)
    _check_edits(pipe)
    own = pipe.config.sampling
    fitted = partial(pipe.fitted, resolution=resolution, how=fit)
    many, items = as_items(
        Edit,
        picture=[fitted(each) for each in image] if is_list(image) else fitted(image),
        instruction=instruction,
        text_scale=own.text_scale if text_scale is None else text_scale,
        image_scale=own.image_scale if image_scale is None else image_scale,
        seed=seed,
    )
    finish = partial(pipe.finish_fitted, output=output, keep_size=keep_size)
    results = {item.number: finish(item.picture, None) for item in items if not item.instruction.strip()}
    left = [item for item in items if item.number not in results]
    todo = [(batch, steps) for batch in batches(left, batch_size, lambda item: item.picture.image.size)]
    start = partial(_start, pipe, control=control, low_memory=low_memory, steps=steps, sampler=sampler, spacing=spacing)
    rest = partial(pipe.rest, low_memory)
    results |= run_batches(todo, start, lambda item, z: finish(item.picture, z[0]), on_step, rest)
    return in_order(results, many)


def _start(pipe: "Pipeline", batch: Sequence[Edit], *, low_memory: bool, **how) -> Iterator[Step]:
    """The sampler's steps for items of one size."""
    instructions = [item.instruction for item in batch]
    text, null_text = pipe.encode_text(instructions), pipe.encode_text([""])
    image = pipe.encode_image(torch.stack([to_tensor(item.picture.image) for item in batch]))
    pipe.rest(low_memory)
    text_scale, image_scale = common([item.text_scale for item in batch]), common([item.image_scale for item in batch])
    return pipe.sample(
        three_way(text_scale, image_scale, text, null_text, image), [int(item.seed) for item in batch], image.shape[2:],
        prompts=instructions, low_memory=low_memory, **how,
    )  # fmt: skip


def _check_edits(pipe: "Pipeline") -> None:
    channels, latent = pipe.config.unet.in_channels, pipe.config.vae.latent_channels
    if channels != 2 * latent:
        raise ValueError(
            f"this checkpoint's UNet takes {channels} channels, an editor's {2 * latent} (noisy latent, picture): "
            "it paints from text and cannot edit. Load an InstructPix2Pix checkpoint; or minip2p convert --widen "
            "makes an editor of this one, which then has to be trained on edits"
        )
