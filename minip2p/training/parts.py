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
    done: dict | None = None,
    loose: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write networks, LoRA merged in, and tensors that belong to none; their provenance is the training and what is
    done of it.

    As float16; but frozen networks as they are, unless that loses nothing.
    """
    tensors = {part: merged(network) for part, network in parts.items()}
    frozen = {part for part, network in parts.items() if not any(p.requires_grad for p in network.parameters())}
    for part, those in tensors.items():
        tensors[part] = {name: _half(x, exact=part in frozen) for name, x in those.items()}
    checkpoints.write(
        path, "minip2p", config, tensors | {name: x.half() for name, x in (loose or {}).items()},
        tokenizer=None if tokenizer is None else tokenizer.to_dict(),
        provenance={
            "minip2p": __version__, "torch": torch.__version__, "training": to_dict(how), **({"done": done} if done else {})
        },
    )  # fmt: skip


def _half(x: torch.Tensor, exact: bool) -> torch.Tensor:
    half = x.detach().half() if x.is_floating_point() else x
    return x if exact and not torch.equal(half.to(x.dtype), x) else half


def take_part(path: str | Path, part: str, network: nn.Module) -> bool:
    """Give `network`, whose weights are random, those of the file; False where the file has no such part."""
    loaded = checkpoints.read(path)
    if part not in loaded.parts:
        return False
    with torch.no_grad():
        mine, theirs = network.state_dict(), loaded.parts[part]
        if PROJECTION not in mine:  # CLIP's text tower, for a network that reads its states
            theirs = {name: tensor for name, tensor in theirs.items() if name != PROJECTION}
        if part == "unet" and mine["conv_in.weight"].shape[1] == 2 * theirs["conv_in.weight"].shape[1]:
            theirs = checkpoints.widen(theirs, mine["conv_in.weight"].shape[1])
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
