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
from ..models.vae import AutoencoderKL
from ..loading import shipped
from .clip import CLIPStage
from .config import (
    PRESETS, CLIPTraining, DiffusionTraining, LanguageTraining, ReaderTraining, VAETraining, WriterTraining,
)  # fmt: skip
from .diffusion import EditorStage, PainterStage, make_networks
from .loop import Log, Stage, run
from .parts import part_config, parts_of, take_part
from .reader import ReaderStage
from .vae import VAEStage
from .words import tokenizer_for
from .writer import make_language, make_writer, settled

CONFIGS = {
    "vae": VAETraining, "clip": CLIPTraining, "reader": ReaderTraining, "editor": DiffusionTraining,
    "painter": DiffusionTraining, "language": LanguageTraining, "writer": WriterTraining,
}  # fmt: skip
DENOISERS = {"editor": EditorStage, "painter": PainterStage}
STARTS_FROM = {"reader": ("vae",), "editor": ("vae",), "painter": ("vae", "clip"), "writer": ("language",)}
"""in the recipe: stage -> the earlier stages whose weights it begins with"""
SHIPS = ("clip", "reader", "editor", "painter", "writer")


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
        _init(init_from, {"vae": stage.module})
        return stage
    if name == "clip":
        stage = CLIPStage(config)
        _init(init_from, {"text": stage.module.text, "vision": stage.module.vision})
        return stage
    holder = next((path for path in init_from if part_config(path, "vae")), None)
    if name == "reader":
        return _make_reader(config, out / "decoded.safetensors", init_from, holder, device)
    holder = holder or shipped("editor")
    vae = AutoencoderKL(part_config(holder, "vae"))
    tokenizer, text_config = tokenizer_for(config.model.text)
    torch.manual_seed(config.train.seed)
    unet, text = make_networks(replace(config.model, text=text_config))
    taken = _init(init_from, {"vae": vae, "unet": unet, "text": text})
    if "vae" not in taken:
        take_part(holder, "vae", vae)
    if not config.train_text and "text" not in taken:
        raise ValueError("train_text=False keeps the text encoder as it is, and there is none: give --init-from one")
    for frozen in (vae,) if config.train_text else (vae, text):
        frozen.half().float()  # as a resumed run finds it in the model that this one writes
    networks = (network.to(device) for network in (vae, unet, text))
    return DENOISERS[name](config, *networks, tokenizer, out / "latents.safetensors")


def _make_reader(
    config: ReaderTraining, cache: Path, init_from: Sequence[str | Path], holder: str | Path | None, device
) -> ReaderStage:
    """Pictures go through the autoencoder of `holder`; else `cache` has them, or they go through the shipped."""
    vae = None
    if config.decoded and (holder or not cache.exists()):
        holder = holder or shipped("editor")
        vae = AutoencoderKL(part_config(holder, "vae"))
        take_part(holder, "vae", vae)
        vae = vae.to(device, memory_format=torch.channels_last)
    stage = ReaderStage(config, vae, cache)
    _init(init_from, {"reader": stage.module} | ({} if vae is None else {"vae": vae}))
    return stage


def _init(paths: Sequence[str | Path], networks: dict[str, torch.nn.Module]) -> set[str]:
    """Give each network the weights of the first file that has them; which ones got some. Each file must have some."""
    taken = set()
    for path in paths:
        found = {part for part, network in networks.items() if part not in taken and take_part(path, part, network)}
        if not found and not set(networks) & parts_of(path):
            raise ValueError(f"{path}: holds nothing that is trained here; expected {' or '.join(networks)} weights")
        taken |= found
    return taken


def start(
    name: str,
    config: Any,
    out: Path,
    *,
    init_from: Sequence[str | Path] = (),
    resume: bool = False,
    device: torch.device | str = "cpu",
) -> Iterator[Log]:
    """Make a stage, and hand back its training into `out`, to be run by who iterates.

    With `resume`, its frozen networks are those that the stopped run wrote there.
    """
    if resume:
        if not (out / "state.pt").exists():
            raise ValueError(f"{out}: no state.pt there to resume from; to start from weights alone, use --init-from")
        init_from = [out / "model.safetensors"]
    elif (out / "state.pt").exists():
        raise ValueError(f"{out}: holds a run already; --resume {out} goes on with it, another --out starts another")
    return run(make_stage(name, config, out, init_from, device), out, resume=resume, device=device)


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
    out: Path, runs: Path, show: Callable[[Iterator[Log], int, str], None], device: torch.device | str = "cpu"
) -> None:
    """Train every stage of the tiny preset in turn and put what ships into `out`. Stopped, it goes on where it was."""
    for name in PRESETS:
        config, where = PRESETS[name]["tiny"], runs / name
        config = settled(config) if name == "writer" else config
        init_from = [runs / other / "model.safetensors" for other in STARTS_FROM.get(name, ())]
        resume = (where / "state.pt").exists()
        if resume and saved_config(name, where) != config:
            raise ValueError(f"{where} was trained by another recipe; remove it, or give another --out")
        show(start(name, config, where, init_from=init_from, resume=resume, device=device), config.train.steps, name)
    out.mkdir(parents=True, exist_ok=True)
    for name in SHIPS:
        model = runs / name / "model.safetensors"
        replace_file(out / f"{name}.safetensors", lambda part: shutil.copyfile(model, part))
