"""Data of the tiny world, drawn at random: images, captioned images, edits and their latents, texts, triplets."""

import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ...checkpoints.files import is_finite, open_weights, write_safetensors
from ...data.captions import Triplet
from ...models.vae import AutoencoderKL
from ...pipeline import fingerprint
from ...training.data import Example
from ..grammar import sample_requests, sample_triplet, sample_walk
from ..scenes import EDIT_KINDS, Edit, Scene, loose_captions, render, reword, sample_edit, sample_scene
from .config import SceneTexts, TinyDiffusionTraining


def render_batch(scenes: list[Scene], size: int) -> Tensor:
    """Renderings (b, 3, size, size) in [-1, 1]."""
    images = np.stack([np.asarray(render(scene, size)) for scene in scenes])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def scene_images(size: int, rng: np.random.Generator, n: int) -> Tensor:
    """Renderings of n random scenes, for the autoencoder: (n, 3, size, size) in [-1, 1]."""
    return render_batch([sample_edit(rng).target for _ in range(n)], size)


def scene_cuts(size: int, cut: int, rng: np.random.Generator, n: int) -> Tensor:
    """Square cuts from renderings, two from each, for the autoencoder: (n, 3, cut, cut) in [-1, 1].

    One batch in ten is whole renderings instead, of as many pixels: ((n cut^2 / size^2) or 1, 3, size, size).
    """
    if rng.random() < 0.1:
        return scene_images(size, rng, max(1, n * cut**2 // size**2))
    whole = scene_images(size, rng, -(-n // 2))
    corners = rng.integers(size - cut + 1, size=(n, 2)).tolist()
    return torch.stack([whole[i // 2, :, y : y + cut, x : x + cut] for i, (y, x) in enumerate(corners)])


def captioned_scenes(size: int, rng: np.random.Generator, n: int) -> tuple[Tensor, list[str]]:
    """Both sides of n / 2 random edits, for CLIP: an image's nearest neighbours in a batch differ by one change."""
    edits = [sample_edit(rng) for _ in range(n // 2)]
    scenes = [scene for edit in edits for scene in (edit.source, edit.target)]
    return render_batch(scenes, size) / 2 + 0.5, [scene.caption for scene in scenes]


REVERSED = {"add": "remove", "remove": "add"}
"""kind of an edit from target to source, where it is another"""


@dataclass(frozen=True)
class LatentEdits:
    """Scenes with several edits each, and the latent of every image.

    mean, std (scenes, 1 + edits, c, y, x) float16, the source first. Each edit is used in both directions.
    """

    edits: list[list[Edit]]
    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        return 2 * len(self.edits) * len(self.edits[0])

    def __getitem__(self, i: int) -> tuple[Edit, Tensor]:
        """Edit i, and (3, c, y, x): its source's mode, its target's mean and standard deviation, not scaled."""
        i, backwards = divmod(i, 2)
        row, column = divmod(i, len(self.edits[0]))
        edit, source, target = self.edits[row][column], 0, 1 + column
        if backwards:
            kind = REVERSED.get(edit.kind, edit.kind)
            edit, source, target = replace(edit, kind=kind, source=edit.target, target=edit.source), target, source
        return edit, torch.stack([self.mean[row, source], self.mean[row, target], self.std[row, target]]).float()


@dataclass(frozen=True)
class TinyWorldDataset:
    """Edits with changing words, for a denoiser: instructions for an editor, captions for a text-to-image model.

    Captions may leave sizes, places and weather open, so that images vary; in the first `full_caption_steps` they leave
    nothing open, so that the model learns to draw first.
    """

    edits: LatentEdits
    text: Literal["instruction", "caption"]
    full_caption_steps: int = 0

    def __len__(self) -> int:
        return len(self.edits)

    def example(self, i: int, rng: np.random.Generator, step: int) -> Example:
        edit, latents = self.edits[i]
        if self.text == "instruction":
            text = reword(edit, rng).instruction
        elif step < self.full_caption_steps:
            text = edit.target.caption
        else:
            text = loose_captions(edit.target, rng=rng, details=None)[0]
        return Example(text=text, latents=latents)


def cached(
    path: Path, key: list[float], shapes: dict[str, tuple[int, ...]], make: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The tensors that `make` returns, read from a file where an earlier call with the same key wrote them.

    key: all that determines them, as numbers; NaN stands for any number. A file that is damaged, has other shapes or
    numbers that are not finite, or was made by another key is made again, with a note.
    """
    ours, wrong = torch.tensor(key, dtype=torch.float64), ""
    if path.exists():
        try:
            found = open_weights(path).tensors
            if {name: tuple(found[name].shape) for name in shapes} != shapes or not all(map(is_finite, found.values())):
                wrong = "is damaged (other shapes, or numbers that are not finite)"
            elif found["key"].shape == ours.shape and ((found["key"] == ours) | ours.isnan()).all():
                return found
            wrong = wrong or "was made of other data or by another autoencoder"
        except (ValueError, KeyError, RuntimeError) as error:
            wrong = f"is damaged ({type(error).__name__})"
    if wrong:
        tqdm.write(f"{path} {wrong} and is made again", file=sys.stderr)
    made = make()
    write_safetensors(path, {"key": ours} | made, {})
    return made


def number_of(vae: AutoencoderKL) -> float:
    """A number of 48 bits that identifies the weights: part of a `cached` key."""
    return float(int(fingerprint({"vae": vae})[:12], 16))


def draw_edits(scenes: int, per_scene: int, seed: int) -> list[list[Edit]]:
    """Random scenes with random edits; row i depends on (seed, i) alone."""

    def row(i: int) -> list[Edit]:
        rng = np.random.default_rng([seed, i, 1])
        scene = sample_scene(rng)
        return [sample_edit(rng, scene) for _ in range(per_scene)]

    return [row(i) for i in tqdm(range(scenes), desc="drawing edits", unit="scene")]


@torch.inference_mode()
def encode_edits(vae: AutoencoderKL, cache: Path, *, scenes: int, per_scene: int, size: int, seed: int) -> LatentEdits:
    """Draw, render and encode edits; latents are cached in a file."""
    edits = draw_edits(scenes, per_scene, seed)

    def encode() -> dict[str, Tensor]:
        device = next(vae.parameters()).device
        images: list[Scene] = [scene for row in edits for scene in (row[0].source, *(edit.target for edit in row))]
        means, stds = [], []
        for i in tqdm(range(0, len(images), 60), desc="encoding edits", unit="batch"):
            x = render_batch(images[i : i + 60], size).to(device, memory_format=torch.channels_last)
            posterior = vae.encode(x)
            means.append(posterior.mean.half().cpu().contiguous())
            stds.append((0.5 * posterior.logvar).exp().half().cpu().contiguous())
        mean, std = (torch.cat(t).unflatten(0, (scenes, 1 + per_scene)) for t in (means, stds))
        return {"mean": mean, "std": std}

    side = size // vae.config.factor
    shape = (scenes, 1 + per_scene, vae.config.latent_channels, side, side)
    key = [scenes, per_scene, size, seed, zlib.crc32(repr(edits).encode()), number_of(vae)]
    latents = cached(cache, key, {"mean": shape, "std": shape}, encode)
    return LatentEdits(edits, latents["mean"], latents["std"])


@contextmanager
def shared_latents(config: Any, folder: Path) -> Iterator[None]:
    """During a training in `folder`: runs beside it that encode the same scenes by the same autoencoder share the
    latents, which take hundreds of MB and many minutes. What does not fit is made anew (`cached`)."""
    if not isinstance(config, TinyDiffusionTraining) or config.data:
        yield
        return
    name = f"latents-{config.sources}x{config.edits}-{config.size}-seed-{config.train.seed}.safetensors"
    own, shared = folder / "latents.safetensors", folder.parent / name
    folder.mkdir(parents=True, exist_ok=True)
    if shared.exists() and not own.exists():
        os.link(shared, own)
    yield
    if own.exists() and shared.exists() and own.samefile(shared):
        own.unlink()
    elif own.exists():
        own.rename(shared)


def scene_text(config: SceneTexts, rng: np.random.Generator) -> str:
    """A text of captions, each one edit after the one before, or of instructions, each with its outcome.

    A language model learns from both what the words mean, and from some of the first what instructions do.
    """
    asks = rng.random() < config.requests
    lines = sample_requests(rng, 2 * config.scenes) if asks else sample_walk(rng, config.scenes, config.asked)
    return "\n".join(lines)


def draw_triplets(n: int, seed: int = 0, *, balanced: bool = False) -> list[Triplet]:
    """n triplets, the same for one seed; balanced: the kinds of edits take turns.

    Otherwise some are rarer: a caption of one thing allows no removal, and most do not mention the weather.
    """
    rng = np.random.default_rng([seed, n])
    return [sample_triplet(rng, EDIT_KINDS[i % len(EDIT_KINDS)] if balanced else None) for i in range(n)]
