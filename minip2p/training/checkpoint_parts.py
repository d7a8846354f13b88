"""What a stage exports: networks in one file of our own layout, with the settings of their training."""

from pathlib import Path

import torch
from torch import Tensor, nn

from .. import __version__, checkpoints
from ..config import Config, to_dict
from ..nn.lora import halves, merged
from ..text.bpe import BPE
from ..text.pieces import Pieces
from .config import DiffusionTraining


def write_parts(
    path: Path,
    config,
    parts: dict[str, nn.Module | Tensor],
    tokenizer: BPE | Pieces | None,
    training,
    done: dict | None = None,
) -> None:
    """Write networks (LoRA merged in) and single tensors as float16, where they fit it; frozen networks only where
    that is exact.

    config: of the model. training: its training's config, part of the file's provenance with what is `done` of it.
    """
    tensors = {}
    for part, each in parts.items():
        if isinstance(each, Tensor):
            tensors[part] = _half(each, exact=False)
        else:
            frozen = not any(weight.requires_grad for weight in each.parameters())
            tensors[part] = {name: _half(x, exact=frozen) for name, x in merged(each).items()}
    provenance = {"minip2p": __version__, "torch": torch.__version__, "training": to_dict(training)}
    provenance |= {"done": done} if done else {}
    checkpoints.write(path, "minip2p", config, tensors, tokenizer=tokenizer, provenance=provenance)


def write_trained_lora(
    path: Path, config: Config, unet: nn.Module, training: DiffusionTraining, done: dict[str, int | str]
) -> None:
    """The LoRA of a denoiser by itself, as diffusers reads it; the file names what was trained whole beside it."""
    whole = [*training.lora_also, *(["the text encoder"] if training.train_text else [])]
    checkpoints.write_lora(path, config, halves(unet), whole, {"training": to_dict(training), "done": done})


def _half(x: Tensor, exact: bool) -> Tensor:
    half = x.detach().half() if x.is_floating_point() else x
    kept = torch.equal(half.to(x.dtype), x) if exact else half.isfinite().all()  # above 65504 a half is infinite
    return half if kept else x
