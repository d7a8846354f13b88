"""Architectures from the shapes of an original file's tensors, by Stable Diffusion's conventions.

What shapes cannot tell follows the two families: with 1x1-convolution projections 8 heads (Stable Diffusion 1), with
linear ones heads of 64 (2); CLIP's heads are of 64; norms have 32 groups; latents are scaled by 0.18215.
"""

import math

from torch import Tensor

from ..config import TextConfig, UNetConfig, VAEConfig, VisionConfig


def unet(tensors: dict[str, Tensor]) -> UNetConfig:
    """From CompVis's names without their prefix. Raises KeyError for a name that every such UNet has."""
    levels, attends, n = [[]], [], 1
    while any(f"input_blocks.{n}.0.{what}.weight" in tensors for what in ("op", "in_layers.2")):
        if f"input_blocks.{n}.0.op.weight" in tensors:
            levels.append([])
        else:
            levels[-1].append(n)
        n += 1
    attends = [f"input_blocks.{level[0]}.1.norm.weight" in tensors for level in levels]
    widths = tuple(tensors[f"input_blocks.{level[0]}.0.in_layers.2.weight"].shape[0] for level in levels)
    into = tensors["middle_block.1.proj_in.weight"]
    linear = into.ndim == 2
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
        linear_projection=linear,
    )


def vae(tensors: dict[str, Tensor]) -> VAEConfig:
    """From CompVis's names without their prefix."""
    levels = count(tensors, "encoder.down.{}.block.0.conv1.weight")
    return VAEConfig(
        in_channels=tensors["encoder.conv_in.weight"].shape[1],
        latent_channels=tensors["post_quant_conv.weight"].shape[0],
        widths=tuple(tensors[f"encoder.down.{i}.block.0.conv1.weight"].shape[0] for i in range(levels)),
        blocks=count(tensors, "encoder.down.0.block.{}.conv1.weight"),
    )


def text(tensors: dict[str, Tensor], openai: bool, sd2: bool = False) -> TextConfig:
    """From OpenAI's or transformers' names. `sd2`: Stable Diffusion 2's tower, exact gelu, padded with 0."""
    token = tensors["token_embedding.weight" if openai else "text_model.embeddings.token_embedding.weight"]
    position = tensors["positional_embedding" if openai else "text_model.embeddings.position_embedding.weight"]
    layer = "transformer.resblocks.{}.mlp.c_fc.weight" if openai else "text_model.encoder.layers.{}.mlp.fc1.weight"
    projection = tensors.get("text_projection" if openai else "text_projection.weight")
    words, width = token.shape
    return TextConfig(
        vocab_size=words,
        max_length=position.shape[0],
        width=width,
        layers=count(tensors, layer),
        heads=max(width // 64, 1),
        feed_forward=tensors[layer.format(0)].shape[0],
        activation="gelu" if sd2 else "quick_gelu",
        bos=words - 2,
        eos=words - 1,
        pad=0 if sd2 else words - 1,
        projection=None if projection is None else projection.shape[1 if openai else 0],
    )


def vision(tensors: dict[str, Tensor], openai: bool) -> VisionConfig:
    """From OpenAI's or transformers' names."""
    patch = tensors["visual.conv1.weight" if openai else "vision_model.embeddings.patch_embedding.weight"]
    position = tensors["visual.positional_embedding" if openai else "vision_model.embeddings.position_embedding.weight"]
    layer = (
        "visual.transformer.resblocks.{}.mlp.c_fc.weight" if openai else "vision_model.encoder.layers.{}.mlp.fc1.weight"
    )
    width, size = patch.shape[0], patch.shape[-1]
    projection = tensors["visual.proj"].shape[1] if openai else tensors["visual_projection.weight"].shape[0]
    return VisionConfig(
        image_size=size * math.isqrt(position.shape[0] - 1),
        patch_size=size,
        width=width,
        layers=count(tensors, layer),
        heads=max(width // 64, 1),
        feed_forward=tensors[layer.format(0)].shape[0],
        projection=projection,
    )


def count(tensors: dict[str, Tensor], name: str) -> int:
    """How many of name.format(0), name.format(1), ... there are in a row."""
    n = 0
    while name.format(n) in tensors:
        n += 1
    return n
