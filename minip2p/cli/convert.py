"""`minip2p convert`: a checkpoint in another layout."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, arg

import minip2p

from . import files
from .arguments import Model
from .printing import say


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write a checkpoint in another layout, in another precision, or with LoRA files merged into it."""

    output: Annotated[str, arg(metavar="PATH")]
    """a .safetensors file; a folder for the layouts diffusers and transformers"""
    layout: Literal["minip2p", "original", "diffusers", "transformers"] = "minip2p"
    """minip2p: one file with its config; original: the authors' single file; diffusers: a folder of parts;
    transformers: the folder of a language model"""
    dtype: Literal["kept", "float32", "bfloat16", "float16"] = "kept"
    """precision of the written weights"""
    averages: bool = True
    """original: write the UNet's weights also as averages (EMA), which the authors' code runs and nothing else; a
    .safetensors grows by the size of the UNet, a .ckpt does not"""
    widen: FlagCreatePairsOff[bool] = False
    """add inputs for an image to a text-to-image model, with weights of zero, to train it as an editor"""
    source: Model = field(default_factory=Model)


def run(options: Options) -> None:
    """Read, widen, write."""
    import torch

    output = Path(options.output)
    if output.exists():
        raise ValueError(f"output {output} exists already; choose another place or remove it")
    files.check_writable(output)
    pipe = read(options.source)
    if options.widen:
        if not isinstance(pipe, minip2p.Pipeline):
            raise ValueError("--widen is for text-to-image models; these weights are a language model's")
        pipe = widened(pipe)
    dtype = None if options.dtype == "kept" else getattr(torch, options.dtype)
    minip2p.save(pipe, output, options.layout, dtype=dtype, averages=options.averages)
    say(f"{output}: written in the layout {options.layout}")


def read(source: Model) -> "minip2p.Pipeline | minip2p.LanguageModel":
    """The model that the weights hold."""
    from .. import checkpoints
    from ..config import LlamaConfig

    if source.weights is None or not isinstance(checkpoints.read(source.weights, ema=source.ema).config, LlamaConfig):
        return source.load(dtype=None, inference=False)
    source.require_unchanged()
    return minip2p.load_language_model(source.weights, dtype=None)


def widened(pipe: "minip2p.Pipeline") -> "minip2p.Pipeline":
    """The pipeline with additional inputs for an image, with weights of zero (InstructPix2Pix, section 3.2)."""

    from .. import checkpoints
    from ..models.denoisers import build_denoiser

    pipe.require("text-to-image")
    channels = 2 * pipe.config.vae.latent_channels
    config = pipe.config.with_denoiser(in_channels=channels)
    with checkpoints.on_meta():
        unet = build_denoiser(config)
    checkpoints.assign(unet, checkpoints.widen(pipe.unet.state_dict(), channels), source="the widened denoiser")
    return replace(pipe, unet=unet, config=config)
