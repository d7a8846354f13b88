"""Networks to measure: with random weights that keep signals alive, and diffusers' with the same weights as ours."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from minip2p import checkpoints
from minip2p.checkpoints.tables import links, pull, unet_rows
from minip2p.config import UNetConfig
from minip2p.models.unet import UNet


@torch.no_grad()
def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every weight random, drawn where it lies, so that no layer is zero and no signal dies or blows up."""
    generators: dict[torch.device, torch.Generator] = {}
    for name, w in module.named_parameters():
        generator = generators.setdefault(w.device, torch.Generator(w.device).manual_seed(seed))
        if w.dim() > 1:
            w.normal_(std=w[0].numel() ** -0.5, generator=generator)
        else:
            w.normal_(mean=float("norm" in name and name.endswith("weight")), std=0.1, generator=generator)
    return module.eval()


def diffusers_unet(c: UNetConfig) -> nn.Module:
    """diffusers' UNet of this shape, with its own random weights."""
    from diffusers import UNet2DConditionModel

    full = [word == "full" for word in c.attention]
    return UNet2DConditionModel(
        in_channels=c.in_channels,
        out_channels=c.out_channels,
        block_out_channels=c.widths,
        layers_per_block=c.blocks,
        down_block_types=["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in full],
        up_block_types=["CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(full)],
        attention_head_dim=c.heads,
        cross_attention_dim=c.text_width,
        norm_num_groups=c.norm_groups,
    )


def our_unet(theirs: nn.Module, c: UNetConfig) -> UNet:
    """Our UNet with a copy of these weights."""
    with checkpoints.on_meta():
        ours = UNet(c)
    tensors, names, _ = pull({name: x.clone() for name, x in theirs.state_dict().items()}, links(unet_rows(c), 2))
    checkpoints.assign(ours, tensors, source="diffusers' UNet", names=names)
    return ours.to(memory_format=torch.channels_last)


def diffusers_editor(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """diffusers' pipeline of a folder that we wrote, in channels-last memory as ours."""
    from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionInstructPix2PixPipeline
    from diffusers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    pipe = StableDiffusionInstructPix2PixPipeline.from_pretrained(folder, safety_checker=None).to(dtype)
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing="linspace")
    pipe.set_progress_bar_config(disable=True)
    for network in (pipe.unet, pipe.vae):
        network.to(memory_format=torch.channels_last)
    return pipe.to(device)
