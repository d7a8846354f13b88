"""The runs of `minip2p ablate`: how a variant is checked, trained and evaluated, in any process."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from . import train as training
from .arguments import Device, Threads, optional

if TYPE_CHECKING:
    from torch import nn

    from ..evaluation.ablation import Variant
    from ..pipeline import Pipeline
    from ..units import Work

EVALUATION = "evaluation"
"""folder of CLIP's samples in that of a run"""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What all runs have in common."""

    stage: Literal["editor", "text2image"] = "editor"
    """what is trained; text2image in the tiny world alone"""
    preset: Literal["tiny", "sd15"] = "tiny"
    """the config of the baseline, which --set changes"""
    data: Annotated[str | None, optional("PATH", "(default: the tiny world)")] = None
    """pairs to train on, as for minip2p train"""
    init_from: Annotated[tuple[str, ...], optional("PATH ...")] = ()
    """checkpoints that every training starts from"""
    steps: Annotated[int | None, optional("N", "(default: the preset's)")] = None
    """steps of every training"""
    batch_size: Annotated[int | None, optional("B", "(default: the preset's)")] = None
    """items per step of every training"""
    set: Annotated[tuple[str, ...], arg(metavar="NAME=VALUE ...")] = ()
    """changes to the config of all variants, the baseline too"""
    metrics: Annotated[
        tuple[Literal["truth", "clip"], ...] | None, optional("{truth,clip} ...", "(default: all that can be)")
    ] = None
    """truth: which of the tiny world's held-out edits are correct, and their PSNR; for text2image, which captions;
    clip: CLIP's similarities on pairs with captions, as minip2p evaluate measures them"""
    test: Annotated[str | None, optional("PATH", "(default: --data)")] = None
    """clip: the pairs that are edited"""
    split: Literal["test", "val", "train", "all"] = "test"
    """clip: which of these pairs; all where none of them is trained on"""
    clip: Annotated[str | None, optional("PATH", "(default: the shipped tiny CLIP)")] = None
    """clip: a CLIP checkpoint"""
    number: int = 300
    """items, at most, that each model is evaluated on"""
    sampling_steps: int = 30
    """steps of the sampler"""
    image_scales: Annotated[tuple[float, ...], optional("FLOAT ...", "(default: the model's own)")] = ()
    """clip: several make a curve"""
    device: Device = "auto"
    threads: Threads = None

    @property
    def pairs(self) -> str | None:
        """What CLIP evaluates on."""
        return self.test or self.data

    @property
    def all_metrics(self) -> tuple[str, ...]:
        """The default in words."""
        if self.metrics is not None:
            return self.metrics
        clip = self.stage == "editor" and self.pairs
        return (*(["truth"] if self.preset == "tiny" else []), *(["clip"] if clip else []))

    @property
    def header(self) -> dict[str, Any]:
        """What determines the results, as values of JSON."""
        names = ("stage", "preset", "data", "steps", "batch_size", "test", "split", "clip", "number", "sampling_steps")
        lists = ("init_from", "set", "image_scales")
        found = {name: getattr(self, name) for name in names} | {name: [*getattr(self, name)] for name in lists}
        return found | {"metrics": [*self.all_metrics]}


def config_of(options: RunOptions, variant: "Variant", seed: int, folder: Path) -> tuple[Any, Any]:
    """The stage and the config of a run, as `minip2p train` would have them. ValueError for wrong words."""
    words = [_in_full(word) for word in variant.words]
    if any(word.startswith("train.seed=") for word in words):
        raise ValueError("train.seed: the ablation sets it; --seeds says how many there are")
    same = {name: getattr(options, name) for name in ("stage", "preset", "data", "init_from", "steps", "batch_size")}
    words = (*options.set, *words, f"train.seed={seed}")
    return training.config_of(training.Options(**same, out=str(folder), set=words), folder)


def _in_full(word: str) -> str:
    """ "data=a" as "data=('a',)", which the config needs."""
    from ..schema import literal

    name, _, text = word.partition("=")
    return f"data={(text,)!r}" if name == "data" and isinstance(literal(text), str) else word


def check_variant(options: RunOptions, variant: "Variant", seed: int, folder: Path) -> "nn.Module":
    """Everything that can be known before the training; its denoiser. Raises ValueError for words that do not exist or
    do not fit together, and for data that cannot be trained on."""
    import torch

    from ..tinyworld.training.vocab import tokenizer_for
    from ..training.build import build_pipeline

    spec, config = config_of(options, variant, seed, folder)
    if config.data:
        return spec.make(config, folder, options.init_from, torch.device("cpu")).pipe.unet
    return build_pipeline(config, options.init_from, "cpu", tokenizer_for).unet


def check_evaluation(options: RunOptions) -> None:
    """What can be known before the first training. Raises ValueError for items and models that are not there."""
    from ..evaluation.curves import Settings
    from ..loading import load_clip

    Settings(n=options.number, steps=options.sampling_steps, image_scales=options.image_scales or None)
    if "clip" in options.all_metrics:
        clip_work(options, Path("run/model.safetensors"))
        load_clip(options.clip)


def train(options: RunOptions, variant: "Variant", seed: int, folder: Path) -> None:
    """Train a run, or continue it."""
    from ..engines import local_device
    from ..tinyworld.training.datasets import shared_latents
    from ..training.progress import show_progress
    from ..training.stages import start_or_resume

    spec, config = config_of(options, variant, seed, folder)
    with shared_latents(config, folder):
        logs = start_or_resume(spec, config, folder, init_from=options.init_from, device=local_device(options.device))
        show_progress(logs, config.train.steps, folder.name, quiet=int(os.environ.get("RANK", 0)) > 0)


def evaluate(options: RunOptions, weights: Path) -> list[dict[str, Any]]:
    """A row for each item and metric."""
    from ..engines import local_device
    from ..loading import load

    pipe = load(weights, device=local_device(options.device), dtype="float32")
    metrics = {"truth": by_truth, "clip": by_clip}
    return [row for name in options.all_metrics for row in metrics[name](options, pipe, weights)]


def by_truth(options: RunOptions, pipe: "Pipeline", weights: Path) -> list[dict[str, Any]]:
    """In the tiny world, where the right answer is known."""
    from ..tinyworld.classifier import load_classifier
    from ..tinyworld.evaluation import attributes, edits

    how = {"n": options.number, "steps": options.sampling_steps}
    if options.stage == "text2image":
        found = attributes.evaluate_text2image(pipe, load_classifier(device=pipe.device), **how)
        return [{"key": f"caption {i}", "correct": truth == shown} for i, (truth, shown) in enumerate(found)]
    results = edits.evaluate_editor(pipe, **how)
    rows = enumerate(results)
    return [{"key": f"edit {i}", "kind": r.edit.kind, "correct": r.correct, "psnr": r.psnr} for i, r in rows]


def by_clip(options: RunOptions, pipe: "Pipeline", weights: Path) -> list[dict[str, Any]]:
    """On a set of pairs, at each image scale; the samples stay with the run."""
    from .. import engines
    from ..data.tables import read_rows
    from ..evaluation.metrics import KEYS
    from ..loading import load_clip

    work = clip_work(options, weights, pipe, load_clip(options.clip, device=pipe.device))
    for _ in engines.run(work):
        pass
    kept = ("key", "point", KEYS["image"], KEYS["direction"])
    rows = [row for name in work.names for _, row in read_rows(work.folder / name)]
    return [{key: row[key] for key in kept if row[key] is not None} for row in rows]


def clip_work(options: RunOptions, weights: Path, *models: Any) -> "Work":
    """The samples of a run. Raises ValueError for a set without such items, or without captions."""
    from ..data.edits import open_edits
    from ..evaluation.curves import Curve, Settings
    from ..evaluation.sweep import sweep

    scales = options.image_scales
    how = {"n": options.number, "steps": options.sampling_steps, "split": options.split}
    settings = Settings(**how, image_scales=scales or None, threads=options.threads)
    curve = Curve(name=EVALUATION, method="editor", source=str(weights), points=scales or (None,))
    return sweep(partial(_models, *models), curve, open_edits(str(options.pairs)), settings, weights.parent)


def _models(*models: Any) -> tuple:
    return models
