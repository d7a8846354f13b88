"""Options from words, and what several verbs share: where weights are and how they are loaded."""

import contextlib
import io
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import tyro
from tyro.conf import OmitArgPrefixes, arg

if TYPE_CHECKING:
    from ..pipeline import Pipeline

T = TypeVar("T")
OWN = "(default: the model's own)"


NUMBER = re.compile(r"Error parsing (--\S+):.*'([^']*)'")  # tyro's words; the last quotation is what was given


def optional(metavar: str, default: str = ""):
    """How an option that may be left out shows in the help."""
    return arg(metavar=metavar, help_behavior_hint=default)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Which weights."""

    weights: Annotated[str | None, optional("PATH", "(default: the shipped tiny model)")] = None
    """a checkpoint: a .safetensors or .ckpt file, or a diffusers folder"""
    ema: bool = True
    """of a training checkpoint, the averaged weights"""
    config: Annotated[tuple[str, ...], optional("NAME=VALUE ...")] = ()
    """changes to the checkpoint's config, e.g. schedule.prediction=v"""


@dataclass(frozen=True, kw_only=True)
class Loading(Source):
    """Which weights, and how they are run."""

    device: Annotated[str, arg(metavar="NAME")] = "auto"
    """auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:1, mps"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """precision of the networks"""


def load(source: Source, default: str = "editor", **how) -> "Pipeline":
    """The pipeline that the options name, else the shipped `default`; `how` is device, dtype, ... of `minip2p.load`.

    What was assumed is told.
    """
    import minip2p

    weights = minip2p.shipped(default) if source.weights is None else source.weights
    pipe = minip2p.load(weights, ema=source.ema, config=source.config or None, **how)
    for note in pipe.notes:
        print(f"minip2p: note: {note}", file=sys.stderr)
    return pipe


def parse(kind: type[T], argv: list[str], prog: str) -> T | None:
    """`kind` from words; None where help was asked for and given. Raises ValueError, of one line, for wrong words."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, args=argv, prog=prog, config=(OmitArgPrefixes,))
    except SystemExit as stop:
        if not stop.code:
            return None
        raise ValueError(f"{_one_line(said.getvalue())} ({prog} --help tells more)") from None


def _one_line(box: str) -> str:
    """What tyro says in a box of many lines, in one."""
    title, *lines = box.splitlines()
    lines = [text for line in lines if (text := line.strip("│| ")).strip("╭╮╰╯+─-")]
    ends = [i for i, line in enumerate(lines) if line.startswith(("For full helptext", "Argument helptext", "====="))]
    lines = lines[: ends[0]] if ends else lines
    if "Required options" in title:
        missing = [line for line in lines if re.match(r"-|[A-Z.]+$", line)]
        return f"missing {', '.join(missing)}"
    if "Unrecognized options" in title:
        words = lines[0].removeprefix("Unrecognized options: ").split(", ")
        near = [line for line in lines[1:] if line.startswith("--")]
        if words[0].startswith("-"):
            return f"unknown option {' '.join(words)}" + (f"; is it {near[0]}?" if near else "")
        return f"unknown words {' '.join(words)}; words that belong together go in quotes"
    message = " ".join(lines)
    if number := NUMBER.match(message):
        return f"{number[1]} {number[2]!r}: expected a number"
    return message
