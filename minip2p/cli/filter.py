"""`minip2p filter`: which of the made pairs are kept, by thresholds on the scores that lie beside them."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from . import files
from .arguments import optional

if TYPE_CHECKING:
    import numpy as np

    from ..datagen.filter import Filtered

TITLES = {
    "image": "image: source with target", "caption_0": "caption 0: source with its caption",
    "caption_1": "caption 1: target with its caption", "direction": "direction: the pictures' change with the texts'",
}  # fmt: skip
SHOWN = {"all": ("every sample", "0.82"), "passed": ("passes every rule", "#8db8de"), "kept": ("kept", "#12508f")}
"""layer of a histogram -> its name in the legend, its colour"""
MISSING = "matplotlib, which is missing; pip install matplotlib"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Choose the pairs of a training set, by CLIP's similarities.

    The scores of all samples lie beside the pairs, so no picture is made, and none is deleted: try other thresholds as
    often as you like. What is kept goes to DIR/seeds.json, which readers of the set follow.
    """

    directory: Positional[Annotated[str, arg(metavar="DIR")]]
    """what `minip2p pairs` wrote, finished or not"""
    image: float = 0.75
    """the least similarity of the two pictures (the authors' released script has 0.7)"""
    caption: float = 0.2
    """of each picture and its caption"""
    direction: float = 0.2
    """of the pictures' change and the captions'; -1 switches a rule off"""
    keep: int = 4
    """the best so many of a prompt, by direction; 0: all that pass"""
    output: Annotated[str | None, optional("PATH", "(default: DIR/histogram.png)")] = None
    """how the similarities are spread, as a picture (needs matplotlib)"""


def run(options: Options) -> None:
    """Read all scores, write what is kept, print a table, draw."""
    from tqdm import tqdm

    from ..datagen import filter as sieve
    from ..evaluation.metrics import Thresholds

    thresholds = Thresholds(image=options.image, caption=options.caption, direction=options.direction)
    if options.keep < 0:
        raise ValueError(f"keep {options.keep}: expected how many of a prompt, or 0 for all")
    output = Path(options.output or Path(options.directory) / "histogram.png")
    draws = _can_draw(output, asked=options.output is not None)
    rest = 0.1 if sys.stderr.isatty() else 10.0
    with tqdm(desc="filter", unit="unit", mininterval=rest, leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        result = sieve.run(options.directory, thresholds, options.keep or None, on_unit=show)
    print(sieve.table(result))
    if result.lost:
        print(
            f"minip2p: note: {result.lost} samples would be kept but have no picture, for they were no candidates when "
            "the pairs were made; minip2p pairs with --most larger, or with these thresholds, has them",
            file=sys.stderr,
        )
    if draws:
        files.write(output, histogram(result))
    else:
        print(f"minip2p: note: no histogram is drawn: it needs {MISSING}", file=sys.stderr)


def _can_draw(output: Path, asked: bool) -> bool:
    """Whether there is matplotlib. Raises ValueError where a picture was asked for that cannot be made."""
    if output.suffix.lower() != ".png":
        raise ValueError(f"output {output}: expected a file that ends in .png")
    if asked:
        files.check_writable(output)
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        if asked:
            raise ValueError(f"--output: the histogram needs {MISSING}") from None
        return False
    return True


def histogram(result: "Filtered") -> bytes:
    """How each similarity is spread over the samples, what passes every rule and what is kept; a PNG."""
    from matplotlib.figure import Figure

    from ..datagen.filter import EDGES
    from ..evaluation.metrics import RULES

    figure = Figure(figsize=(10, 6.4), layout="constrained")
    for axis, (rule, limit) in zip(figure.subplots(2, 2).flat, RULES.items(), strict=True):
        least, layers = getattr(result.thresholds, limit), result.histograms[rule]
        for layer, (name, colour) in SHOWN.items():
            axis.stairs(layers[layer], EDGES, fill=True, color=colour, label=name)
        axis.axvline(least, color="#b3261e", linewidth=1.5)
        falls = result.fell[rule] / max(result.samples, 1)
        axis.set_title(f"{TITLES[rule]}\nat least {least:g}: {falls:.0%} fall", fontsize=10, loc="left")
        axis.set_xlim(*_range(layers["all"], EDGES, least))
        axis.set_ylim(bottom=0)
        axis.set_ylabel("samples")
        axis.yaxis.get_major_locator().set_params(integer=True)
        axis.spines[["top", "right"]].set_visible(False)
    handles, names = axis.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    of_prompts = f"from {result.prompts_kept:,} of {result.prompts:,} prompts"
    figure.suptitle(f"{result.kept:,} of {result.samples:,} samples kept, {of_prompts}")
    return files.png(figure)


def _range(counts: list[int], edges: "np.ndarray", least: float) -> tuple[float, float]:
    """What an axis shows: the threshold, and all samples but one in a thousand at either end."""
    total, before, low, high = sum(counts), 0, least, least
    for n, left, right in zip(counts, edges, edges[1:]):
        if n and before < 0.999 * total and before + n > 0.001 * total:
            low, high = min(low, left), max(high, right)
        before += n
    return max(-1, low - 0.03), min(1, high + 0.03)
