"""`minip2p instructions`: from a table of captions to captions, instructions and edited captions."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from ..data.captions import read_captions
from ..datagen import instruction_files
from ..datagen.instructions import Settings
from ..engines import local_device
from ..loading import load_language_model
from . import files
from .arguments import Device, DType, limit_threads, optional
from .printing import say
from .work import EngineOptions, show_progress


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write instructions and edited captions with a language model: step 1 of the paper's training set.

    Writes NAME.jsonl, NAME.refused.jsonl (captions with too few instructions, and why) and NAME.run.json (settings and
    statistics). To resume an interrupted run, repeat the command.
    """

    captions: Annotated[str, arg(metavar="PATH")]
    """a table: .txt with a caption per line; .jsonl, .json, .csv or .tsv with rows that have "input" or "caption".
    Captions that differ only in upper case and final .!? count as one"""
    output: Annotated[str, arg(metavar="PATH")]
    """a .jsonl file of lines {"input", "edit", "output", ...}, which minip2p pairs reads"""
    weights: Annotated[str | None, optional("PATH", "(default: the shipped tiny language model)")] = None
    """a language model: a .safetensors file of train.py instructions, or a folder of a fine-tuned Llama 2, TinyLlama or
    Mistral"""
    settings: Settings = Settings()
    engine: EngineOptions = field(default_factory=EngineOptions)
    device: Device = "auto"
    dtype: DType = "float32"


def run(options: Options) -> None:
    """Make the instructions that do not exist yet."""
    captions, paths = read_captions(options.captions), instruction_files.Paths(options.output)
    for path in (paths.output, paths.refused, paths.run):
        files.check_writable(path)
        if path.resolve() == Path(options.captions).resolve():
            raise ValueError(f"{path} is the captions' file and would be overwritten; choose another --output")
    made = instruction_files.make(
        captions,
        options.settings,
        paths.output,
        partial(load_maker, options, captions),
        **options.engine.for_run(options.device),
    )
    show_progress(made, paths.output)
    if summary := instruction_files.read_summary(paths.output):
        say(*in_words(summary).split("\n"))


def load_maker(options: Options, captions: list[str]) -> instruction_files.InstructionMaker:
    """What makes the units in one process."""
    model = load_language_model(options.weights, device=local_device(options.device), dtype=options.dtype)
    limit_threads(*model.parts.values(), threads=options.settings.threads)
    return instruction_files.InstructionMaker(language_model=model, captions=captions, settings=options.settings)


def in_words(summary: instruction_files.Summary) -> str:
    """The statistics of a run in a few lines."""
    lines = [
        f"  {summary.accepted} instructions for {summary.captions - summary.without} of {summary.captions} captions; "
        f"{summary.duplicates} duplicate captions",
        f"  {summary.attempts} completions, {summary.rate:.1%} accepted",
        *(f"  rejected {n}: {reason}" for reason, n in summary.refused.items()),
    ]
    return "\n".join(lines)
