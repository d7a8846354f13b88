"""Training of CLIP: the symmetric contrastive loss (Radford et al. 2021, figure 3)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..config import TextConfig
from ..models.clip import CLIP
from ..text.bpe import BPE
from .build import Files, build, load_weights
from .checkpoint_parts import write_parts
from .config import HELD_OUT, CLIPTraining

CaptionedImages = Callable[[np.random.Generator, int], tuple[Tensor, list[str]]]
"""a data set: (generator, n) -> images (n, 3, y, x) in [0, 1] and their captions; it pickles"""


@dataclass(frozen=True)
class CLIPData:
    """New images and captions for each step."""

    images: CaptionedImages
    batch_size: int
    seed: int

    def batch(self, step: int, rows: range | None = None) -> tuple[Tensor, list[str]]:
        return self.images(np.random.default_rng([self.seed, step]), self.batch_size)


class CLIPStage:
    """Each image learns to retrieve its caption from those of its batch, and each caption its image."""

    def __init__(
        self, config: CLIPTraining, images: CaptionedImages, tokenizer: BPE, text: TextConfig, init_from: Files = ()
    ):
        """text: the config of the text tower, with the tokenizer's size."""
        self.config, self.model = config, replace(config.model, text=text)
        self.marks: dict[str, str] = {}
        self.data = CLIPData(images, config.train.batch_size, config.train.seed)
        self.module: CLIP = build({"clip": self.model}, config.train.seed)["clip"]
        self.module.tokenizer = tokenizer
        load_weights({"text": self.module.text, "vision": self.module.vision}, init_from)

    def loss(self, module: CLIP, batch: tuple[Tensor, list[str]]) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self.logits(module, batch)
        own = torch.arange(len(logits), device=logits.device)
        loss = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
        return loss, {"batch_accuracy": (logits.argmax(-1) == own).float().mean()}

    def logits(self, module: CLIP, batch: tuple[Tensor, list[str]]) -> Tensor:
        """(b, b): every image of a batch against every caption of it."""
        images, captions = batch
        device = module.logit_scale.device
        return module(images.to(device), module.tokenizer(captions).to(device))

    def export(self, module: CLIP, path: Path, done: dict[str, int] | None = None) -> None:
        parts = {"text": module.text, "vision": module.vision, "logit_scale": module.logit_scale}
        write_parts(path, self.model, parts, module.tokenizer, self.config, done)

    def preview(self, module: CLIP, path: Path) -> dict[str, float]:
        """Draws held-out images; the fraction of them that retrieve their own caption."""
        from torchvision.utils import save_image  # here, since importing it takes 3 s

        images, captions = self.data.batch(HELD_OUT)
        save_image(images[:32], path, nrow=16)
        logits = self.logits(module, (images, captions))
        return {"accuracy": float((logits.argmax(-1).cpu() == torch.arange(len(logits))).float().mean())}
