"""`minip2p convert`: a checkpoint in another layout."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import FlagCreatePairsOff, arg

from . import files
from .arguments import Source, load

if TYPE_CHECKING:
    from ..pipeline import Pipeline, Writer


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write a checkpoint in another layout, or another precision."""

    output: Annotated[str, arg(metavar="PATH")]
    """a .safetensors file; for diffusers and transformers a folder"""
    layout: Literal["minip2p", "original", "diffusers", "transformers"] = "minip2p"
    """minip2p: one file that brings its config; original: the authors' single file; diffusers: a folder of parts;
    transformers: a writer's folder"""
    dtype: Literal["kept", "float32", "bfloat16", "float16"] = "kept"
    """precision of the weights written"""
    widen: FlagCreatePairsOff[bool] = False
    """make an editor's UNet of a painter's: inputs for the picture, of weight zero, to be trained"""
    source: Source = field(default_factory=Source)


def run(options: Options) -> None:
    """Read, widen if asked for, write."""
    import torch

    import minip2p

    output = Path(options.output)
    if output.exists():
        raise ValueError(f"output {output} exists already; choose another place, or remove it first")
    files.check_writable(output)
    pipe = read(options.source)
    if options.widen:
        if not isinstance(pipe, minip2p.Pipeline):
            raise ValueError("--widen is for painters; these weights are a writer's")
        pipe = widened(pipe)
    minip2p.save(pipe, output, options.layout, dtype=None if options.dtype == "kept" else getattr(torch, options.dtype))
    print(f"{output}: written in the layout {options.layout}")


def read(source: Source) -> "Pipeline | Writer":
    """What the weights hold, ready to be written again."""
    import minip2p

    from .. import checkpoints
    from ..config import LlamaConfig

    if source.weights is None or not isinstance(checkpoints.read(source.weights, ema=source.ema).config, LlamaConfig):
        return load(source, dtype=None, inference=False)
    if source.config:
        raise ValueError("--config: a writer's config cannot be changed")
    return minip2p.load_writer(source.weights, dtype=None)


def widened(pipe: "Pipeline") -> "Pipeline":
    """The pipeline with inputs for a picture, whose weights are zero (InstructPix2Pix, section 3.2)."""
    import torch

    from .. import checkpoints
    from ..config import override
    from ..models.unet import UNet

    channels = 2 * pipe.config.vae.latent_channels
    config = override(pipe.config, f"unet.in_channels={channels}")
    with torch.device("meta"):
        unet = UNet(config.unet)
    checkpoints.assign(unet, checkpoints.widen(pipe.unet.state_dict(), channels), source="the widened UNet")
    return replace(pipe, unet=unet, config=config)
