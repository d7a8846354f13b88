"""Stages by name: how each is configured, made and started. Here are those that need no data of the tiny world."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..config import from_dict
from ..files import lock_folder, read_json
from ..loading import place
from . import build, state
from .config import DiffusionTraining, InstructionTraining
from .language import build_instruction_model, epochs_to_steps, instruction_stage
from .loop import Log, Stage, train
from .pairs import pairs_stage
from .presets import SD15, TINYLLAMA
from .ranks import Ranks


def unchanged(config: Any, init_from: build.Files) -> Any:
    """The config as it is: for stages that need nothing of the files they start from."""
    return config


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """A stage of training, before it has a config."""

    config: type
    """its config's class"""
    presets: Mapping[str, Any] = field(repr=False)
    make: Callable[[Any, Path, build.Files, torch.device], Stage]
    """(config, the run's folder, files to start from, device) -> the stage, with the weights of the files that have
    its networks, otherwise random ones"""
    resolve: Callable[[Any, build.Files], Any] = unchanged
    """(config, files to start from) -> the config with what follows from its data and from the files"""


def resolve_editor(config: DiffusionTraining, init_from: build.Files) -> DiffusionTraining:
    """The config with the networks of the files to start from. Raises ValueError without files or data."""
    if not init_from:
        raise ValueError("give --init-from PATH, the weights to start from, e.g. Stable Diffusion's")
    if not config.data:
        raise ValueError("give --data PATH, a set of edit pairs to train on")
    return build.resolve_config(config, init_from, edits=True)


def make_editor(config: DiffusionTraining, out: Path, init_from: build.Files, device: torch.device) -> Stage:
    """The editor's training, on sets of edit pairs."""
    return pairs_stage(config, build.build_pipeline(config, init_from, device))


def resolve_instructions(config: InstructionTraining, init_from: build.Files) -> InstructionTraining:
    """The config with the steps that its epochs take. Raises ValueError without a file or data."""
    if not init_from:
        raise ValueError("give --init-from PATH, a language model to start from, e.g. a folder of TinyLlama")
    if config.data is None:
        raise ValueError("give --data PATH, a table of triplets to train on")
    return epochs_to_steps(config)


def make_instructions(config: InstructionTraining, out: Path, init_from: build.Files, device: torch.device) -> Stage:
    """The instruction model's training, on triplets."""
    return instruction_stage(config, build_instruction_model(init_from))


STAGES = {
    "editor": StageSpec(config=DiffusionTraining, presets={"sd15": SD15}, make=make_editor, resolve=resolve_editor),
    "instructions": StageSpec(
        config=InstructionTraining,
        presets={"tinyllama": TINYLLAMA},
        make=make_instructions,
        resolve=resolve_instructions,
    ),
}


def start(
    spec: StageSpec,
    config: Any,
    out: Path,
    *,
    init_from: build.Files = (),
    resume: bool = False,
    accept_changes: bool = False,
    device: torch.device | str = "cpu",
    ranks: Ranks | None = None,
) -> Iterator[Log]:
    """Check, make the stage, and return its training into `out`, which runs as it is iterated.

    resume: go on from the last state in `out`; frozen networks are those of its model.safetensors. accept_changes: also
    with other data. ranks: instead of `device`. Raises ValueError where `out` holds no run to resume, a run that would
    be overwritten, or one that is running.
    """
    ranks = ranks or Ranks(device=place(device, "float32")[0])
    with lock_folder(out) if ranks.first else nullcontext():  # before what takes long; `train` locks it again
        state.check_folder(out, resume)
        if ranks.first:
            state.check_writable(out)
    if not issubclass(spec.config, DiffusionTraining) and (ranks.world > 1 or config.train.micro_batch):
        raise ValueError("this stage trains in one process and one batch; only denoisers have ranks and micro-batches")
    ranks.rows(config.train.batch_size, None)
    if config.train.precision == "bf16":
        place(ranks.device, "bfloat16")  # raises where it is slow
    stage = spec.make(config, out, starting_files(out, init_from, resume), ranks.device)
    return train(stage, out, resume=resume, accept_changes=accept_changes, ranks=ranks)


def start_or_resume(
    spec: StageSpec, config: Any, out: Path, *, init_from: build.Files = (), device: torch.device | str = "cpu"
) -> Iterator[Log]:
    """`start`, or continue the run in `out`; nothing where that has all of its steps.

    Raises ValueError for a run of another config there.
    """
    newest = state.newest(out)
    if newest is None:
        return start(spec, config, out, init_from=init_from, device=device)
    was = saved_config([spec], out)[1]
    if was != replace(config, train=replace(config.train, micro_batch=was.train.micro_batch)):  # it settles that
        raise ValueError(f"{out} was trained with another config; remove it, or give another --output")
    if int(newest.stem) == config.train.steps and (out / "model.safetensors").exists():
        return iter(())
    return start(spec, was, out, resume=True, device=device)


def starting_files(out: Path, init_from: build.Files, resume: bool) -> build.Files:
    """The files that a run's networks start from. The trained ones of a resumed run are then replaced by its state."""
    return [out / "model.safetensors"] if resume else init_from


def saved_config(specs: Sequence[StageSpec], out: Path) -> tuple[StageSpec, Any]:
    """The config of the run in `out`, and which of the specs it is of."""
    path = out / "config.json"
    if not path.exists():
        raise ValueError(f"{out}: no run there (no config.json); to start from weights alone, use --init-from")
    values, errors = read_json(path), []
    for spec in specs:
        try:
            return spec, from_dict(spec.config, values, str(path))
        except ValueError as error:
            errors.append(str(error))
    raise ValueError(f"not the config of a run of this stage: {errors[-1]}")
