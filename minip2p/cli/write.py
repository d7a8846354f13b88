"""`minip2p write`: a table of captions to a table of captions, instructions and edited captions."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from . import files
from .arguments import optional
from .work import device_of, share_of_work

if TYPE_CHECKING:
    from ..datagen.blocks import Places, Progress, Summary
    from ..datagen.write import Settings


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write instructions for captions, as the paper's language model did: the first of its two steps to a training set.

    Beside NAME.jsonl are, once all is done, NAME.refused.jsonl (captions that gave too few instructions, and why) and
    NAME.run.json (settings and numbers). After a stop, even a hard one, the same command goes on. Several processes may
    work on one output: under torchrun, or with --shard in an array of jobs, each makes its share first and then what
    the others left.
    """

    captions: Annotated[str, arg(metavar="PATH")]
    """a table: .txt, a caption a line; .jsonl or .csv, rows with "input" or "caption". What says the same but for
    capital letters and .!? at the ends is taken once"""
    output: Annotated[str, arg(metavar="PATH")]
    """a .jsonl of lines {"input", "edit", "output", ...}, which minip2p pairs reads"""
    weights: Annotated[str | None, optional("PATH", "(default: the shipped tiny writer)")] = None
    """a writer: a .safetensors file of train.py writer, or a folder of Llama, TinyLlama or Mistral, fine-tuned to it"""
    temperature: float = 0.7
    """of the sampling; 0 takes the likeliest tokens"""
    top_p: float = 1.0
    """only the likeliest tokens that together have this probability"""
    frequency_penalty: float = 0.1
    """against tokens that were sampled before"""
    max_tokens: int = 256
    """of a completion; one that is longer is refused"""
    retries: int = 3
    """how often a completion that breaks a rule is sampled again, with another seed"""
    per_caption: int = 1
    """instructions of each caption, every one another"""
    refuse: Annotated[str | None, optional("PATH")] = None
    """a .txt of words and phrases, one a line: captions, instructions and edited captions with one of them, as whole
    words in whatever letters, are refused"""
    batch_size: int = 16
    """completions that are sampled together"""
    block: int = 64
    """captions that are kept together, and lost together when a process is stopped"""
    seed: int = 0
    """of the run; an attempt's is drawn from this, its caption and its number"""
    shard: Annotated[str | None, optional("I/N", "(default: all)")] = None
    """this process' share, from 1/N to N/N. Under torchrun, that of its ranks together"""
    patience: float = 600.0
    """seconds after which another's block in work that shows no sign of life is taken over"""
    threads: Annotated[int | None, optional("INT", "(default: PyTorch's own, or those of the run that goes on)")] = None
    """of the CPU; part of the run, for they change what is sampled by rounding"""
    device: Annotated[str, arg(metavar="NAME")] = "auto"
    """auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:1, mps"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """precision of the network"""


def run(options: Options) -> None:
    """Check everything, load the writer, write what is not there yet."""
    from tqdm import tqdm

    from ..data.captions import distinct, read_captions
    from ..datagen.blocks import Places, write
    from ..loading import load_writer

    shard, settings = share_of_work(options.shard), settings_of(options)
    captions, at = read_captions(options.captions), Places(Path(options.output))
    _check_places(options, at)
    writer = load_writer(options.weights, device=device_of(options.device), dtype=options.dtype)
    total = len(distinct(captions))
    if not shard[0]:
        _say(f"{total} captions, and {len(captions) - total} duplicates that are left out")
    was, started = at.output.exists(), time.perf_counter()
    with tqdm(
        total=total, unit="caption", mininterval=0.1 if sys.stderr.isatty() else 10.0,  # few lines in a log
        dynamic_ncols=True, disable=shard[0] > 0 or was,
    ) as bar:  # fmt: skip

        def show(progress: "Progress") -> None:
            rate = f"{progress.accepted / progress.attempts:.0%} accepted" if progress.attempts else ""
            bar.set_postfix_str(progress.waiting or rate, refresh=False)
            bar.update(progress.done - bar.n)

        summary = write(writer, captions, at.output, settings, shard=shard, patience=options.patience, show=show)
    if was:
        _say(f"{at.output} is finished: there is nothing to do")
    if not shard[0]:
        print(told(at, summary, None if was else time.perf_counter() - started))


def settings_of(options: Options) -> "Settings":
    """What the options say of the lines. Raises ValueError for what means nothing, before anything slow."""
    from ..data.captions import read_words
    from ..datagen.write import Settings

    if not options.patience > 0:
        raise ValueError(f"patience {options.patience:g}: expected seconds, more than 0")
    same = (
        "temperature", "top_p", "frequency_penalty", "max_tokens", "retries", "per_caption", "batch_size", "block",
        "seed", "threads",
    )  # fmt: skip
    refuse = () if options.refuse is None else tuple(read_words(options.refuse))
    return Settings(**{name: getattr(options, name) for name in same}, refuse=refuse)


def _check_places(options: Options, at: "Places") -> None:
    for path in (at.output, at.refused, at.run):
        files.check_writable(path)
        if path.resolve() == Path(options.captions).resolve():
            raise ValueError(f"{path} is the captions' file and would be written over; choose another --output")


def told(at: "Places", summary: "Summary", seconds: float | None) -> str:
    """What came of a run, in a few lines."""
    time_taken = "" if seconds is None else f" in {seconds:.1f} s"
    duplicates = f"{summary.duplicates} duplicate captions left out"
    lines = [
        f"{at.output}: {summary.accepted} instructions for {summary.captions - summary.without} of "
        f"{summary.captions} captions{time_taken}",
        f"  {summary.attempts} completions, {summary.rate:.1%} accepted; {duplicates}",
        *(f"  refused {n}: {reason}" for reason, n in summary.refused.items()),
    ]
    return "\n".join([*lines, f"  {at.refused.name} tells of which captions"] if summary.refused else lines)


def _say(text: str) -> None:
    print(f"minip2p: {text}", file=sys.stderr)
