"""Edits of the tiny world, rendered and encoded once, before the editor's training."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from ..checkpoints.files import write_safetensors
from ..data.scenes import Edit, Scene, sample_edit, sample_scene
from ..models.vae import AutoencoderKL
from .vae import pixels

BACKWARDS = {"add": "remove", "remove": "add"}
"""an edit from target to source is of the same kind, but for these"""


@dataclass(frozen=True)
class LatentEdits:
    """`sources` scenes with `per_source` edits each, and the posterior of every picture.

    mean, std (sources, 1 + per_source, c, y, x) float16, the source first. Each edit serves in both directions, so
    there are 2 * sources * per_source of them.
    """

    edits: list[list[Edit]]
    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        return 2 * len(self.edits) * len(self.edits[0])

    def __getitem__(self, i: int) -> tuple[Edit, Tensor, tuple[Tensor, Tensor]]:
        """Edit number i; the mode of its source; mean and standard deviation of its target: all in the VAE's unit."""
        i, backwards = divmod(i, 2)
        row, column = divmod(i, len(self.edits[0]))
        edit, source, target = self.edits[row][column], 0, 1 + column
        if backwards:
            kind = BACKWARDS.get(edit.kind, edit.kind)
            edit, source, target = replace(edit, kind=kind, source=edit.target, target=edit.source), target, source
        return edit, self.mean[row, source].float(), (self.mean[row, target].float(), self.std[row, target].float())


def draw_edits(sources: int, per_source: int, seed: int) -> list[list[Edit]]:
    """The scenes and their edits: row i depends on (seed, i) alone."""

    def row(i: int) -> list[Edit]:
        rng = np.random.default_rng([seed, i, 1])
        scene = sample_scene(rng)
        return [sample_edit(rng, scene) for _ in range(per_source)]

    return [row(i) for i in tqdm(range(sources), desc="drawing edits", unit="scene")]


@torch.inference_mode()
def encode_edits(
    vae: AutoencoderKL, cache: Path, *, sources: int, per_source: int, size: int, seed: int
) -> LatentEdits:
    """Draw, render and encode, or read what an earlier call with the same numbers and weights left in `cache`."""
    edits = draw_edits(sources, per_source, seed)
    weights = torch.cat([p.detach().flatten()[:64] for p in vae.encoder.parameters()]).double().sum().item()
    key = torch.tensor([sources, per_source, size, seed, weights], dtype=torch.float64)
    if cache.exists():
        kept = load_file(cache)
        if torch.equal(kept["key"], key):
            return LatentEdits(edits, kept["mean"], kept["std"])
    parameter = next(vae.parameters())
    scenes: list[Scene] = [scene for row in edits for scene in (row[0].source, *(edit.target for edit in row))]
    means, stds = [], []
    for i in tqdm(range(0, len(scenes), 60), desc="encoding edits", unit="batch"):
        x = pixels(scenes[i : i + 60], size).to(parameter.device, memory_format=torch.channels_last)
        posterior = vae.encode(x)
        means.append(posterior.mean.half().cpu().contiguous())
        stds.append((0.5 * posterior.logvar).exp().half().cpu().contiguous())
    mean, std = (torch.cat(t).unflatten(0, (sources, 1 + per_source)) for t in (means, stds))
    cache.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(cache, {"key": key, "mean": mean, "std": std}, {})
    return LatentEdits(edits, mean, std)
