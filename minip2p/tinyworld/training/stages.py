"""The stages that make the shipped weights, each on data sets of the tiny world."""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from ...training import build
from ...training.clip import CLIPStage
from ...training.config import HELD_OUT, CLIPTraining
from ...training.data import Mixture
from ...training.diffusion import DiffusionStage
from ...training.language import (
    LanguageStage,
    TextData,
    build_instruction_model,
    epochs_to_steps,
    instruction_stage,
    language_stage,
)
from ...training.pairs import pairs_stage
from ...training.stages import StageSpec
from ...training.vae import VAEStage
from ..grammar import check_completion, sample_triplet
from . import presets
from .classifier import make_classifier
from .config import (
    ClassifierTraining,
    TinyDiffusionTraining,
    TinyInstructionTraining,
    TinyLanguageTraining,
    TinyVAETraining,
)
from .datasets import (
    TinyWorldDataset,
    captioned_scenes,
    draw_triplets,
    encode_edits,
    scene_cuts,
    scene_images,
    scene_text,
)
from .previews import EditPreview
from .vocab import learn_pieces, tokenizer_for


def make_vae(config: TinyVAETraining, out: Path, init_from: build.Files, device: torch.device) -> VAEStage:
    """The autoencoder's training, on cuts of scenes, evaluated on whole ones."""
    cuts, whole = partial(scene_cuts, config.size, config.cut), partial(scene_images, config.size)
    return VAEStage(config, cuts, init_from, whole)


def make_clip(config: CLIPTraining, out: Path, init_from: build.Files, device: torch.device) -> CLIPStage:
    """CLIP's training, on scenes and their captions."""
    images = partial(captioned_scenes, config.size)
    return CLIPStage(config, images, *tokenizer_for(config.model.text), init_from)


def make_denoiser(
    config: TinyDiffusionTraining, out: Path, init_from: build.Files, device: torch.device
) -> DiffusionStage:
    """An editor or a text-to-image model, by the inputs of its network; on pairs where `config.data` names some."""
    c, seed = config, config.train.seed
    pipe = build.build_pipeline(c, init_from, device, tokenizer_for)
    if c.data:
        if pipe.kind != "editor":
            raise ValueError("data: a text-to-image model is trained on the tiny world; edit pairs train an editor")
        return pairs_stage(c, pipe)
    if c.buckets or not isinstance(c.size, int):
        raise ValueError(
            f"size = {c.size}, buckets = {c.buckets}: the tiny world's images are square; give --data PATH"
        )
    text = "instruction" if pipe.kind == "editor" else "caption"
    cache = out / "latents.safetensors"
    edits = encode_edits(pipe.vae, cache, scenes=c.sources, per_scene=c.edits, size=c.size, seed=seed)
    examples = Mixture(sets=[TinyWorldDataset(edits, text, c.full_caption_steps)], weights=[1.0], seed=seed)
    preview = EditPreview(c.size, seed, text)
    return DiffusionStage(c, pipe, examples, preview.examples(c.held_out), preview, f"the tiny world, seed {seed}")


def make_language(
    config: TinyLanguageTraining, out: Path, init_from: build.Files, device: torch.device
) -> LanguageStage:
    """The language model's training, on texts of the tiny world."""
    pieces = learn_pieces(config.model.vocab_size, config.triplets)
    return language_stage(config, partial(scene_text, config.texts), pieces, init_from)


def make_instructions(
    config: TinyInstructionTraining, out: Path, init_from: build.Files, device: torch.device
) -> LanguageStage:
    """The instruction model's training, on triplets of the tiny world, or of `config.data`."""
    c, base = config, build_instruction_model(init_from)
    texts = None
    if c.rehearsed:
        texts = TextData(partial(scene_text, c.texts), base.pieces, c.rehearsed, c.length, (c.train.seed, 1))
    if c.data:
        return instruction_stage(c, base, texts=texts)
    rng = np.random.default_rng([c.train.seed, HELD_OUT])
    captions = [sample_triplet(rng).input for _ in range(64)]
    triplets = draw_triplets(c.triplets, balanced=True)
    return instruction_stage(c, base, triplets, texts=texts, captions=captions, check=is_consistent)


def is_consistent(caption: str, completion: str) -> bool:
    """Whether the edited caption of a completion follows from its instruction, by the tiny world's grammar."""
    return check_completion(caption, completion)[1] is None


def resolve_instructions(config: TinyInstructionTraining, init_from: build.Files) -> TinyInstructionTraining:
    """The config with the steps that its epochs take."""
    return epochs_to_steps(config, None if config.data else config.triplets)


STAGES = {
    "vae": StageSpec(config=TinyVAETraining, presets={"tiny": presets.VAE}, make=make_vae),
    "clip": StageSpec(config=CLIPTraining, presets={"tiny": presets.CLIP}, make=make_clip),
    "classifier": StageSpec(config=ClassifierTraining, presets={"tiny": presets.CLASSIFIER}, make=make_classifier),
    "language": StageSpec(config=TinyLanguageTraining, presets={"tiny": presets.LANGUAGE}, make=make_language),
    "instructions": StageSpec(
        config=TinyInstructionTraining,
        presets={"tiny": presets.INSTRUCTIONS},
        make=make_instructions,
        resolve=resolve_instructions,
    ),
    "text2image": StageSpec(
        config=TinyDiffusionTraining,
        presets={"tiny": presets.TEXT2IMAGE},
        make=make_denoiser,
        resolve=partial(build.resolve_config, edits=False),
    ),
    "editor": StageSpec(
        config=TinyDiffusionTraining,
        presets={"tiny": presets.EDITOR},
        make=make_denoiser,
        resolve=partial(build.resolve_config, edits=True),
    ),
}
"""in the order in which the recipe trains them"""
