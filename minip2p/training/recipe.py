"""Stages by name, and the recipe that makes all shipped tiny weights from nothing."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.mapped import replace_file
from ..config import from_dict
from ..loading import place, shipped
from ..models.vae import AutoencoderKL
from . import state
from .clip import CLIPStage
from .config import (
    CLIPTraining, DiffusionTraining, LanguageTraining, ReaderTraining, VAETraining, WriterTraining,
)  # fmt: skip
from .latents import encode_edits
from .loop import Log, Stage, run
from .pairs import PairsStage
from .parts import part_config, take_part
from .presets import FROM_PAIRS, PRESETS
from .ranks import Ranks
from .reader import ReaderStage
from .starts import give_weights, make_pipeline, starting_from
from .vae import VAEStage
from .world import EditorStage, PainterStage
from .writer import epochs_as_steps, make_language, make_writer

CONFIGS = {
    "vae": VAETraining, "clip": CLIPTraining, "reader": ReaderTraining, "editor": DiffusionTraining,
    "painter": DiffusionTraining, "language": LanguageTraining, "writer": WriterTraining,
}  # fmt: skip
DENOISERS = {"editor": EditorStage, "painter": PainterStage}
STARTS_FROM = {"reader": ("vae",), "editor": ("vae",), "painter": ("vae", "clip"), "writer": ("language",)}
"""in the recipe: stage -> the earlier stages whose weights it begins with"""
SHIPS = ("clip", "reader", "editor", "painter", "writer")
SECOND = "editor-from-pairs"
"""the recipe's editor that learns as the paper's: it begins with the painter, and its pairs are what the other models
made. It stays among the runs: with it, what ships would be more than 40 MB"""


def make_stage(
    name: str, config: Any, out: Path, init_from: Sequence[str | Path] = (), device: torch.device | str = "cpu"
) -> Stage:
    """A stage with weights from the files of `init_from` where they hold its networks, else random ones.

    What needs an autoencoder, or a writer a language model, takes the shipped one where the files have none.
    """
    if name == "language":
        return make_language(config, init_from)
    if name == "writer":
        return make_writer(config, init_from)
    if name == "vae":
        stage = VAEStage(config)
        give_weights(init_from, {"vae": stage.module})
        return stage
    if name == "clip":
        stage = CLIPStage(config)
        give_weights(init_from, {"text": stage.module.text, "vision": stage.module.vision})
        return stage
    if name == "reader":
        return _make_reader(config, out / "decoded.safetensors", init_from, device)
    pipe = make_pipeline(config, init_from, device)
    if config.data:
        if name == "painter":
            raise ValueError("data: a painter learns from the tiny world; pairs train an editor")
        return PairsStage(config, pipe)
    edits = encode_edits(
        pipe.vae, out / "latents.safetensors", sources=config.sources, per_source=config.edits, size=config.size,
        seed=config.train.seed,
    )  # fmt: skip
    return DENOISERS[name](config, pipe, edits)


def _make_reader(
    config: ReaderTraining, cache: Path, init_from: Sequence[str | Path], device: torch.device | str
) -> ReaderStage:
    """Pictures go through the files' autoencoder; else `cache` has them, or they go through the shipped."""
    vae, holder = None, next((path for path in init_from if part_config(path, "vae")), None)
    if config.decoded and (holder or not cache.exists()):
        holder = holder or shipped("editor")
        vae = AutoencoderKL(part_config(holder, "vae"))
        take_part(holder, "vae", vae)
        vae = vae.to(device, memory_format=torch.channels_last)
    stage = ReaderStage(config, vae, cache)
    give_weights(init_from, {"reader": stage.module} | ({} if vae is None else {"vae": vae}))
    return stage


def start(
    name: str,
    config: Any,
    out: Path,
    *,
    init_from: Sequence[str | Path] = (),
    resume: bool = False,
    device: torch.device | str = "cpu",
    ranks: Ranks | None = None,
) -> Iterator[Log]:
    """Make a stage, and hand back its training into `out`, to be run by who iterates. ranks: in place of `device`.

    With `resume`, its frozen networks are those that the stopped run wrote there.
    """
    ranks = ranks or Ranks(device=torch.device(device))
    there = state.newest(out) is not None
    if resume:
        if not there:
            raise ValueError(f"{out}: no state there to resume from; to start from weights alone, use --init-from")
        init_from = [out / "model.safetensors"]
    elif there:
        raise ValueError(f"{out}: holds a run already; --resume {out} goes on with it, another --out starts another")
    if not isinstance(config, DiffusionTraining) and (ranks.world > 1 or config.train.micro_batch):
        raise ValueError(f"train.py {name}: one process trains it, a batch at once; an editor or painter can be divided")
    ranks.rows(config.train.batch_size, config.train.micro_batch)
    if config.train.precision == "bf16":
        place(ranks.device, "bfloat16")  # refused where it is slow
    return run(make_stage(name, config, out, init_from, ranks.device), out, resume=resume, ranks=ranks)


def settled(name: str, config: Any, init_from: Sequence[str | Path]) -> Any:
    """The config with what follows from its data, and from the weights that it begins with."""
    if name == "writer":
        return epochs_as_steps(config)
    return starting_from(config, init_from, edits=name == "editor") if name in DENOISERS else config


def saved_config(name: str, out: Path) -> Any:
    """The config of an earlier run in `out`."""
    path = out / "config.json"
    if not path.exists():
        raise ValueError(
            f"{out}: no run of train.py there (no config.json); to start from weights alone, use --init-from"
        )
    try:
        return from_dict(CONFIGS[name], json.loads(path.read_text()))
    except ValueError as error:
        raise ValueError(f"{path} is not of a run of {name!r}: {error}") from None


def rebuild(
    out: Path,
    runs: Path,
    show: Callable[[Iterator[Log], int, str], None],
    make_pairs: Callable[[dict[str, Path]], Path],
    device: torch.device | str = "cpu",
) -> None:
    """Train every stage of the tiny preset in turn, put what ships into `out`, and train another editor on the pairs
    that they make together. Stopped, it goes on where it was.

    make_pairs: (name -> weights of all stages) -> a set of pairs.
    """
    models = {name: runs / name / "model.safetensors" for name in PRESETS}

    def train(name: str, stage: str, config: Any, *begins_with: str) -> None:
        where, init_from = runs / name, [models[other] for other in begins_with]
        config, resume = settled(stage, config, init_from), state.newest(where) is not None
        if resume and saved_config(stage, where) != config:
            raise ValueError(f"{where} was trained by another recipe; remove it, or give another --out")
        show(start(stage, config, where, init_from=init_from, resume=resume, device=device), config.train.steps, name)

    for name in PRESETS:
        train(name, name, PRESETS[name]["tiny"], *STARTS_FROM.get(name, ()))
    out.mkdir(parents=True, exist_ok=True)
    for name in SHIPS:
        replace_file(out / f"{name}.safetensors", lambda part: shutil.copyfile(models[name], part))
    train(SECOND, "editor", replace(FROM_PAIRS, data=(str(make_pairs(models)),)), "painter")
