"""`minip2p tiny reproduce`: the paper's evidence in the tiny world, as one report."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, arg

from .. import files
from ..arguments import Device, limit_threads, optional
from ..printing import say


@dataclass(frozen=True, kw_only=True)
class Options:
    """Reproduce the paper's figures and tables in the tiny world: Figures 3, 8 and 10, the made pairs, how much better
    an editor of true pairs is, and an ablation table.

    The output folder gets report.md, and the same as one file, report.html: for each claim of the paper what came out,
    and whether its shape agrees, by a rule on the numbers. To resume a stopped run, or to add parts, repeat the
    command.
    """

    output: Annotated[str, arg(metavar="FOLDER")]
    """created if missing"""
    only: Annotated[str | None, optional("PART,PART", "(default: all)")] = None
    """figure3, made, figure8, figure10, ceiling, ablation"""
    size: Literal["full", "quick"] = "full"
    """full: the shipped report's sizes; quick: a look at everything, from which nothing follows"""
    set: Annotated[tuple[str, ...], optional("NAME=VALUE ...")] = ()
    """changes to the sizes, e.g. items=100 seeds=1 training_steps=500"""
    weights: Annotated[str | None, optional("DIR", "(default: the shipped ones)")] = None
    """folder with editor, editor-from-pairs, text2image, clip, classifier and instructions (.safetensors)"""
    rebuild: FlagCreatePairsOff[bool] = False
    """train these models first, from nothing, in OUTPUT/weights (minip2p tiny rebuild)"""
    device: Device = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    """of the models that generate and edit; bfloat16 takes two thirds of the time on a CPU that computes in it"""


def run(options: Options) -> None:
    """Say what it costs, then make what is missing."""
    from ...config import override
    from ...loading import place, shipped
    from ...tinyworld.recipe import rebuild
    from ...tinyworld.reproduce.cost import costs
    from ...tinyworld.reproduce.parts import Setup
    from ...tinyworld.reproduce.run import PARTS, REPORT, reproduce
    from ...tinyworld.reproduce.sizes import SIZES
    from ...training.progress import show_progress
    from ...training.stops import Stopped

    out = Path(options.output)
    files.check_writable(*(out / name for name in REPORT))
    if options.rebuild and options.weights:
        raise ValueError("--rebuild trains the models; leave out --weights, or --rebuild")
    sizes = override(SIZES[options.size], *options.set)
    parts = options.only.split(",") if options.only else list(PARTS)
    device = str(place(options.device, options.dtype)[0])
    weights = Path(options.weights or shipped("editor").parent)
    limit_threads(threads=sizes.threads)
    try:
        if options.rebuild:
            weights = out / "weights"
            rebuild(weights, weights / "runs", show_progress, device)
        setup = Setup(out=out, weights=weights, sizes=sizes, device=device, dtype=options.dtype)
        say(*costs(setup, parts).split("\n"))
        for name in reproduce(setup, parts):
            say(f"{name}: {out / name}")
    except Stopped as stopped:
        say(str(stopped), error=True)
        sys.exit(stopped.status)
    say(*(str(out / name) for name in REPORT))
