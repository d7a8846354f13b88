"""The networks that a denoiser's training begins with: from checkpoints, else random."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from .. import checkpoints
from ..config import Config
from ..loading import shipped, tokenizer_of
from ..models.clip import TextEncoder
from ..models.unet import UNet
from ..models.vae import AutoencoderKL
from ..pipeline import Pipeline
from .config import DiffusionTraining
from .parts import part_config, parts_of, take_part
from .words import tokenizer_for


def starting_from(config: DiffusionTraining, init_from: Sequence[str | Path], edits: bool) -> DiffusionTraining:
    """The config with the shapes of the networks that the files hold, and the schedule that a UNet was trained on.

    edits: the UNet also gets inputs for the picture to edit, where the file's has none (section 3.2).
    """
    model = config.model
    for path in reversed(init_from):  # the first one that has a part wins
        loaded = checkpoints.read(path)
        if isinstance(loaded.config, Config):
            there = {part: getattr(loaded.config, part) for part in ("unet", "vae", "text") if part in loaded.parts}
            schedule = {"schedule": loaded.config.schedule} if "unet" in there else {}
            model = replace(model, **there, **schedule)
    if edits and model.unet.in_channels == model.unet.out_channels:
        model = replace(model, unet=replace(model.unet, in_channels=2 * model.unet.in_channels))
    return replace(config, model=model)


def make_pipeline(
    config: DiffusionTraining, init_from: Sequence[str | Path], device: torch.device | str = "cpu"
) -> Pipeline:
    """Networks with the weights of the first file that has them, the autoencoder's else the shipped one's.

    Raises ValueError for a file that holds none of them, and for shapes other than the config's.
    """
    holder = next((path for path in init_from if part_config(path, "vae")), None) or shipped("editor")
    vae = AutoencoderKL(part_config(holder, "vae"))
    reads = next((checkpoints.read(path) for path in init_from if part_config(path, "text")), None)
    if reads is not None and isinstance(reads.config, Config):
        tokenizer, text_config = tokenizer_of(reads, reads.config.text), reads.config.text
    else:
        tokenizer, text_config = tokenizer_for(config.model.text)
    model = replace(config.model, vae=vae.config, text=text_config)
    torch.manual_seed(config.train.seed)
    unet, text = make_networks(model)
    taken = give_weights(init_from, {"vae": vae, "unet": unet, "text": text})
    if "vae" not in taken:
        take_part(holder, "vae", vae)
    if not config.train_text and "text" not in taken:
        raise ValueError("train_text=False keeps the text encoder as it is, and there is none: give --init-from one")
    vae, unet, text = (network.to(device) for network in (vae, unet, text))
    return Pipeline(unet, vae, text, tokenizer, model)


def make_networks(config: Config) -> tuple[UNet, TextEncoder]:
    """A UNet and a text encoder of random weights, the UNet's output at zero so that training starts from silence."""
    unet = UNet(config.unet)
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(unet.conv_out.bias)
    return unet.to(memory_format=torch.channels_last), TextEncoder(config.text)


def give_weights(paths: Sequence[str | Path], networks: dict[str, nn.Module]) -> set[str]:
    """Give each network the weights of the first file that has them; which ones got some. Each file must have some."""
    taken: set[str] = set()
    for path in paths:
        found = {part for part, network in networks.items() if part not in taken and take_part(path, part, network)}
        if not found and not set(networks) & parts_of(path):
            raise ValueError(f"{path}: holds nothing that is trained here; expected {' or '.join(networks)} weights")
        taken |= found
    return taken
