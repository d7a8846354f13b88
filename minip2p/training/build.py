"""The networks that a run starts from: with the weights of given checkpoints, otherwise random ones."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import checkpoints
from ..checkpoints.files import require_finite
from ..config import Config, TextConfig, VAEConfig, kind_of
from ..data.sizes import sides
from ..loading import shipped, tokenizer_of
from ..models.clip import CLIP
from ..models.denoisers import DENOISERS
from ..models.llama import Llama
from ..models.text_encoder import TextEncoder
from ..models.vae import AutoencoderKL
from ..nn.blocks import pick
from ..pipeline import Pipeline, fingerprint
from ..pipeline.fingerprint import tokenizer_fingerprint
from ..text.bpe import BPE
from .config import DiffusionTraining

Files = Sequence[str | Path]
NETWORKS: dict[str, Callable[[Any], nn.Module]] = {
    "text": TextEncoder,
    "vae": AutoencoderKL,
    "clip": CLIP,
    "language_model": Llama,
}
"""part of a model -> what makes it of its config; all others are denoisers"""
PROJECTION = "projection.weight"
"""the last layer of CLIP's text tower, which a denoiser's text encoder lacks"""


def build(configs: dict[str, Any], seed: int) -> dict[str, nn.Module]:
    """A network with random weights for each part. Raises ValueError for a denoiser that is not in `DENOISERS`."""
    makers = {part: NETWORKS.get(part) or pick(DENOISERS, part, "denoiser") for part in configs}
    torch.manual_seed(seed)
    return {part: init_weights(makers[part](config)) for part, config in configs.items()}


def load_weights(networks: Mapping[str, nn.Module], init_from: Files) -> set[str]:
    """Give each network the weights of the first file that has them; the parts that got some.

    Raises ValueError for a file that has none of the parts, and for other shapes.
    """
    loaded: set[str] = set()
    for path in init_from:
        file = checkpoints.read(path)
        found = networks.keys() & file.parts.keys()
        if not found:
            raise ValueError(f"{path}: holds no weights of what is trained; expected those of {' or '.join(networks)}")
        for part in found - loaded:
            copy_weights(file, part, networks[part])
        loaded |= found
    return loaded


def init_weights(network: nn.Module) -> nn.Module:
    """Random weights to start from: a denoiser's initial prediction is zero, the layers of a Llama add nothing."""
    if isinstance(network, CLIP):
        for table in (network.text.token, network.text.position, network.vision.position):
            nn.init.normal_(table.weight, std=0.02)
    if isinstance(network, Llama):  # random layers would drown a small model's tokens, and slow it down
        for name, weight in network.named_parameters():
            if name.endswith(("attention.out.weight", "down.weight")):
                nn.init.zeros_(weight)
            elif weight.ndim == 2:
                nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    convolves = isinstance(network, (AutoencoderKL, *DENOISERS.values()))
    return network.to(memory_format=torch.channels_last) if convolves else network


@torch.no_grad()
def copy_weights(file: checkpoints.Loaded, part: str, network: nn.Module) -> None:
    """Copy a part of a file into its network. A text-to-image denoiser is widened where the network has inputs for an
    image. Raises ValueError for other shapes."""
    ours, theirs = network.state_dict(), file.parts[part]
    if PROJECTION not in ours:
        theirs = {name: tensor for name, tensor in theirs.items() if name != PROJECTION}
    if part in DENOISERS and ours["conv_in.weight"].shape[1] == 2 * theirs["conv_in.weight"].shape[1]:
        theirs = checkpoints.widen(theirs, ours["conv_in.weight"].shape[1])
    if ours.keys() != theirs.keys() or any(ours[name].shape != theirs[name].shape for name in ours):
        raise ValueError(
            f"{file.path}: the shapes of its {part} weights are not those of the config; --set can change the config"
        )
    for name, tensor in theirs.items():
        require_finite(tensor, file.names[part].get(name, name), file.path)
    network.load_state_dict({name: tensor.to(ours[name].dtype) for name, tensor in theirs.items()})


def resolve_config(config: DiffusionTraining, init_from: Files, edits: bool) -> DiffusionTraining:
    """The config with the shapes of the networks in the files, and the noise schedule of the denoiser in them.

    edits: the denoiser also gets inputs for the source image, where the file's has none (section 3.2). With LoRA they
    are trained, too, unless they have learned something. Raises ValueError for a denoiser with other inputs.
    """
    model = config.model
    for path in reversed(init_from):  # the first file that has a part wins
        file = checkpoints.read(path)
        if isinstance(file.config, Config):
            shapes = {part: getattr(file.config, part) for part in ("vae", "text") if part in file.parts}
            if file.config.denoiser in file.parts:
                shapes |= {name: getattr(file.config, name) for name in ("denoiser", "unet", "dit", "schedule")}
            model = replace(model, **shapes)
    if edits and kind_of(model) == "text-to-image":
        model = model.with_denoiser(in_channels=2 * model.denoiser_config.in_channels)
    multiple = math.lcm(model.sampling.multiple, model.factor)
    model = replace(model, sampling=replace(model.sampling, multiple=multiple))
    if kind_of(model) != ("editor" if edits else "text-to-image"):
        inputs = f"{kind_of(model)} ({model.denoiser_config.in_channels} input channels)"
        raise ValueError(
            f"the denoiser to start from is of kind {inputs}; expected text-to-image{' or editor' * edits}"
        )
    if edits and config.lora_rank and not reads_image(model, init_from):
        config = replace(config, lora_also=(*config.lora_also, *({"conv_in"} - set(config.lora_also))))
    return replace(config, model=model)


def reads_image(model: Config, init_from: Files) -> bool:
    """Whether the denoiser in the files has weights other than zero for the source image."""
    parts = [file.parts[model.denoiser] for file in map(checkpoints.read, init_from) if model.denoiser in file.parts]
    return bool(parts) and bool(parts[0]["conv_in.weight"][:, model.denoiser_config.out_channels :].any())


def check_changes(words: Sequence[str], init_from: Files) -> None:
    """Raise ValueError for a change to the config of an autoencoder or text encoder that comes from a file with it."""
    words = [word for word in words if word.strip().startswith(("model.vae.", "model.text."))]
    for path in init_from if words else ():
        file = checkpoints.read(path)
        for part in {"vae", "text"} & file.parts.keys() if isinstance(file.config, Config) else ():
            if changed := [word for word in words if word.strip().startswith(f"model.{part}.")]:
                raise ValueError(f"--set {changed[0]}: the config of {path} cannot be changed in training")


def build_pipeline(
    config: DiffusionTraining,
    init_from: Files,
    device: torch.device | str = "cpu",
    learn_tokenizer: Callable[[TextConfig], tuple[BPE, TextConfig]] | None = None,
) -> Pipeline:
    """A denoiser with its autoencoder (the shipped one where the files have none), text encoder and tokenizer.

    learn_tokenizer: makes a tokenizer where the files have none, and sets its size in the text encoder's config.
    Raises ValueError where there is no tokenizer, where networks do not fit each other, and where weights that no file
    has would stay as they are.
    """
    files = [checkpoints.read(path) for path in init_from]
    vae_file = next((file for file in files if "vae" in file.parts), None) or checkpoints.read(shipped("editor"))
    text_file = next((file for file in files if "text" in file.parts), None)
    if text_file is not None and isinstance(text_file.config, Config):
        tokenizer, text = tokenizer_of(text_file, text_file.config.text), text_file.config.text
    elif learn_tokenizer is not None:
        tokenizer, text = learn_tokenizer(config.model.text)
    else:
        raise ValueError("no tokenizer and text encoder to start from: give --init-from PATH, a whole model")
    check_fit(config.model, vae_file.config.vae, text, [file.path for file in files])
    model = replace(config.model, vae=vae_file.config.vae, text=text)
    model.check_together()
    if any(side % model.factor for side in sides(config.size)):
        raise ValueError(f"size = {config.size}: expected a multiple of {model.factor} pixels, as the networks need")
    configs = {model.denoiser: model.denoiser_config, "text": model.text, "vae": model.vae}
    networks = build(configs, config.train.seed)
    loaded = load_weights(networks, init_from)
    if "vae" not in loaded:
        copy_weights(vae_file, "vae", networks["vae"])
    if not config.train_text and "text" not in loaded:
        raise ValueError("train_text=False keeps the text encoder frozen, but has no weights for it: give --init-from")
    if config.lora_rank and model.denoiser not in loaded:
        raise ValueError(f"--lora-rank keeps the {model.denoiser} frozen, but has no weights for it: give --init-from")
    new = kind_of(model) == "editor" and not reads_image(model, init_from)
    if config.image_condition == "none":  # they stay 0, as training only ever shows them zeros
        inputs = networks[model.denoiser].get_parameter("conv_in.weight").detach()
        inputs[:, model.denoiser_config.out_channels :] = 0
    if config.lora_rank and new and "conv_in" not in config.lora_also:
        raise ValueError(
            "the inputs for the source image are new, and --lora-rank keeps them: add conv_in to lora_also"
        )
    denoiser, vae, text_encoder = (networks[part].to(device) for part in (model.denoiser, "vae", "text"))
    random = [part for part in (model.denoiser, "text") if part not in loaded]
    notes = [f"new, with random weights: {' and '.join(random)}; --init-from has none"] if random else []
    notes += ["new, with weights of zero: the inputs for the source image"] if new and not random[:1] else []
    return Pipeline(denoiser, vae, text_encoder, tokenizer, model, notes=tuple(notes), graphs=False)


def check_fit(model: Config, vae: VAEConfig, text: TextConfig, files: Sequence[Path]) -> None:
    """Raise ValueError where the networks of a model do not fit each other, as those of different files may."""
    denoiser, names = model.denoiser_config, ", ".join(map(str, files)) or "no file"
    for what, found, wanted in (
        ("autoencoder has latents of", vae.latent_channels, denoiser.out_channels),
        ("text encoder has a width of", text.width, denoiser.text_width),
    ):
        if found != wanted:
            raise ValueError(
                f"the {what} {found}, the denoiser wants {wanted}: give --init-from a whole model, or one more file "
                f"with such a part ({names})"
            )


def unfreeze(network: nn.Module, names: Sequence[str]) -> None:
    """Train these layers whole. Raises ValueError for a name that the network does not have."""
    layers = dict(network.named_modules())
    for name in names:
        if name not in layers or not name:
            raise ValueError(f"lora_also: the denoiser has no layer {name!r}; it has conv_in, conv_out and others")
        layers[name].requires_grad_(True)


def frozen_marks(pipe: Pipeline, train_text: bool) -> dict[str, str]:
    """What identifies the tokenizer and the networks that stay as they are."""
    networks = {"autoencoder": pipe.vae} | ({} if train_text else {"text encoder": pipe.text_encoder})
    marks = {name: fingerprint({name: network}) for name, network in networks.items()}
    return marks | {"tokenizer": tokenizer_fingerprint(pipe.tokenizer)}
