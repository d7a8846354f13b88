"""Words of a training's config that have no effect, so that whoever sets one hears of it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import checkpoints
from ..config import Config, kind_of
from ..data.latents import is_precomputed
from .config import CLIPTraining, DiffusionTraining, InstructionTraining, LanguageTraining, VAETraining

Files = Sequence[str | Path]


def refuse_unused(config: Any, words: Sequence[str], init_from: Files) -> None:
    """Raise ValueError for the first of the words ("train.seed=1") that this training would ignore."""
    names = {word.partition("=")[0].strip(): word for word in words}
    for unused, why in unused_words(config, init_from, names):
        for name, word in names.items():
            if name == unused or name.startswith(f"{unused}."):
                raise ValueError(f"--set {word} would have no effect: {why}")


def unused_words(config: Any, init_from: Files, given: dict[str, str]) -> Iterator[tuple[str, str]]:
    """(name of a word, or of a part with its words; why it has no effect)."""
    if isinstance(config, DiffusionTraining):
        yield from _of_model(config.model, init_from)
        yield from _of_data(config)
    if isinstance(config, VAETraining):
        yield "model.scaling_factor", "it is measured when the autoencoder is written"
        if config.model.norm != "group":
            yield "model.norm_groups", f"the norm is {config.model.norm}"
    learned = {CLIPTraining: "model.text", LanguageTraining: "model"}
    for part in [part for kind, part in learned.items() if isinstance(config, kind)]:
        for name in ("bos", "eos", "pad"):
            yield f"{part}.{name}", "the vocabulary that is learned sets it"
    if isinstance(config, InstructionTraining):
        if config.data:
            yield "triplets", "data names a table"
        if "train.steps" in given:
            yield "epochs", "train.steps is given, too"
        if not getattr(config, "rehearsed", 1):
            yield "texts", "rehearsed is 0"
    if not getattr(config, "lora_rank", 1):
        yield "lora_alpha", "lora_rank is 0"
        yield "lora_also", "lora_rank is 0"
    if not getattr(config, "decoded", 1):
        yield "latent_noise", "decoded is 0"
        yield "decoded_fraction", "decoded is 0"


def _of_model(model: Config, init_from: Files) -> Iterator[tuple[str, str]]:
    files = [checkpoints.read(path) for path in init_from]
    parts = {part for file in files if isinstance(file.config, Config) for part in file.parts}
    unused = "unet" if model.denoiser == "dit" else "dit"
    yield f"model.{unused}", f"the denoiser is a {model.denoiser}"
    if "vae" not in parts:
        yield "model.vae", "the shipped autoencoder is used; give --init-from a file with another"
    if "text" not in parts:
        for name in ("bos", "eos", "pad"):
            yield f"model.text.{name}", "the vocabulary that is learned sets it"
    if model.unet.norm != "group":
        yield "model.unet.norm_groups", f"the norm is {model.unet.norm}"
    kind = model.schedule.kind
    for name in ("start", "end") if kind in ("flow", "cosine") else ():
        yield f"model.schedule.{name}", f"the schedule is {kind}"
    if kind != "flow":
        yield "model.schedule.shift", f"the schedule is {kind}, not flow"


def _of_data(config: DiffusionTraining) -> Iterator[tuple[str, str]]:
    if not config.data:
        names = "weights columns draw fraction filtered skip_broken resize buckets flip preview_scales"
        for name in names.split():
            yield name, "data names no sets of pairs"
    elif all(map(is_precomputed, config.data)):
        yield "resize", "the crops are precomputed"
        yield "flip", "the crops are precomputed"
        yield "columns", "the set is precomputed"
        yield "filtered", "the pairs were chosen before they were encoded; give the folder of pairs"
    for name in ("sources", "edits", "full_caption_steps") if config.data else ():
        yield name, "data names sets of pairs"
    if kind_of(config.model) == "editor":
        yield "full_caption_steps", "an editor reads instructions"
    else:
        yield "image_condition", "a text-to-image model has no source image"
