"""`minip2p tiny rebuild`: train the shipped weights from nothing."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from .. import files
from ..arguments import Device, Threads, limit_threads, optional
from ..printing import say


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train all shipped weights from nothing. To resume a stopped run, repeat the command.

    Also trains an editor as the paper does, on pairs that the other models generate.
    """

    output: Annotated[str | None, optional("DIR", "(default: weights/tiny)")] = None
    """folder for the weights; with it, runs go to DIR/runs, otherwise to runs/tiny"""
    device: Device = "auto"
    threads: Threads = None


def run(options: Options) -> None:
    """Train, and print where the models are."""
    out = Path(options.output or "weights/tiny")
    files.check_writable(out / "editor.safetensors")
    from ...loading import place
    from ...tinyworld.recipe import SHIPPED, rebuild
    from ...training.progress import show_progress
    from ...training.stops import Stopped

    for path in (out / f"{name}.safetensors" for name in SHIPPED):
        if path.exists() and not is_ours(path):
            raise ValueError(f"output {path} is a file that minip2p did not make; choose another place")
    device, _ = place(options.device, "float32")
    limit_threads(threads=options.threads)
    try:
        models = rebuild(out, out / "runs" if options.output else Path("runs/tiny"), show_progress, device)
    except Stopped as stopped:
        say(str(stopped), error=True)
        sys.exit(stopped.status)
    say(*map(str, models.values()))


def is_ours(path: Path) -> bool:
    """Whether a file holds weights in our own layout."""
    from ... import checkpoints

    try:
        return checkpoints.read(path).layout == "minip2p"
    except ValueError:
        return False
