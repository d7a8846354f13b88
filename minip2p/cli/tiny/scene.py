"""`minip2p tiny scene`: images of the tiny world."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, arg

from .. import figures, files, metadata
from ..printing import say


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
    overwrite: FlagCreatePairsOff[bool] = False
    """replace a file that minip2p did not make"""


def run(options: Options) -> None:
    """Sample, draw, write, print."""
    import numpy as np

    from ...tinyworld.scenes import render, sample_edit, sample_scene

    if options.seed < 0:
        raise ValueError(f"seed {options.seed}: expected 0 or more")
    path = Path(options.output)
    metadata.check_outputs(path, overwrite=options.overwrite)
    rng = np.random.default_rng(options.seed)
    scene = sample_scene(rng)
    image, lines = render(scene, options.size), [scene.caption]
    if options.edit:
        edit = sample_edit(rng, scene)
        image = figures.side_by_side(image, render(edit.target, options.size))
        lines += [edit.instruction, edit.target.caption]
    m = {"scene": scene.caption, "seed": options.seed, "size": options.size}
    files.write_file(path, metadata.encode(image, path, m))
    say(*lines, str(path))
