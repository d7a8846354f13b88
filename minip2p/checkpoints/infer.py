"""UNets and autoencoders from the shapes of an original file's tensors, by Stable Diffusion's conventions.

What shapes cannot say follows the two families: with 1x1-convolution projections 8 heads (Stable Diffusion 1), with
linear ones heads of 64 (2); norms have 32 groups, or as many as divide narrow levels; latents are scaled by 0.18215.
Names are given without their prefix; a missing one raises KeyError or IndexError.
"""

import math

from torch import Tensor

from ..config import UNetConfig, VAEConfig

Tensors = dict[str, Tensor]


def unet(tensors: Tensors) -> UNetConfig:
    """From CompVis's names."""
    levels, n = [[]], 1
    while any(f"input_blocks.{n}.0.{what}.weight" in tensors for what in ("op", "in_layers.2")):
        if f"input_blocks.{n}.0.op.weight" in tensors:
            levels.append([])
        else:
            levels[-1].append(n)
        n += 1
    attends = [f"input_blocks.{level[0]}.1.norm.weight" in tensors for level in levels]
    widths = tuple(tensors[f"input_blocks.{level[0]}.0.in_layers.2.weight"].shape[0] for level in levels)
    linear = tensors["middle_block.1.proj_in.weight"].ndim == 2
    time = tensors["middle_block.0.emb_layers.1.weight"]
    return UNetConfig(
        in_channels=tensors["input_blocks.0.0.weight"].shape[1],
        out_channels=tensors["out.2.weight"].shape[0],
        widths=widths,
        blocks=len(levels[0]),
        attention=tuple("full" if yes else "none" for yes in attends),
        depth=count(tensors, "middle_block.1.transformer_blocks.{}.norm1.weight"),
        heads=None if linear else 8,
        head_size=64 if linear else None,
        text_width=tensors["middle_block.1.transformer_blocks.0.attn2.to_k.weight"].shape[1],
        time_injection="scale_shift" if time.shape[0] == 2 * widths[-1] else "add",
        norm_groups=math.gcd(32, *widths),
        linear_projection=linear,
    )


def vae(tensors: Tensors, block: str = "encoder.down.{}.block.{}.conv1.weight") -> VAEConfig:
    """From CompVis's names; from diffusers' with their name of `block`, a level's convolution."""
    levels = count(tensors, block.format("{}", 0))
    widths = tuple(tensors[block.format(i, 0)].shape[0] for i in range(levels))
    return VAEConfig(
        in_channels=tensors["encoder.conv_in.weight"].shape[1],
        latent_channels=tensors["post_quant_conv.weight"].shape[0],
        widths=widths,
        blocks=count(tensors, block.format(0, "{}")),
        norm_groups=math.gcd(32, *widths),
    )


def count(tensors: Tensors, name: str) -> int:
    """How many of name.format(0), name.format(1), ... there are in a row."""
    n = 0
    while name.format(n) in tensors:
        n += 1
    return n
