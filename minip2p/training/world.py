"""The denoisers of the tiny world, whose edits are drawn and whose results can be judged: editor and painter."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.utils import save_image

from ..data.scenes import Edit, judge, loose_captions, reword, sample_edit
from ..diffusion import two_way
from ..pipeline import Pipeline
from .config import HELD_OUT, DiffusionTraining
from .diffusion import DiffusionStage, edit_tensors, run_quickly
from .examples import Example, Mixture, World
from .latents import LatentEdits
from .vae import pixels


class WorldStage(DiffusionStage):
    """Edits that were rendered and encoded before, in changing words."""

    def __init__(self, config: DiffusionTraining, pipe: Pipeline, edits: LatentEdits):
        seed = config.train.seed
        rng = np.random.default_rng([seed, HELD_OUT])
        self.shown = [sample_edit(rng) for _ in range(64)]
        self.sources, self.targets = (
            pixels([getattr(edit, name) for edit in self.shown], config.size) for name in ("source", "target")
        )
        pairs = torch.stack([self.sources, self.targets], dim=1)
        texts = [self.asked(edit) for edit in self.shown]
        held_out = [Example(text=t, pixels=x) for t, x in zip(texts, pairs[: config.held_out], strict=False)]
        mixture = Mixture(sets=[World(edits, self.text)], shares=[1.0], seed=seed)
        super().__init__(config, pipe, mixture, held_out, f"the tiny world, seed {seed}")

    def text(self, edit: Edit, rng: np.random.Generator, step: int) -> str:
        """What the target of an edit is to be made from, at a step of the training."""
        raise NotImplementedError

    def asked(self, edit: Edit) -> str:
        """The same where it is measured."""
        raise NotImplementedError

    def results(self, pipe: Pipeline) -> Tensor:
        """What the model makes of the shown edits: pictures (b, 3, y, x) in [0, 1]."""
        raise NotImplementedError

    def preview(self, module: nn.ModuleDict, path: Path) -> dict[str, float]:
        """Held-out sources above results above truths; how many of 64 results are right, and their median PSNR."""
        results = self.results(self.pipeline(module)).cpu()
        rng = np.random.default_rng([self.config.train.seed, HELD_OUT, 1])
        judged = [judge(x, edit, rng) for x, edit in zip(results, self.shown, strict=True)]
        sources, targets = self.sources / 2 + 0.5, self.targets / 2 + 0.5
        save_image(torch.cat([sources[:16], results[:16], targets[:16]]), path, nrow=16)
        figures = {"right": float(np.mean([r for r, _ in judged])), "psnr": float(np.median([p for _, p in judged]))}
        return super().preview(module, path) | figures


class EditorStage(WorldStage):
    """An edit's target from its source and its instruction."""

    def text(self, edit: Edit, rng: np.random.Generator, step: int) -> str:
        return reword(edit, rng).instruction

    def asked(self, edit: Edit) -> str:
        return edit.instruction

    def results(self, pipe: Pipeline) -> Tensor:
        return edit_tensors(pipe, self.sources / 2 + 0.5, [edit.instruction for edit in self.shown])


class PainterStage(WorldStage):
    """A picture from its caption, which may leave sizes, places and weather open, so that noise has a say.

    For the first steps captions tell everything: drawing is learnt sooner than choosing. Edits serve as pictures that
    differ by one change, whose place counts more.
    """

    def text(self, edit: Edit, rng: np.random.Generator, step: int) -> str:
        if step < self.config.told_in_full:
            return edit.target.caption
        return loose_captions(edit.target, rng=rng, details=None)[0]

    def asked(self, edit: Edit) -> str:
        return edit.target.caption

    def results(self, pipe: Pipeline) -> Tensor:
        text, null = pipe.encode_text([edit.target.caption for edit in self.shown]), pipe.encode_text([""])
        size: Sequence[int] = self.latent_shape[1:]
        return run_quickly(pipe, two_way(pipe.config.sampling.text_scale, text, null), range(len(self.shown)), size)
