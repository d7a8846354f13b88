"""`minip2p pairs`: from a table of captions to many scored pairs of pictures, by any number of processes."""

import os
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import FlagCreatePairsOff, arg

from .arguments import Loading, optional
from .painting import load_painter, parse_size
from .work import device_of, share_of_work

if TYPE_CHECKING:
    from ..datagen.pairs import Settings


@dataclass(frozen=True, kw_only=True)
class Options:
    """Paint pairs of pictures from captions by Prompt-to-Prompt and score them by CLIP, as the paper made its data.

    After a stop, even a hard one, the same command goes on. Several processes may work on one folder: under torchrun,
    or with --shard in an array of jobs, each makes its share of the units first and then what the others left. Which
    pairs are kept is said later, by minip2p filter.
    """

    prompts: Annotated[str, arg(metavar="PATH")]
    """a table (.jsonl, .csv) of rows {"input": caption, "edit": instruction, "output": edited caption}, as minip2p
    write makes it; a row's place is its id, unless all rows bring an "id", a whole number"""
    output: Annotated[str, arg(metavar="FOLDER")]
    """made if need be"""
    samples: int = 100
    """pairs of each prompt"""
    share: Annotated[str, arg(metavar="P|LOW,HIGH")] = "0.1,0.9"
    """of the steps that share self-attention: a number, or a uniform draw for each sample; 0 shares nothing"""
    scale: Annotated[str, arg(metavar="FLOAT|LOW,HIGH")] = "7.5,15"
    """how strongly the captions are followed: likewise"""
    steps: int = 100
    """of the sampler: more is slower and finer"""
    sampler: Annotated[str, arg(metavar="NAME")] = "euler_ancestral"
    """ddpm, ddim, euler, euler_ancestral, heun, dpmpp_2m"""
    spacing: Annotated[str, arg(metavar="NAME")] = "linspace"
    """of the noise levels: linspace (the authors'), leading, karras"""
    size: Annotated[str | None, optional("PIXELS", "(default: the model's own)")] = None
    """a side, or WIDTHxHEIGHT"""
    seed: int = 0
    """of the run; a sample's noise is drawn from this, its prompt's id and its number"""
    batch_pairs: int = 8
    """how many share the network's calls; part of the run, for it changes pictures by rounding"""
    threads: Annotated[int | None, optional("INT", "(default: PyTorch's own, or those of the run that goes on)")] = None
    """of the CPU; part of the run for the same reason"""
    unit_samples: Annotated[int | None, optional("INT", "(default: all)")] = None
    """samples in a unit of work: what is made at one place, and what is lost when it is stopped"""
    stop_after: Annotated[int | None, optional("INT", "(default: never)")] = None
    """a prompt ends after the batch in which so many samples pass the thresholds; needs whole prompts as units"""
    image: float = 0.7
    """pictures are written of candidates only, and these are as similar: picture to picture at least so much. A filter
    with stricter thresholds takes from the candidates later, without painting; looser ones cannot be had again"""
    caption: float = 0.2
    """each picture to its caption"""
    direction: float = 0.2
    """the pictures' change to the captions'"""
    apart: FlagCreatePairsOff[bool] = False
    """paint the two pictures from different noise with nothing shared (--share 0), to see what Prompt-to-Prompt does"""
    most: int = 8
    """candidates of a unit, the best by direction: more than the filter keeps (the authors' 4 of a prompt), so that it
    can be stricter. The scores of all samples are kept"""
    format: Literal["folder", "webdataset"] = "folder"
    """folder: as the authors' training code reads it; webdataset: a tar for each unit"""
    picture: Literal["jpg", "png"] = "jpg"
    """png loses nothing; the authors' code wants jpg"""
    shard: Annotated[str | None, optional("I/N", "(default: all)")] = None
    """this process' share, from 1/N to N/N. Under torchrun, that of its ranks together"""
    patience: float = 600.0
    """seconds after which another's unit in work that shows no sign of life is taken over"""
    clip: Annotated[str | None, optional("PATH", "(default: the shipped tiny CLIP)")] = None
    """a CLIP checkpoint, e.g. a folder of openai/clip-vit-large-patch14"""
    loading: Loading = field(default_factory=Loading)


def run(options: Options) -> None:
    """Check everything, load the models, make what is not there yet."""
    settings, shard = settings_of(options), share_of_work(options.shard)
    from tqdm import tqdm

    from ..datagen import pairs
    from ..datagen.units import done_units
    from ..loading import load_clip

    prompts, out = pairs.read_prompts(options.prompts), Path(options.output)
    if out.exists() and not out.is_dir():
        raise ValueError(f"output {out} is a file; expected a folder")
    loading = replace(options.loading, device=device_of(options.loading.device))
    pipe = load_painter(replace(options, loading=loading), settings.size)
    clip = load_clip(options.clip, device=pipe.device)
    second = int(os.environ.get("RANK", 0)) > 0  # under torchrun, one bar for all of them
    rest = 0.1 if sys.stderr.isatty() else 10.0  # seconds between two lines: few in a log
    started, made, good, passed = time.perf_counter(), 0, 0, 0
    with tqdm(unit="unit", mininterval=rest, dynamic_ncols=True, disable=second) as bar:
        making = pairs.make(
            pipe, clip, prompts, settings, out, form=options.format, shard=shard, patience=options.patience,
            on_wait=bar.set_postfix_str,
        )  # fmt: skip
        total, there = len(pairs.work(prompts, settings)), len(done_units(out))
        bar.total, bar.n = total, there
        for unit in making:
            made, good = made + len(unit.scores), good + len(unit.pictures)
            passed += sum(not settings.thresholds.refuses(row) for row in unit.scores)
            rate = made / (time.perf_counter() - started)
            bar.set_postfix_str(f"{rate:.3g} pairs/s, {passed / made:.0%} pass", refresh=False)
            bar.update()
    seconds = time.perf_counter() - started
    who = f"process {shard[0] + 1} of {shard[1]}: " if shard[1] > 1 else ""
    before = f"; {there} of {total} units were there already" if there else ""
    print(
        f"{out}: {who}{made} pairs made in {seconds:.1f} s ({made / seconds:.3g} pairs/s), {passed} pass, "
        f"{good} are candidates{before}"
    )


def settings_of(options: Options) -> "Settings":
    """What the options say of a unit. Raises ValueError for what means nothing, before anything slow."""
    from ..datagen.plan import Settings
    from ..evaluation.metrics import Thresholds

    if not options.patience > 0:
        raise ValueError(f"patience {options.patience:g}: expected seconds, more than 0")
    same = (
        "samples", "unit_samples", "batch_pairs", "steps", "sampler", "spacing", "seed", "stop_after", "apart", "most",
        "picture", "threads",
    )  # fmt: skip
    return Settings(
        **{name: getattr(options, name) for name in same},
        share=parse_range("share", options.share), scale=parse_range("scale", options.scale),
        size=parse_size(options.size),
        thresholds=Thresholds(image=options.image, caption=options.caption, direction=options.direction),
    )  # fmt: skip


def parse_range(name: str, text: str) -> tuple[float, float]:
    """"0.1,0.9" -> its ends; "0.5" -> twice this number."""
    try:
        ends = [float(end) for end in text.split(",")]
    except ValueError:
        ends = []
    if len(ends) not in (1, 2):
        raise ValueError(f"--{name} {text!r}: expected a number, or LOW,HIGH, e.g. 0.1,0.9")
    return ends[0], ends[-1]
