"""Recognising a checkpoint's layout, and reading single files. Folders are in `folders`."""

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config import Config, from_dict, override
from . import foreign, infer
from .clip import CLIP_WORDS, read_clip, sd2_text_of, text_of, with_text_model
from .described import Words, alphas_cumprod, words_of_file
from .dino import is_dino, read_dino
from .files import CheckpointError, Weights, open_weights
from .folders import read_folder, read_vae_file
from .loaded import FORMER, KINDS, Header, Loaded, join, refuse_unknown
from .tables import COMPVIS, DIFFUSION, FIRST_STAGE, OPENCLIP, Link, ema_name, pipeline_links, same_attention

IGNORED = re.compile(
    r"(alphas_cumprod|sqrt_|log_one_minus_|posterior_|ddim_|(first_stage_model\.)?loss\.)"
    r"|((model_)?ema\.)?(decay|num_updates|initted|step|n_averaged)$"
    r"|(betas|lvlb_weights|logvar|scale_factor|num_timesteps|global_step|denoiser\.sigmas|v_pred|ztsnr)$"
    r"|cond_stage_model\.(model\.)?(logit_scale|text_projection|attn_mask)$"
    r"|.*\bposition_ids$"
)
"""What our networks do not have: schedules, markers, counters of averages, a discriminator, index buffers."""
AVERAGES = re.compile(r"(?:ema|ema_model|model_ema|ema_state_dict)\.(?=.+\.)")
"""before the names of averages in other libraries' files, which keep their dots"""


def read(path: str | Path, *, ema: bool = True, config: Any = None) -> Loaded:
    """Recognise a checkpoint's layout and read it. No code in it is run, and no weight is copied.

    `ema` takes the averaged weights of a file that has both. `config` replaces the one in the file, or the guess.
    Raises CheckpointError (a ValueError) in one line that names the file, FileNotFoundError for a missing file.
    """
    return _read(Path(path).expanduser(), ema, config).check_counts()


def _read(path: Path, ema: bool, config: Any) -> Loaded:
    if os.path.isdir(path):
        return read_folder(path, ema, config)
    if not os.path.lexists(path):
        raise FileNotFoundError(f"{path}: {foreign.of_missing(path)}")
    weights = open_weights(path)
    if weights.metadata.get("format") == "minip2p":
        return _read_ours(path, weights, ema, config)
    names = weights.tensors.keys()
    if any(name.startswith(("visual.", "vision_model.")) for name in names):
        return read_clip(path, weights.tensors, config)
    if is_dino(set(names)):
        return read_dino(path, weights.tensors, config)
    if any(name.startswith("encoder.down_blocks.") for name in names):
        return read_vae_file(path, weights.tensors, config)
    if what := foreign.of_tensors(names, [tuple(t.shape) for t in weights.tensors.values()]):
        raise CheckpointError(f"{path}: {what}")
    if any(name.startswith((DIFFUSION, FIRST_STAGE, "cond_stage_model.", "encoder.down.")) for name in names):
        return _read_original(path, weights, ema, config)
    few = f" ({', '.join(sorted(names)[:3])}, …)" if names else ""
    raise CheckpointError(
        f"{path}: {len(names)} tensors of an unknown layout{few}; expected a Stable Diffusion checkpoint"
    )


def replace_vae(loaded: Loaded, path: str | Path, ema: bool = True) -> None:
    """Give a checkpoint another file's autoencoder, in place of its own if it has one; its provenance says so.

    The file: an autoencoder alone or a whole checkpoint, in any layout. Raises CheckpointError for a file without one,
    and for one with other latents than those that the denoiser was trained on.
    """
    other = read(path, ema=ema)
    if "vae" not in other.parts:
        raise CheckpointError(f"{path}: has no autoencoder, but {', '.join(other.parts)}; expected a file with one")
    c, vae = loaded.config, other.config.vae
    for name, found, wanted in (
        ("channels in its latents", vae.latent_channels, c.denoiser_config.out_channels),
        ("as the latents' scaling factor", vae.scaling_factor, c.vae.scaling_factor),
        ("pixels for each side of a latent", vae.factor, c.vae.factor),
    ):
        if not math.isclose(found, wanted, rel_tol=1e-3):
            raise CheckpointError(
                f"{path}: its autoencoder has {found:g} {name}, the denoiser of {loaded.path} wants {wanted:g}: it was "
                "trained with another"
            )
    loaded.config = replace(c, vae=vae)
    loaded.parts["vae"], loaded.names["vae"] = other.parts["vae"], other.names["vae"]
    loaded.provenance["vae"] = {"file": other.path.name}
    loaded.notes += other.notes


def _read_ours(path: Path, weights: Weights, ema: bool, config: Any) -> Loaded:
    """Our own file: tensors "unet.…", averages "ema.unet.…"; config, tokenizer and provenance are in the header."""
    word = weights.metadata.get("kind", "")
    kind = KINDS.get(FORMER.get(word, word))
    if kind is None:
        raise CheckpointError(f"{path}: holds a {FORMER.get(word, word)!r}; expected one of {', '.join(KINDS)}")
    loaded = _with_header(Loaded(path, "minip2p", config), kind, weights.metadata)
    tensors = _shared(path, loaded.shared) | weights.tensors
    averaged = {name.removeprefix("ema."): t for name, t in tensors.items() if name.startswith("ema.")}
    plain = {name: t for name, t in tensors.items() if not name.startswith("ema.")}
    for name, tensor in (plain | averaged if ema else plain).items():
        part, _, own = name.partition(".")
        loaded.parts.setdefault(FORMER.get(part, part), {})[own] = tensor
    loaded.names = {part: {name: join(part, name) for name in tensors} for part, tensors in loaded.parts.items()}
    return loaded


def _shared(path: Path, files: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of the parts that are in files beside this one: {"vae": "vae.safetensors"}."""
    tensors: dict[str, Tensor] = {}
    for part, name in files.items():
        if name in ("", "..") or Path(name).name != name:
            raise CheckpointError(f"{path}: its {part} weights are in {name!r}, outside its folder")
        file = path.with_name(name)
        if not os.path.lexists(file):
            raise CheckpointError(
                f"{path}: its {part} weights are in {name} beside it, which is missing; copy it, too, or make one file "
                "of the whole model with minip2p convert"
            )
        mine = {each: t for each, t in open_weights(file).tensors.items() if each.startswith(f"{part}.")}
        if not mine:
            raise CheckpointError(f"{file}: has no {part} weights; {path.name} shares them with it")
        tensors |= mine
    return tensors


def _with_header(loaded: Loaded, kind: type, metadata: dict[str, str]) -> Loaded:
    """With the header's config, tokenizer and provenance: each a JSON string, in other layouts all in "minip2p"."""
    try:
        header = from_dict(Header, json.loads(metadata["minip2p"]) if "minip2p" in metadata else _parsed(metadata))
        config = loaded.config or from_dict(kind, header.config)
        found = {"tokenizer": header.tokenizer, "provenance": header.provenance or {}, "shared": header.shared or {}}
        return replace(loaded, config=config, **found)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{loaded.path}: its header does not fit this version of minip2p ({error})") from None


def _parsed(metadata: dict[str, str]) -> dict[str, Any]:
    return {key: json.loads(metadata.get(key) or "null") for key in ("config", "tokenizer", "provenance", "shared")}


def _read_original(path: Path, weights: Weights, ema: bool, config: Config | None) -> Loaded:
    """CompVis's and Stability AI's single files, whole or in part. A lone autoencoder's names have no prefix."""
    tensors = same_attention(with_text_model(weights.tensors, COMPVIS), column=1)
    tensors = {ema_name(name[at.end() :]) if (at := AVERAGES.match(name)) else name: t for name, t in tensors.items()}
    names, loaded = tensors.keys(), Loaded(path, "original", config, alphas_cumprod=alphas_cumprod(tensors))
    vae = "" if any(name.startswith("encoder.down.") for name in names) else FIRST_STAGE
    sd2 = any(name.startswith(OPENCLIP) for name in names)
    text = OPENCLIP if sd2 else COMPVIS
    if config is None and "minip2p" in weights.metadata:
        loaded = _with_header(loaded, Config, weights.metadata)
    if loaded.config is None:
        described = words_of_file(path, tensors, weights.metadata, loaded.notes)
        loaded.config = _with_words(path, _guess_config(path, tensors, vae, text, loaded.notes, described), described)
    c = loaded.config
    used = set()
    for part, to in pipeline_links(c, "original", openclip=sd2, vae=vae).items():
        if any(link.theirs in names for link in to):
            chosen, averages = _averaged(path, tensors, to, ema and part != "text")
            used |= loaded.take(part, chosen, to) | averages
    unused = f"{OPENCLIP}transformer.resblocks.{c.text.layers}." if sd2 else None  # what follows the penultimate layer
    left = (n for n in names - used if not IGNORED.match(n) and not (unused and n.startswith(unused)))
    refuse_unknown(path, (n for n in left if tensors[n].numel()), loaded.parts)
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


def _guess_config(
    path: Path, tensors: dict[str, Tensor], vae: str, text: str, notes: list[str], described: Words
) -> Config:
    """A config from the tensors' shapes; parts that the file lacks keep their defaults. A note says what is assumed."""
    sd2 = text == OPENCLIP
    found = {}
    guesses: dict[str, tuple[str, Callable[..., Any]]] = {
        "unet": (DIFFUSION, infer.unet),
        "vae": (vae, infer.vae),
        "text": (text, sd2_text_of if sd2 else partial(text_of, column=2)),
    }
    for part, (prefix, guess) in guesses.items():
        mine = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        try:
            found |= {part: guess(mine)} if mine else {}
        except (KeyError, IndexError) as error:
            raise CheckpointError(
                f"{path}: not a network of Stable Diffusion ({prefix}* lacks {error.args[0]}); give its config="
            ) from None
        except ValueError as error:
            raise CheckpointError(f"{path}: {part}.{error}, which its tensors do not fit; give its config=") from None
    config = Config(**found)
    if "unet" in found and config.unet.linear_projection and "schedule.prediction" not in described:
        notes.append(
            f"{path}: the file does not say whether it predicts eps or v; eps was assumed "
            "(Stable Diffusion 2 for 768 px has schedule.prediction = v, sampling.resolution = 768)"
        )
    for part in found.keys() & {"unet", "vae"}:
        if (groups := getattr(config, part).norm_groups) != 32:
            notes.append(f"{path}: its {part} is too narrow for 32 groups in a norm; {groups} were assumed")
    if "text" in found and (more := config.text.vocab_size - CLIP_WORDS) > 0:
        notes.append(f"{path}: its text encoder has {more} tokens more than CLIP's {CLIP_WORDS}, which no text has")
    return config


def _with_words(path: Path, config: Config, described: Words) -> Config:
    """The config with what the file says of itself. Raises CheckpointError where its tensors contradict it."""
    inputs = described.get("unet.in_channels", config.unet.in_channels)
    if inputs != config.unet.in_channels:
        raise CheckpointError(
            f"{path.with_suffix('.yaml')}: in_channels = {inputs}, but the UNet in {path.name} has "
            f"{config.unet.in_channels}: it is another model's"
        )
    try:
        return override(config, *(f"{word}={value!r}" for word, value in described.items()))
    except ValueError as error:
        raise CheckpointError(f"{path}: what it says of itself does not hold: {error}") from None
