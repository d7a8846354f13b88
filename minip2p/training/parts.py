"""What a stage leaves for the next: networks in one file of our own layout, with how they came about."""

from pathlib import Path

import torch
from torch import nn

from .. import __version__, checkpoints
from ..config import CLIPConfig, Config, LlamaConfig, ReaderConfig, to_dict
from ..nn.lora import merged
from ..text.bpe import BPE
from ..text.pieces import Pieces

PROJECTION = "projection.weight"


def write_parts(
    path: Path,
    config: Config | CLIPConfig | ReaderConfig | LlamaConfig,
    parts: dict[str, nn.Module],
    tokenizer: BPE | Pieces | None,
    how,
    loose: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write networks, LoRA merged in, and tensors that belong to none, as float16; their provenance is the training."""
    checkpoints.write(
        path, "minip2p", config, {part: merged(network) for part, network in parts.items()} | (loose or {}),
        tokenizer=None if tokenizer is None else tokenizer.to_dict(), dtype=torch.float16,
        provenance={"minip2p": __version__, "torch": torch.__version__, "training": to_dict(how)},
    )  # fmt: skip


def take_part(path: str | Path, part: str, network: nn.Module) -> bool:
    """Give `network`, whose weights are random, those of the file; False where the file has no such part."""
    loaded = checkpoints.read(path)
    if part not in loaded.parts:
        return False
    with torch.no_grad():
        mine, theirs = network.state_dict(), loaded.parts[part]
        if PROJECTION not in mine:  # CLIP's text tower, for a network that reads its states
            theirs = {name: tensor for name, tensor in theirs.items() if name != PROJECTION}
        if sorted(mine) != sorted(theirs) or any(mine[name].shape != theirs[name].shape for name in mine):
            raise ValueError(
                f"{path}: its {part} is not of the shape this training's config asks for; --set can change that"
            )
        network.load_state_dict({name: tensor.to(mine[name].dtype) for name, tensor in theirs.items()})
    return True


def parts_of(path: str | Path) -> set[str]:
    """The names of the networks that a file holds."""
    return set(checkpoints.read(path).parts)


def part_config(path: str | Path, part: str):
    """The config of a part that the file holds, e.g. its autoencoder's; None where it holds none."""
    loaded = checkpoints.read(path)
    return getattr(loaded.config, part) if part in loaded.parts else None
