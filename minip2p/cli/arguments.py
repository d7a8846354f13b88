"""Options from the words of a command, and what several verbs share: the weights and how they are loaded."""

import ast
import contextlib
import gc
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, UseAppendAction, arg

from .printing import note as print_note
from .printing import plain

if TYPE_CHECKING:
    from torch import nn

    from ..pipeline import Pipeline, Progress

T = TypeVar("T")
SMALL = 100e6
"""parameters, below which networks run on one CPU thread"""
OWN = "(default: the model's own)"
WEIGHT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
NUMBER = re.compile(r"Error parsing (--\S+):.*'([^']*)'")  # tyro's message; the value is quoted last


def optional(metavar: str, default: str = "") -> Any:
    """How the help shows an option that may be left out."""
    return arg(metavar=metavar, help_behavior_hint=default)


def keys_of(module: str, name: str) -> str:
    """The keys of a dict of the package as a list for help, read from its source: help need not wait for torch."""
    tree = ast.parse(Path(__file__).parents[1].joinpath(module).read_text(encoding="utf-8"))
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return ", ".join(ast.literal_eval(key) for key in node.value.keys)
    raise LookupError(f"{module} defines no dict {name}")


Device = Annotated[str, arg(metavar="NAME", help="auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:1, mps")]
DType = Annotated[
    Literal["auto", "float32", "tf32", "bfloat16", "float16"],
    arg(
        help="precision of the networks; auto: float32, but on CUDA the half precision in which the card computes; "
        "tf32: float32 with faster, rougher products on CUDA GPUs"
    ),
]
Threads = Annotated[
    int | None,
    arg(
        metavar="N",
        help="CPU threads",
        help_behavior_hint="(default: OMP_NUM_THREADS; otherwise 1 for small networks, all free cores for large ones)",
    ),
]
Sampler = Annotated[str, arg(metavar="NAME", help=keys_of("diffusion/samplers.py", "SAMPLERS"))]
Spacing = Annotated[str, arg(metavar="NAME", help=f"of noise levels: {keys_of('diffusion/schedule.py', 'SPACINGS')}")]
ColumnNames = Annotated[
    tuple[str, ...],
    arg(
        metavar="ROLE=NAME ...",
        help="what a table, parquet or tars call source, target, edit, and the captions input and output, e.g. "
        "source=original_image edit=edit_prompt",
        help_behavior_hint="(default: known names)",
    ),
]
Fit = Annotated[
    str, arg(metavar="NAME", help=f"how to fit the image to that size: {keys_of('data/images.py', 'FITS')}")
]


@dataclass(frozen=True, kw_only=True)
class Source:
    """The weights."""

    weights: Annotated[str | None, optional("PATH", "(default: the shipped tiny model)")] = None
    """a checkpoint: a .safetensors or .ckpt file, or a diffusers folder"""
    ema: bool = True
    """use the averaged weights of a training checkpoint"""
    config: Annotated[tuple[str, ...], optional("NAME=VALUE ...")] = ()
    """changes to the checkpoint's config, e.g. schedule.prediction=v"""


@dataclass(frozen=True, kw_only=True)
class Model(Source):
    """The weights, and what changes them when they are loaded."""

    lora: Annotated[UseAppendAction[tuple[str, ...]], optional("FILE[:WEIGHT]")] = ()
    """a LoRA file of diffusers, PEFT or kohya, merged into the weights, e.g. style.safetensors:0.8; may be repeated"""
    vae: Annotated[str | None, optional("PATH", "(default: the checkpoint's own)")] = None
    """an autoencoder in place of the checkpoint's: a file, or a diffusers folder"""

    def require_unchanged(self) -> None:
        """Raise ValueError for an option that changes a pipeline, where the weights are a language model's."""
        for name in ("config", "lora", "vae"):
            if getattr(self, name):
                raise ValueError(f"--{name}: a language model is loaded as it is; leave it out")

    def load(self, default: str = "editor", threads: int | None = None, **how: Any) -> "Pipeline":
        """The pipeline of the weights, or the shipped `default`; `how`: options of `minip2p.load`. Prints its notes."""
        import_torch()
        import minip2p

        weights = minip2p.shipped(default) if self.weights is None else self.weights
        own = {"ema": self.ema, "config": self.config or None, "lora": loras(self.lora), "vae": self.vae}
        pipe = minip2p.load(weights, **own | how)
        limit_threads(*pipe.parts.values(), threads=threads)
        for note in pipe.notes:
            print_note(note)
        return pipe


@dataclass(frozen=True, kw_only=True)
class Loading(Model):
    """The weights, and how they are loaded."""

    device: Device = "auto"
    dtype: DType = "auto"
    graphs: bool = True
    """on CUDA, replay the denoiser's calls as CUDA graphs: the same image in less time"""
    compile: FlagCreatePairsOff[bool] = False
    """compile the denoiser first, which takes a minute or more: for many images"""
    text_cleaning: Annotated[str | None, optional("NAME", "(default: the checkpoint's own, usually none)")] = None
    """ftfy: first repair broken encodings, curly quotes and full width, as the authors' environment does"""

    def load(self, default: str = "editor", threads: int | None = None, **how: Any) -> "Pipeline":
        own = {name: getattr(self, name) for name in ("device", "dtype", "graphs", "compile", "text_cleaning")}
        return super().load(default, threads, **own | how)


def loras(words: Sequence[str]) -> list[tuple[str, float]]:
    """("a.safetensors:0.8", "b") -> [("a.safetensors", 0.8), ("b", 1.0)]; what exists is a path, whatever colons it
    has, and a weight is a number after the last one."""
    found = []
    for word in words:
        file, colon, weight = word.rpartition(":")
        split = colon and file and WEIGHT.fullmatch(weight) and not os.path.exists(word)
        found.append((file, float(weight)) if split else (word, 1.0))
    return found


def import_torch() -> None:
    """Import PyTorch without looking for garbage meanwhile, and never look for it among its objects: a command starts
    0.2 s earlier and ends 0.3 s earlier."""
    if "torch" not in sys.modules:
        gc.disable()
        import torch  # noqa: F401

        gc.freeze()
        gc.enable()


def limit_threads(*networks: "nn.Module", threads: int | None = None) -> None:
    """Set the number of CPU threads of PyTorch. None: that of OMP_NUM_THREADS; otherwise one if all networks together
    are small, because a small network waits for a second thread more than it gains, else one for each free core
    (`cores.free_cores`). How busy the machine is changes neither the number nor, therefore, a result.

    Raises ValueError for a number of threads that no computer has.
    """
    import torch

    from .. import schema
    from ..cores import free_cores

    if threads is not None:
        schema.from_dict(schema.Threads, threads, "threads")
    elif "OMP_NUM_THREADS" not in os.environ:
        size = sum(weight.numel() for network in networks for weight in network.parameters())
        threads = 1 if size < SMALL else free_cores()
    if threads is not None:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def progress_bar(unit: str, what: str = "") -> Iterator[Callable[..., None]]:
    """A bar on stderr, moved by show(done, total, what). It starts again where `done` falls: a bar for each image."""
    from tqdm import tqdm

    interval = 0.1 if sys.stderr.isatty() else 10.0  # seconds: few lines in a log
    with tqdm(desc=plain(what), unit=unit, mininterval=interval, dynamic_ncols=True, leave=False) as bar:

        def show(done: int, total: int, what: str = what) -> None:
            if bar.disable:  # TQDM_DISABLE=1
                return
            if done <= bar.n:
                bar.reset()
            if plain(what) != bar.desc:
                bar.set_description_str(plain(what), refresh=False)
            bar.total = total
            bar.update(done - bar.n)

        yield show


@contextlib.contextmanager
def steps_bar(what: str = "") -> Iterator[Callable[["Progress"], None]]:
    """A bar that counts the sampler's steps: the `on_step` of the pipeline's verbs."""
    with progress_bar("step", what) as show:
        yield lambda progress: show(progress.done, progress.total)


def parse(kind: type[T], argv: list[str], prog: str) -> T | None:
    """`kind` from words; None after printing help. Raises ValueError of one line for wrong words."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(kind, args=argv, prog=prog, config=(OmitArgPrefixes,))
    except SystemExit as stop:
        if not stop.code:
            return None
        raise ValueError(f"{_one_line(errors.getvalue())} (see {prog} --help)") from None


def _one_line(box: str) -> str:
    """tyro's error, a box of many lines, in one line."""
    title, *lines = box.splitlines()
    lines = [text for line in lines if (text := line.strip("│| ")).strip("╭╮╰╯+─-")]
    ends = [i for i, line in enumerate(lines) if line.startswith(("For full helptext", "Argument helptext", "====="))]
    lines = lines[: ends[0]] if ends else lines
    if "Required options" in title:
        missing = [line for line in lines if re.match(r"-|\{[\w,]+\}$|[A-Z.]+$", line)]
        return f"missing {', '.join(missing)}"
    if "Unrecognized options" in title:
        words = lines[0].removeprefix("Unrecognized options: ").split(", ")
        near = [line for line in lines[1:] if line.startswith("--")]
        if words[0].startswith("-"):
            return f"unknown option {' '.join(words)}" + (f"; did you mean {near[0]}?" if near else "")
        return f"unexpected {' '.join(words)}; put a text of several words in quotes"
    message = re.sub(r"^Error parsing [\w.]+: ", "", " ".join(lines))  # of a dataclass that refuses a value
    if number := NUMBER.match(message):
        return f"{number[1]} {number[2]!r}: expected a number"
    return message
