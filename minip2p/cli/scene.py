"""`minip2p scene`: pictures of the tiny world."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, arg

from . import files, recipe
from .jobs import check_number


@dataclass(frozen=True, kw_only=True)
class Options:
    """Draw a picture of the tiny world and print its caption."""

    output: Annotated[str, arg(metavar="PATH")]
    """the picture's file"""
    seed: int = 0
    """another number is another scene"""
    size: int = 256
    """pixels of a side"""
    edit: FlagCreatePairsOff[bool] = False
    """draw source and target of an edit side by side, and print the instruction"""


def run(options: Options) -> None:
    """Draw and write it."""
    import numpy as np
    from PIL import Image

    from ..data.scenes import render, sample_edit, sample_scene

    check_number("seed", options.seed)
    if not 16 <= options.size <= 4096:
        raise ValueError(f"size {options.size}: expected 16 to 4096 pixels")
    path = Path(options.output)
    recipe.check_format(path)
    files.check_writable(path)
    rng = np.random.default_rng(options.seed)
    scene = sample_scene(rng)
    image, told = render(scene, options.size), [scene.caption]
    if options.edit:
        edit = sample_edit(rng, scene)
        pair = Image.new("RGB", (2 * options.size, options.size))
        pair.paste(image, (0, 0))
        pair.paste(render(edit.target, options.size), (options.size, 0))
        image, told = pair, [*told, edit.instruction, edit.target.caption]
    files.write(path, recipe.encode(image, path, {"scene": scene.caption, "seed": options.seed, "size": options.size}))
    print("\n".join([*told, str(path)]))
