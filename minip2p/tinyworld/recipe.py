"""The recipe of the shipped weights: every stage in turn, and an editor on pairs that the other models generate."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .. import checkpoints
from ..data.edits import open_edits
from ..datagen.precompute import Settings, precompute
from ..files import replace_file, write_file
from ..loading import load, load_clip, load_language_model
from ..training.loop import Log
from ..training.pairs import read_texts
from ..training.stages import start_or_resume
from . import miniature, miniature_report
from .classifier import load_classifier
from .training.datasets import shared_latents
from .training.presets import EDITOR_FROM_PAIRS
from .training.stages import STAGES

STARTS_FROM = {
    "classifier": ("vae",),
    "text2image": ("vae", "clip"),
    "editor": ("text2image",),
    "instructions": ("language",),
}
"""stage -> the earlier stages whose weights it starts from"""
FROM_PAIRS = "editor-from-pairs"
"""the editor on generated pairs, as the paper's"""
PAIRS = replace(miniature.RECIPE, captions=4000)
"""how its pairs are generated: of twice as many captions as those of `tiny make-data`"""
SHIPPED = ("vae", "clip", "classifier", "text2image", "editor", FROM_PAIRS, "instructions")
SHARE_VAE = ("text2image", "editor", FROM_PAIRS)
"""those that find their autoencoder in vae.safetensors beside them"""
Show = Callable[[Iterator[Log], int, str], None]
"""(training, steps in all, name): runs a training and shows its progress"""


def rebuild(out: Path, runs: Path, show: Show, device: torch.device | str = "cpu") -> dict[str, Path]:
    """Train every stage; write what is shipped to `out`. If it is stopped, the same call continues.

    runs: the folder of the runs and of the generated pairs. Returns name -> weights of every model.
    """
    models = {name: runs / name / "model.safetensors" for name in (*STAGES, FROM_PAIRS)}

    def train(name: str, stage: str, config: Any, *starts_from: str) -> None:
        spec, folder, init_from = STAGES[stage], runs / name, [models[other] for other in starts_from]
        config = spec.resolve(config, init_from)
        with shared_latents(config, folder):
            show(start_or_resume(spec, config, folder, init_from=init_from, device=device), config.train.steps, name)

    for name, spec in STAGES.items():
        train(name, name, spec.presets["tiny"], *STARTS_FROM.get(name, ()))
    pairs = make_pairs(models, runs / "data", device)
    train(FROM_PAIRS, "editor", replace(EDITOR_FROM_PAIRS, data=(str(pairs),)), "text2image")
    out.mkdir(parents=True, exist_ok=True)
    for name in SHIPPED:
        to = out / f"{name}.safetensors"
        if name in SHARE_VAE:
            checkpoints.share(models[name], to, {"vae": "vae.safetensors"})
        else:
            replace_file(to, lambda path, name=name: shutil.copyfile(models[name], path))
    return models


def make_pairs(models: dict[str, Path], out: Path, device: torch.device | str = "cpu") -> Path:
    """A precomputed training set, made by the models as the paper's was (`miniature`)."""
    networks = miniature.Models(
        language_model=load_language_model(models["instructions"], device=device),
        text2image=load(models["text2image"], device=device),
        clip=load_clip(models["clip"], device=device),
        classifier=load_classifier(models["classifier"], device=device),
    )
    report = miniature.make(PAIRS, out, networks)
    write_file(out / "report.md", miniature_report.to_markdown(report))
    edits, c = open_edits(out / "pairs"), EDITOR_FROM_PAIRS
    settings = Settings(size=c.size, resize=c.resize, crops=2, flips=c.flip > 0, texts=not c.train_text)
    pipe = load(models["text2image"], device=device, inference=False)
    units = precompute(lambda: pipe, edits, settings, out / "latents", data=read_texts(edits, skip_broken=False).mark)
    for _ in tqdm(units, desc="encoding pairs", unit="unit"):
        pass
    return out / "latents"
