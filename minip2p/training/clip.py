"""CLIP's training, on renderings of the tiny world and their captions: the symmetric contrastive loss (section 2.3)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.utils import save_image

from ..data.scenes import sample_edit
from ..models.clip import CLIP
from .config import HELD_OUT, CLIPTraining
from .parts import write_parts
from .vae import pixels
from .words import tokenizer_for


class CLIPStage:
    """Each batch holds both sides of edits, so that a picture's closest rivals differ from it by one change."""

    def __init__(self, config: CLIPTraining):
        torch.manual_seed(config.train.seed)
        tokenizer, text = tokenizer_for(config.model.text)
        self.config, self.model = config, replace(config.model, text=text)
        self.module = CLIP(self.model, tokenizer)
        for table in (self.module.text.token, self.module.text.position, self.module.vision.position):
            nn.init.normal_(table.weight, std=0.02)

    def batch(self, step: int, rows: range | None = None) -> tuple[Tensor, list[str]]:
        """Pictures in [0, 1] and their captions."""
        rng = np.random.default_rng([self.config.train.seed, step])
        edits = [sample_edit(rng) for _ in range(self.config.train.batch_size // 2)]
        scenes = [scene for edit in edits for scene in (edit.source, edit.target)]
        return pixels(scenes, self.config.size) / 2 + 0.5, [scene.caption for scene in scenes]

    def loss(self, module: CLIP, batch: tuple[Tensor, list[str]]) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self.logits(module, batch)
        own = torch.arange(len(logits), device=logits.device)
        loss = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
        return loss, {"batch_accuracy": (logits.argmax(-1) == own).float().mean()}

    def logits(self, module: CLIP, batch: tuple[Tensor, list[str]]) -> Tensor:
        """(b, b): every picture of a batch against every caption of it."""
        images, captions = batch
        device = module.logit_scale.device
        return module(images.to(device), module.tokenizer(captions).to(device))

    def export(self, module: CLIP, path: Path, done: dict[str, int] | None = None) -> None:
        parts = {name: getattr(module, name) for name in ("text", "vision")}
        write_parts(
            path, self.model, parts, module.tokenizer, self.config, done,
            loose={"logit_scale": module.logit_scale.detach()},
        )  # fmt: skip

    def preview(self, module: CLIP, path: Path) -> dict[str, float]:
        """Held-out pictures; of 128 of them and their captions, how many pictures find their own."""
        images, captions = self.batch(HELD_OUT)
        save_image(images[:32], path, nrow=16)
        logits = self.logits(module, (images, captions))
        return {"accuracy": float((logits.argmax(-1).cpu() == torch.arange(len(logits))).float().mean())}
