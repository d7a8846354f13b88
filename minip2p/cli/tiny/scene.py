"""`minip2p tiny scene`: images of the tiny world."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, arg

from .. import files, metadata


@dataclass(frozen=True, kw_only=True)
class Options:
    """Draw a random scene of the tiny world and print its caption."""

    output: Annotated[str, arg(metavar="PATH")]
    """the image file"""
    seed: int = 0
    """random seed of the scene"""
    size: int = 256
    """side of the image in pixels"""
    edit: FlagCreatePairsOff[bool] = False
    """draw the source and the target of an edit side by side, and print the instruction"""


def run(options: Options) -> None:
    """Sample, draw, write, print."""
    import numpy as np
    from PIL import Image

    from ...tinyworld.scenes import render, sample_edit, sample_scene

    if options.seed < 0:
        raise ValueError(f"seed {options.seed}: expected 0 or more")
    if not 16 <= options.size <= 4096:
        raise ValueError(f"size {options.size}: expected 16 to 4096 pixels")
    path = Path(options.output)
    metadata.check_output(path)
    rng = np.random.default_rng(options.seed)
    scene = sample_scene(rng)
    image, lines = render(scene, options.size), [scene.caption]
    if options.edit:
        edit = sample_edit(rng, scene)
        pair = Image.new("RGB", (2 * options.size, options.size))
        pair.paste(image, (0, 0))
        pair.paste(render(edit.target, options.size), (options.size, 0))
        image, lines = pair, [*lines, edit.instruction, edit.target.caption]
    files.write(
        path, metadata.encode(image, path, {"scene": scene.caption, "seed": options.seed, "size": options.size})
    )
    print("\n".join([*lines, str(path)]))
