"""Which items of a set are edited, from which noise, and what CLIP sees: ours, and that of the authors' script.

Theirs (metrics/compute_metrics.py): an item is a prompt of the last 5 % of seeds.json. At every scale torch's
generators are seeded anew; the CPU's draws a permutation of the prompts, then for each item which of its pairs and its
size (always the same one); the GPU's draws the noise, item after item. So all scales have the same items and noise.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data.edits import Edits, EditText
from ..data.fits import LANCZOS
from ..data.images import to_tensor
from ..data.layouts.folder import Folder
from ..data.split import SPLITS, split
from ..diffusion import get_sampler, guided, three_way
from ..models.clip import CLIP, Similarities
from ..pipeline import Pipeline
from .curves import Settings, item_seed

PIXELS = {
    "paired": "[0, 1], fitted as for editing",
    "authors": "[-1, 1], not clipped, squashed to a square (the authors' script)",
}
"""protocol -> how pictures enter CLIP"""
FILTER = "bicubic to CLIP's size, without antialias or crop"


class Item(NamedTuple):
    """A pair of the set that is edited."""

    number: int
    """its place in the evaluation"""
    index: int
    """in the set"""
    text: EditText
    seed: int
    """of its noise; in the authors' protocol of SDEdit's, which their script does not have"""


def choose(edits: Edits, settings: Settings) -> list[Item]:
    """The items, the same for every scale and every method. Raises ValueError if there are none, and for sets that the
    authors' protocol cannot read."""
    indices = _authors_indices(edits, settings) if settings.protocol == "authors" else _indices(edits, settings)
    if not indices:
        raise ValueError(f"{edits.path}: no pair is in the split {settings.split!r}; --split all takes all of them")
    texts = map(edits.text, indices)
    return [Item(k, i, text, item_seed(settings.seed, text.key)) for k, (i, text) in enumerate(zip(indices, texts))]


def _indices(edits: Edits, settings: Settings) -> list[int]:
    """At most n of the split, in an order that the seed draws."""
    parts = {} if settings.split == "all" else dict(zip(("train", "val", "test"), split(edits)))
    found: Sequence[int] = parts.get(settings.split, range(len(edits)))
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(settings.seed))
    return [found[i] for i in order[: settings.n].tolist()]


def _authors_indices(edits: Edits, settings: Settings) -> list[int]:
    if not isinstance(edits.layout, Folder):
        raise ValueError(f"{edits.path}: --protocol authors needs the authors' folders with seeds.json; use paired")
    counts = np.bincount(edits.layout.name_of, minlength=len(edits.layout.names))
    firsts = np.cumsum(counts) - counts
    ends = {"train": (0, SPLITS[0]), "val": (SPLITS[0], SPLITS[0] + SPLITS[1]), "test": (SPLITS[0] + SPLITS[1], 1)}
    low, high = (int(end * len(counts)) for end in ends.get(settings.split, (0, 1)))
    generator = torch.Generator().manual_seed(settings.seed)
    order, found = torch.randperm(high - low, generator=generator), []
    for prompt in order[: settings.n].tolist():
        if not counts[low + prompt]:
            name = edits.layout.names[low + prompt].decode(errors="replace")
            raise ValueError(f"{edits.path}: prompt {name} has no pairs, which the authors' script cannot evaluate")
        found.append(int(firsts[low + prompt] + torch.randint(int(counts[low + prompt]), (), generator=generator)))
        torch.randint(1, (), generator=generator)  # the size: of one possible value, yet it is drawn
    return found


class AuthorsNoise:
    """The noise of their script: one generator on the device, seeded anew at every scale, that all items draw from in
    turn. On the CPU a second generator stands in for the GPU's, so results depend on the kind of device."""

    def __init__(self, seed: int, device: torch.device):
        self.generator = torch.Generator(device).manual_seed(seed)
        self.states = {0: self.generator.get_state()}
        """item -> the generator before its draws, as far as they were made"""

    def of(self, item: int, draws: int, shape: Sequence[int]) -> list[Tensor]:
        """All draws of an item, each of this shape; other numbers or shapes than before are another run's."""
        start = max(number for number in self.states if number <= item)
        self.generator.set_state(self.states[start])
        noise: list[Tensor] = []
        for number in range(start, item + 1):
            self.states[number] = self.generator.get_state()
            device = self.generator.device
            noise = [torch.randn(*shape, generator=self.generator, device=device) for _ in range(draws)]
        self.states[item + 1] = self.generator.get_state()
        return noise


def squash(image: Image.Image, side: int) -> Image.Image:
    """At the authors' size: a square, whatever the picture's shape."""
    return image.resize((side, side), LANCZOS)


@torch.inference_mode()
def edit_as_authors(
    pipe: Pipeline,
    image: Image.Image,
    instruction: str,
    *,
    text_scale: float,
    image_scale: float,
    steps: int,
    noise: AuthorsNoise,
    item: int,
) -> Tensor:
    """`Pipeline.edit` with their noise, and also for an empty instruction: latents (1, c, y, x)."""
    text, null_text = pipe.encode_text([instruction]), pipe.encode_text([""])
    image_latent = pipe.encode_image(to_tensor(image)[None])
    branches = three_way(text_scale, image_scale, text, null_text, image_latent)
    sigmas = pipe.denoiser.schedule.sigmas_for(steps)
    draws = iter(noise.of(item, steps, image_latent.shape))
    z = next(draws) * float(sigmas[0])
    for step in get_sampler("euler_ancestral")(guided(pipe.denoiser, branches), z, sigmas, noise=draws.__next__):
        z = step.z
    return z


@torch.inference_mode()
def similarities_as_authors(
    pipe: Pipeline | None, clip: CLIP, source: Image.Image, result: Image.Image | Tensor, text: EditText
) -> Similarities:
    """Of one pair as their script measures it: both pictures in [-1, 1]; latents are decoded and not clipped."""
    device = clip.vision.patch.weight.device
    if isinstance(result, Tensor):
        assert pipe is not None, "latents need their pipeline"
        vae = pipe.vae.to(pipe.device)
        z = (result / pipe.config.vae.scaling_factor).to(pipe.device, next(vae.parameters()).dtype)
        edited = vae.decode(z).float()
    else:
        edited = 2 * to_tensor(result)[None] - 1
    before = 2 * to_tensor(source)[None] - 1
    return clip.similarities(before.to(device), edited.to(device), [text.input or ""], [text.output or ""])
