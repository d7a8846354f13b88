"""`minip2p train`: train one model."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from .arguments import ColumnNames, Device, Threads, import_torch, limit_threads, optional
from .printing import say

if TYPE_CHECKING:
    from ..training.loop import Stage
    from ..training.stages import StageSpec

StageName = Literal["editor", "text2image", "vae", "clip", "language", "instructions", "classifier"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train one model: any stage on the tiny world; an editor or an instruction model also on your data."""

    stage: Positional[StageName]
    """what to train"""
    preset: Annotated[
        Literal["tiny", "sd15", "tinyllama"] | None, optional("{tiny,sd15,tinyllama}", "(default: tiny)")
    ] = None
    """the config, which --set changes. tiny: small models on the tiny world; sd15: the paper's editor, from Stable
    Diffusion; tinyllama: LoRA of a published language model, for instructions"""
    out: Annotated[str | None, optional("DIR", "(default: runs/STAGE)")] = None
    """folder for the run's state, log, previews and model"""
    resume: Annotated[str | None, optional("DIR")] = None
    """continue the run in this folder; the result is bit-identical to that of a run that never stopped"""
    accept_changes: bool = False
    """with --resume: continue although the data, the tokenizer or a frozen network has changed"""
    init_from: Annotated[tuple[str, ...], optional("PATH ...")] = ()
    """checkpoints to start from: each network takes its weights from the first that has them (instructions: a file of
    minip2p, or a folder of Llama 2, TinyLlama or Mistral)"""
    data: Annotated[str | None, optional("PATH", "(default: the tiny world)")] = None
    """editor: a set of edit pairs, in any layout that minip2p check reads, or precomputed by minip2p precompute.
    instructions: triplets, a .jsonl or .csv with input (or caption), edit, output"""
    columns: ColumnNames = ()
    mixture: Annotated[str | None, optional("PATH:WEIGHT,PATH:WEIGHT,...")] = None
    """editor: several such sets, with the relative frequency of each"""
    skip_broken: bool = False
    """editor: use the next pair in place of one that cannot be read; the log names all of them"""
    lora_rank: Annotated[int | None, optional("R", "(default: the preset's; 0 trains all weights)")] = None
    """editor, instructions: train a LoRA of this rank, merged in when weights are written; an editor's is also written
    by itself, OUT/lora.safetensors in diffusers' layout"""
    steps: Annotated[int | None, optional("N", "(default: the preset's)")] = None
    """total number of steps"""
    batch_size: Annotated[int | None, optional("B", "(default: the preset's)")] = None
    """items per step, over all processes together"""
    set: Annotated[tuple[str, ...], arg(metavar="NAME=VALUE ...")] = ()
    """changes to the config, e.g. train.learning_rate=3e-4 model.unet.norm=rms"""
    print_config: bool = False
    """print the config as words for --set and exit; for an editor, with the paper's values where they differ"""
    dry_run: bool = False
    """estimate the memory of training, measure the speed of the data loader, and exit"""
    shard: bool = False
    """under torchrun: shard weights and the optimiser's state over the processes (FSDP2)"""
    device: Device = "auto"
    threads: Threads = None


def run(options: Options) -> None:
    """Train."""
    import_torch()
    from ..engines import local_device
    from ..loading import place
    from ..training.memory import dry_run
    from ..training.plan import plan
    from ..training.progress import show_progress
    from ..training.ranks import join_ranks
    from ..training.stages import start, starting_files
    from ..training.stops import Stopped

    check_paths(options)
    device, _ = place(local_device(options.device), "float32")
    out, resume = Path(options.resume or options.out or f"runs/{options.stage}"), options.resume is not None
    spec, config = config_of(options, out)
    if options.print_config:
        return print_config(options, config)

    def make(*how: Any) -> "Stage":
        stage = spec.make(*how)
        limit_threads(stage.module, threads=options.threads)
        return stage

    try:
        with join_ranks(device, options.shard) as ranks:
            if options.dry_run:
                init_from = starting_files(out, options.init_from, resume)
                stage = make(config, out, init_from, ranks.device)
                decided, notes = plan(stage, ranks)
                for line in [*notes, *dry_run(stage, decided, ranks)]:
                    if ranks.first:
                        say(line)
                return
            how = {"init_from": options.init_from, "resume": resume, "accept_changes": options.accept_changes}
            logs = start(replace(spec, make=make), config, out, ranks=ranks, **how)
            show_progress(logs, config.train.steps, options.stage, quiet=not ranks.first)
            if ranks.first:
                say(str(out / "model.safetensors"))
    except Stopped as stopped:
        say(str(stopped), error=True)
        sys.exit(stopped.status)


def check_paths(options: Options) -> None:
    """Raise ValueError for an empty path, and for options that a resumed run cannot have."""
    for name in ("out", "resume", "data", "mixture", "init_from"):
        value = getattr(options, name)
        if any(not path.strip() for path in ((value,) if isinstance(value, str) else value or ())):
            raise ValueError(f"--{name.replace('_', '-')} is empty: expected a path; is a variable not set?")
    if options.resume is None and options.accept_changes:
        raise ValueError("--accept-changes: expected --resume, too")
    for name in ("out", "init_from", "preset"):
        if options.resume is not None and getattr(options, name):
            raise ValueError(f"--resume continues a run in its own folder; --{name.replace('_', '-')} starts another")


def specs_of(stage: str) -> "list[StageSpec]":
    """The library's stage of this name and the tiny world's, if there are such."""
    from ..tinyworld.training.stages import STAGES as TINY
    from ..training.stages import STAGES

    return [stages[stage] for stages in (STAGES, TINY) if stage in stages]


def config_of(options: Options, out: Path) -> "tuple[StageSpec, Any]":
    """The stage, and the config of its preset or of the run to resume, with the changes that the options make."""
    from ..config import override
    from ..training.build import check_changes
    from ..training.stages import saved_config, starting_files
    from ..training.unused import refuse_unused

    specs, words = specs_of(options.stage), words_of_options(options)
    denoises = options.stage in ("editor", "text2image")
    if options.resume:
        spec, config = saved_config(specs, out)
        files = starting_files(out, (), resume=True)
        check_changes(words if denoises else (), files)
        config = override(config, *words)
        refuse_unused(config, words, files)
        return spec, config
    found = {preset: spec for spec in specs for preset in spec.presets}
    preset = options.preset or "tiny"
    if preset not in found:
        raise ValueError(f"--preset {preset}: for {options.stage} there are {', '.join(sorted(found))}")
    spec = found[preset]
    check_changes(words if denoises else (), options.init_from)
    config = override(spec.presets[preset], *words)
    config = override(spec.resolve(config, options.init_from), *words)
    refuse_unused(config, words, options.init_from)
    return spec, config


def words_of_options(options: Options) -> list[str]:
    """The changes to the config that the options make. A stage whose config has no such name refuses it."""
    from ..data.edits import Columns

    if options.data is not None and options.mixture is not None:
        raise ValueError("--data and --mixture: give one of them; a mixture names its sets itself")
    data, weights = (options.data, None) if options.mixture is None else parse_mixture(options.mixture)
    values = {
        "data": (data,) if isinstance(data, str) and options.stage == "editor" else data,
        "weights": weights,
        "skip_broken": options.skip_broken or None,
        "lora_rank": options.lora_rank,
        "train.steps": options.steps,
        "train.batch_size": options.batch_size,
    }
    values |= {f"columns.{role}": name for role, name in Columns.parse(options.columns).given.items()}
    return [f"{name}={value!r}" for name, value in values.items() if value is not None] + list(options.set)


def parse_mixture(text: str) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """ "a:0.7,b:0.3" -> its paths and weights."""
    pairs = [word.rpartition(":") for word in text.split(",")]
    try:
        paths, weights = tuple(path for path, _, _ in pairs), tuple(float(weight) for _, _, weight in pairs)
    except ValueError:
        paths, weights = (), ()
    if not all(paths) or not weights or not all(0 < weight < float("inf") for weight in weights):
        raise ValueError(f"--mixture {text!r}: expected paths with weights above 0, e.g. a:0.7,b:0.3")
    return paths, weights


def print_config(options: Options, config: Any) -> None:
    """Print each word of the config on a line; for an editor with what the paper's code does where it differs."""
    from ..config import words_of
    from ..training.presets import DEPARTURES, SD15, UNMARKED

    paper = words_of(SD15) if options.stage == "editor" else {}
    for name, value in words_of(config).items():
        line, theirs = f"{name}={value!r}", []
        if name in paper and paper[name] != value and name not in UNMARKED:
            theirs.append(repr(paper[name]))
        if name in paper and name in DEPARTURES:
            theirs.append(DEPARTURES[name].theirs)
        say(f"{line:<60}  # the paper: {'; '.join(theirs)}" if theirs else line)
