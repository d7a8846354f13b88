"""Writing a checkpoint in any layout."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..config import Config, LlamaConfig, to_dict
from ..files import remove_unfinished, replace_folder
from . import configs
from .files import CheckpointError, on_cpu, open_weights, require_finite, whole, write_safetensors, write_torch
from .folders import FOLDERS, fill_folder
from .language import fill_language_folder
from .loaded import KINDS, join
from .tables import ema_name, pipeline_links, push

LAYOUTS = ("minip2p", "original", "diffusers", "transformers")
Parts = dict[str, dict[str, Tensor]]


class Tokenizer(Protocol):
    """What is written of a tokenizer: `text.bpe.BPE` and `text.pieces.Pieces` are such values."""

    def to_dict(self) -> dict: ...

    def save(self, path: Path) -> object:
        """Write it as files into a folder."""


def write(
    path: str | Path,
    layout: str,
    config: Any,
    parts: Parts,
    *,
    tokenizer: Tokenizer | None = None,
    provenance: dict | None = None,
    dtype: torch.dtype | None = None,
    ema_parts: Parts | None = None,
) -> None:
    """Write `parts` (our names: {"unet": {name: tensor}, ...}, any subset) as `path`, atomically.

    layout: "minip2p", one safetensors file with the config in its header; "original", a single file as CompVis's and
    Stability AI's, a pickle if `path` ends with .ckpt; "diffusers", a folder; "transformers", a language model's
    folder. `dtype=None` keeps each tensor's own. `tokenizer=None` is CLIP's own vocabulary; a folder with a text
    encoder or a language model needs one. `ema_parts` are averaged weights beside the plain ones: None writes
    none but in the original layout, whose UNet then has averages equal to its weights, because the authors' code runs
    the averages and nothing else. A .safetensors is larger by the UNet then, a .ckpt is not. Raises CheckpointError for
    a config that the layout cannot describe, and for weights that are not finite, also as `dtype`.
    """
    path, provenance = Path(path).expanduser(), provenance or {}
    remove_unfinished(path.parent, {path.name})
    _check(path, layout, config, parts, tokenizer)
    for name, tensor in (_flat(parts) | _flat(ema_parts or {}, "ema.")).items():
        require_finite(tensor, name, path, dtype)
    if ema_parts is None:
        ema_parts = {part: parts[part] for part in ("unet",) if layout == "original" and part in parts}
    header = {"config": to_dict(config), "tokenizer": tokenizer and tokenizer.to_dict(), "provenance": provenance}
    if layout == "minip2p":
        words = {key: json.dumps(value) for key, value in header.items()}
        metadata = {"format": "minip2p", "version": "1", "kind": _kind(config)} | words
        write_safetensors(path, _flat(parts) | _flat(ema_parts, "ema."), metadata, dtype)
    elif layout == "transformers":
        more = (config, parts["language_model"], tokenizer, provenance, dtype)
        signs = ("minip2p.json", "tokenizer.model")
        _write_folder(path, signs, "a folder of a language model", lambda folder: fill_language_folder(folder, *more))
    else:
        used = _used_layers(config)
        theirs, averages = _theirs(config, layout, parts), _theirs(config, layout, ema_parts)
        if layout == "original":
            header["config"] = to_dict(used)
            _write_original(path, theirs, averages, {"minip2p": json.dumps(header)}, dtype)
        else:
            plain = {part: tensors for part, tensors in theirs.items() if part in averages}
            more = (used, theirs | averages, plain, tokenizer, provenance, dtype)
            signs = ("model_index.json",)
            _write_folder(path, signs, "a diffusers folder", lambda folder: fill_folder(folder, *more))


def share(source: str | Path, target: str | Path, shared: Mapping[str, str]) -> None:
    """Copy a file of ours without the parts that lie in files beside the copy: {"vae": "vae.safetensors"}.

    So that several models of a folder share an autoencoder; `read` finds it. Raises CheckpointError for another layout,
    and where the file beside the copy has other weights.
    """
    weights, target = open_weights(Path(source)), Path(target)
    if weights.metadata.get("format") != "minip2p":
        raise CheckpointError(f"{source}: expected a file of minip2p's own layout")
    tensors = weights.tensors
    for part, name in shared.items():
        theirs = open_weights(target.with_name(name)).tensors
        for each in [each for each in tensors if each.startswith(f"{part}.")]:
            if each not in theirs or not torch.equal(theirs[each], tensors.pop(each)):
                raise CheckpointError(f"{target.with_name(name)}: its {each} is not that of {source}")
    write_safetensors(target, tensors, weights.metadata | {"shared": json.dumps(dict(shared))})


def _check(path: Path, layout: str, config: Any, parts: Parts, tokenizer: Tokenizer | None) -> None:
    """Raise CheckpointError if the layout cannot describe the model."""
    if layout not in LAYOUTS:
        raise CheckpointError(f"layout = {layout!r}: expected one of {', '.join(LAYOUTS)}")
    if layout == "minip2p":
        return
    if isinstance(config, LlamaConfig) != (layout == "transformers") or not isinstance(config, (Config, LlamaConfig)):
        kind = _kind(config)
        fits = {"model": "'minip2p', 'original' or 'diffusers'", "language_model": "'minip2p' or 'transformers'"}
        what = "pipeline" if kind == "model" else kind.replace("_", " ")
        raise CheckpointError(f"a {what} has no {layout} layout; expected {fits.get(kind, repr('minip2p'))}")
    if layout != "original" and tokenizer is None and parts.keys() & {"text", "language_model"}:
        raise CheckpointError(f"{path}: a {layout} folder needs a tokenizer; give tokenizer=")
    if isinstance(config, Config):
        _check_words(layout, config, parts)


def _kind(config: Any) -> str:
    return next(word for word, each in KINDS.items() if isinstance(config, each))


def _check_words(layout: str, config: Config, parts: Parts) -> None:
    """The other layouts have one norm, one feed-forward, and transformers with both attentions or none."""
    known = {
        "unet.norm": {"group"},
        "unet.feed_forward": {"geglu"},
        "unet.attention": {"full", "none"},
        "unet.mid_attention": {"full"},
        "vae.norm": {"group"},
        "text.projection": {None},
    }
    if layout == "diffusers":
        known["schedule.kind"] = {*configs.BETAS.values(), "zero_snr"}
        known["schedule.prediction"] = set(configs.PREDICTION.values())
    wrong = {part: f"a denoiser {part!r}" for part in parts if part not in FOLDERS}
    for name, words in known.items():
        part, _, word = name.partition(".")
        value = getattr(getattr(config, part), word)
        if part in (*parts, "schedule") and not (set(value) if isinstance(value, tuple) else {value}) <= words:
            wrong[name] = f"{name} = {value!r}"
    if wrong:
        raise CheckpointError(
            f"{next(iter(wrong.values()))} cannot be written as {layout!r}; layout='minip2p' holds any config"
        )


def _flat(parts: Parts, prefix: str = "") -> dict[str, Tensor]:
    """{"unet": {"conv_in.weight": t}} -> {"unet.conv_in.weight": t}; a part may be one tensor."""
    return {
        prefix + join(part, name): tensor
        for part, tensors in parts.items()
        for name, tensor in ({"": tensors} if isinstance(tensors, Tensor) else tensors).items()
    }


def _used_layers(config: Config) -> Config:
    """Without the layers of the text tower that are never run: other layouts cannot describe them."""
    return replace(config, text=replace(config.text, layers=config.text.layers - config.text.skip_last, skip_last=0))


def _theirs(config: Config, layout: str, parts: Parts) -> Parts:
    """Each part's tensors under the layout's names, without the unused layers."""
    used = _used_layers(config)
    names = pipeline_links(used, layout, openclip=used.text.activation == "gelu")
    unused = tuple(f"layers.{i}." for i in range(used.text.layers, config.text.layers))
    if "text" in parts:
        parts = parts | {"text": {name: t for name, t in parts["text"].items() if not name.startswith(unused)}}
    return {part: push(tensors, names[part]) for part, tensors in parts.items()}


def _write_original(
    path: Path, parts: Parts, ema_parts: Parts, header: dict[str, str], dtype: torch.dtype | None
) -> None:
    tensors = {name: t for part in parts.values() for name, t in part.items()}
    tensors |= {ema_name(name): t for part in ema_parts.values() for name, t in part.items()}
    pickled, made = path.suffix == ".ckpt", dict[tuple, Tensor]()  # weights and averages that are one tensor stay one
    for name, t in tensors.items():
        key = t.data_ptr(), t.shape, t.stride(), t.dtype
        made[key] = made[key] if key in made else (whole if pickled else on_cpu)(t, dtype)
        tensors[name] = made[key]
    if ema_parts:
        tensors |= {
            "model_ema.decay": torch.tensor(0.9999),
            "model_ema.num_updates": torch.tensor(0, dtype=torch.int32),
        }
    if pickled:
        write_torch(path, {"state_dict": tensors} | header)
    else:
        write_safetensors(path, tensors, {"format": "pt"} | header)


def _write_folder(path: Path, signs: tuple[str, ...], what: str, fill: Callable[[Path], None]) -> None:
    """Replace an empty folder, or one with all files of `signs`; any other is an error."""
    known = path.is_dir() and (all((path / sign).exists() for sign in signs) or not any(path.iterdir()))
    if path.exists() and not known:
        raise CheckpointError(f"{path}: exists and is not {what}; give another name")
    replace_folder(path, fill)
