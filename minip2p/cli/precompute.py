"""`minip2p precompute`: a set of pairs as latents, which training reads in place of pictures."""

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from .arguments import Loading, optional
from .work import device_of, share_of_work


@dataclass(frozen=True, kw_only=True)
class Options:
    """Encode a set of pairs once, in several crops and mirrored, so that training need not: train.py editor reads the
    result by --data. After a stop, the same command goes on. Several processes may work on one folder (torchrun, or
    --shard in an array of jobs).
    """

    data: Annotated[str, arg(metavar="PATH")]
    """pairs in any layout that minip2p check reads"""
    output: Annotated[str, arg(metavar="FOLDER")]
    """made if need be"""
    preset: Literal["tiny", "sd15"] = "tiny"
    """of train.py editor: it gives size, resize and whether to mirror, unless said otherwise"""
    size: Annotated[int | None, optional("PIXELS", "(default: the preset's)")] = None
    """a side"""
    resize: Annotated[tuple[int, int] | None, arg(metavar="LOW HIGH", help_behavior_hint="(default: the preset's)")] = None
    """the shorter side before a square is cut out: drawn between these"""
    flip: Annotated[Literal["yes", "no"] | None, optional("{yes,no}", "(default: the preset's)")] = None
    """encode every crop mirrored, too"""
    crops: int = 4
    """random crops of each pair"""
    seed: int = 0
    """of the crops"""
    batch_size: int = 16
    """pictures that are encoded together"""
    unit: int = 64
    """pairs in a tar"""
    skip_broken: bool = False
    """leave out what cannot be read, and name it"""
    shard: Annotated[str | None, optional("I/N", "(default: all)")] = None
    """this process' share, from 1/N to N/N. Under torchrun, that of its ranks together"""
    patience: float = 600.0
    """seconds after which another's unit in work that shows no sign of life is taken over"""
    loading: Loading = field(default_factory=Loading)
    """whose autoencoder: the weights that the training starts from"""


def run(options: Options) -> None:
    """Check everything, load the autoencoder, make what is not there yet."""
    from tqdm import tqdm

    from ..data.edits import open_edits
    from ..datagen.precompute import Settings, precompute
    from ..training.pairs import read_groups
    from ..training.presets import PRESETS
    from .arguments import load

    shard, preset = share_of_work(options.shard), PRESETS["editor"][options.preset]
    settings = Settings(
        size=preset.size if options.size is None else options.size, resize=options.resize or preset.resize,
        crops=options.crops, seed=options.seed,
        flips=preset.flip > 0 if options.flip is None else options.flip == "yes", unit=options.unit,
        batch=options.batch_size,
    )  # fmt: skip
    if not options.patience > 0:
        raise ValueError(f"patience {options.patience:g}: expected seconds, more than 0")
    if options.loading.dtype != "float32":
        raise ValueError(f"dtype {options.loading.dtype}: the autoencoder is run in float32, as training runs it")
    out = Path(options.output)
    if out.exists() and not out.is_dir():
        raise ValueError(f"output {out} is a file; expected a folder")
    if out.resolve() == Path(options.data).resolve():
        raise ValueError(f"output {out}: expected another folder than that of the pairs")
    edits = open_edits(options.data)
    mark = read_groups(edits, options.skip_broken)[1]
    device = device_of(options.loading.device)
    pipe = load(options.loading, device=device, dtype="float32", inference=False)
    rest = 0.1 if sys.stderr.isatty() else 10.0  # seconds between two lines: few in a log
    started, pairs, broken = time.perf_counter(), 0, []
    making = precompute(
        pipe.vae, edits, settings, out, data=mark, skip_broken=options.skip_broken, shard=shard,
        patience=options.patience, on_wait=lambda text: bar.set_postfix_str(text),
    )  # fmt: skip
    with tqdm(unit="pair", mininterval=rest, dynamic_ncols=True, total=len(edits)) as bar:
        for made in making:
            pairs += made.pairs
            broken += made.broken
            bar.update(made.pairs + len(made.broken))
            for each in made.broken:
                bar.write(f"left out: {each}")
    seconds = time.perf_counter() - started
    left = f"; {len(broken)} left out" if broken else ""
    print(
        f"{out}: {pairs} pairs in {settings.variants} variants in {seconds:.1f} s "
        f"({2 * pairs * settings.variants / seconds:.3g} pictures/s){left}"
    )
