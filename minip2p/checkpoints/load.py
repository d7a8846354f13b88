"""Recognising a checkpoint's layout, and reading single files. Folders are in `folders`."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config import CLIPConfig, Config, from_dict
from . import infer
from .files import open_weights
from .folders import read_folder, take_clip, with_text_model
from .loaded import KINDS, AnyConfig, Loaded, join, refuse_unknown
from .mapped import CheckpointError, Weights
from .tables import Link, ema_name, links, text_rows, unet_rows, vae_rows

UNET, VAE, COMPVIS, OPENCLIP = (
    "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.", "cond_stage_model.model."
)  # fmt: skip
IGNORED = re.compile(
    r"(alphas_cumprod|sqrt_|log_one_minus_|posterior_|ddim_|model_ema\.(decay|num_updates)$|(first_stage_model\.)?loss\.)"
    r"|(betas|lvlb_weights|logvar|scale_factor|num_timesteps|global_step|denoiser\.sigmas)$"
    r"|cond_stage_model\.(model\.)?(logit_scale|text_projection|attn_mask)$"
    r"|.*\bposition_ids$"
)
"""Tensors that are no weights of ours: schedule tables, the autoencoder's discriminator, index buffers."""


def read(path: str | Path, *, ema: bool = True, config: AnyConfig | None = None) -> Loaded:
    """Recognise a checkpoint's layout and read it; nothing in it is run, no weight is copied.

    `ema` takes averaged weights where the file has both. `config` replaces what would be read or guessed from the file.
    Raises CheckpointError (a ValueError) in one line that names the file, FileNotFoundError where there is none.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return read_folder(path, ema, config)
    weights = open_weights(path)
    if weights.metadata.get("format") == "minip2p":
        return _read_ours(path, weights, ema, config)
    names = weights.tensors.keys()
    for sign, what in FOREIGN.items():
        if any(name.startswith(sign) for name in names):
            raise CheckpointError(f"{path}: {what}")
    if any(name.startswith(("visual.", "vision_model.")) for name in names):
        return _read_clip(path, weights, config)
    if any(name.startswith((UNET, VAE, "cond_stage_model.", "encoder.down.")) for name in names):
        return _read_original(path, weights, ema, config)
    few = ", ".join(sorted(names)[:3])
    raise CheckpointError(
        f"{path}: {len(names)} tensors of an unknown layout ({few}, …); expected a Stable Diffusion checkpoint"
    )


FOREIGN = {
    "conditioner.": "a Stable Diffusion XL checkpoint; expected version 1 or 2",
    "lora_": "LoRA weights, an addition to a checkpoint; expected a whole one",
    "down_blocks.": "one network of a diffusers folder; give the folder with its model_index.json",
    "encoder.down_blocks.": "one network of a diffusers folder; give the folder with its config.json",
    "model.layers.": "a language model's weights without their config; give the folder with its config.json",
    "tok_embeddings.": "a Llama with its authors' names; expected a folder as transformers writes it",
    "double_blocks.": "a Flux checkpoint; expected Stable Diffusion 1 or 2",
    "model.diffusion_model.joint_blocks.": "a Stable Diffusion 3 checkpoint; expected version 1 or 2",
    "model.diffusion_model.label_emb.": "a UNet conditioned on pooled vectors (XL, unCLIP); expected version 1 or 2",
}


def _read_ours(path: Path, weights: Weights, ema: bool, config: AnyConfig | None) -> Loaded:
    """Our own file: tensors "unet.…", averages "ema.unet.…"; in the header config, tokenizer and provenance."""
    kind = KINDS.get(weights.metadata.get("kind", ""))
    if kind is None:
        raise CheckpointError(
            f"{path}: holds a {weights.metadata.get('kind')!r}; this version of minip2p knows {', '.join(KINDS)}"
        )
    loaded = _with_metadata(Loaded(path, "minip2p", config), kind, weights.metadata)
    averaged = {name.removeprefix("ema."): t for name, t in weights.tensors.items() if name.startswith("ema.")}
    plain = {name: t for name, t in weights.tensors.items() if not name.startswith("ema.")}
    for name, tensor in (plain | averaged if ema else plain).items():
        part, _, rest = name.partition(".")
        loaded.parts.setdefault(part, {})[rest] = tensor
    loaded.names = {part: {name: join(part, name) for name in tensors} for part, tensors in loaded.parts.items()}
    return loaded


def _with_metadata(loaded: Loaded, kind: type, said: dict[str, str]) -> Loaded:
    """Config, tokenizer and provenance as JSON strings."""
    try:
        config, tokenizer, provenance = (
            json.loads(said.get(key) or "null") for key in ("config", "tokenizer", "provenance")
        )
        return replace(
            loaded,
            config=loaded.config or from_dict(kind, config),
            tokenizer=tokenizer,
            provenance=dict(provenance or {}),
        )
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{loaded.path}: its header does not fit this version of minip2p ({error})") from None


def _read_original(path: Path, weights: Weights, ema: bool, config: Config | None) -> Loaded:
    """CompVis's and Stability AI's single files, whole or in part; an autoencoder's own has names without a prefix."""
    tensors = with_text_model(weights.tensors, COMPVIS)
    names, loaded = tensors.keys(), Loaded(path, "original", config)
    vae = "" if any(name.startswith("encoder.down.") for name in names) else VAE
    sd2 = any(name.startswith(OPENCLIP) for name in names)
    text = OPENCLIP if sd2 else COMPVIS
    if config is None and "minip2p" in weights.metadata:
        loaded = _with_metadata(loaded, Config, _json_dict(path, weights.metadata["minip2p"]))
    if loaded.config is None:
        loaded.config = _guess_config(path, tensors, vae, text, loaded.notes)
    c = loaded.config
    used, dropped = set(), set()
    for part, prefix, rows, column in (
        ("unet", UNET, unet_rows(c.unet), 1),
        ("vae", vae, vae_rows(c.vae), 1),
        ("text", text, text_rows(c.text), 1 if sd2 else 2),
    ):
        if any(name.startswith(prefix) for name in names - used):
            to = list(links(rows, column, prefix))
            chosen, averages = _averaged(path, tensors, to, ema and part != "text")
            used |= loaded.take(part, chosen, to) | averages
    if sd2:
        last = f"{OPENCLIP}transformer.resblocks.{c.text.layers}."  # what follows the penultimate layer
        dropped = {name for name in names if name.startswith(last)}
    refuse_unknown(path, (name for name in names - used - dropped if not IGNORED.match(name)), loaded.parts)
    return loaded


def _averaged(path: Path, tensors: dict[str, Tensor], to: list[Link], ema: bool) -> tuple[dict[str, Tensor], set[str]]:
    """The tensors with averages in place of the plain ones, and the averages' names (derived: their dots are lost)."""
    averages = {link.theirs: ema_name(link.theirs) for link in to if ema_name(link.theirs) in tensors}
    missing = [link.theirs for link in to if link.theirs in tensors and link.theirs not in averages]
    if averages and missing and ema:
        raise CheckpointError(
            f"{path}: averaged weights (EMA) lack {len(missing)} tensors, e.g. {missing[0]}; "
            "ema=False takes the plain ones"
        )
    chosen = {name: tensors[average] for name, average in averages.items()} if ema else {}
    return tensors | chosen, set(averages.values())


def _guess_config(path: Path, tensors: dict[str, Tensor], vae: str, text: str, notes: list[str]) -> Config:
    """A config from shapes; what the file lacks keeps its default."""

    def part(prefix: str, guess: Callable[..., Any], **more: bool) -> Any:
        mine = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        try:
            return guess(mine, **more) if mine else None
        except (KeyError, IndexError) as error:
            raise CheckpointError(
                f"{path}: not a network that Stable Diffusion has ({prefix}* lacks {error.args[0]}); "
                "config= may describe it"
            ) from None

    sd2 = text == OPENCLIP
    found = {
        "unet": part(UNET, infer.unet),
        "vae": part(vae, infer.vae),
        "text": part(text, infer.text, openai=sd2, sd2=sd2),
    }
    if sd2:
        found["text"] = replace(found["text"], projection=None)
        if text + "text_projection" in tensors:  # OpenCLIP's whole tower; its penultimate layer conditions the UNet
            found["text"] = replace(found["text"], layers=found["text"].layers - 1)
    config = Config(**{name: value for name, value in found.items() if value is not None})
    if found["unet"] and found["unet"].linear_projection:
        notes.append(
            f"{path}: whether it predicts eps or v is not written in the file; eps was assumed "
            "(Stable Diffusion 2 for 768 px has schedule.prediction = v, sampling.resolution = 768)"
        )
    return config


def _json_dict(path: Path, text: str) -> dict[str, str]:
    """{"config": {...}, ...} in one string -> its values as strings."""
    try:
        return {key: json.dumps(value) for key, value in json.loads(text).items()}
    except (ValueError, AttributeError, RecursionError):
        raise CheckpointError(f"{path}: its minip2p header is not JSON") from None


def _read_clip(path: Path, weights: Weights, config: CLIPConfig | None) -> Loaded:
    """A CLIP's own file, with OpenAI's names or transformers'."""
    openai = "visual.conv1.weight" in weights.tensors
    try:
        config = config or CLIPConfig(
            text=infer.text(weights.tensors, openai), vision=infer.vision(weights.tensors, openai)
        )
    except (KeyError, IndexError) as error:
        raise CheckpointError(f"{path}: looks like CLIP with a vision transformer, but lacks {error.args[0]}") from None
    return take_clip(Loaded(path, "clip", config), weights.tensors, 1 if openai else 2)
