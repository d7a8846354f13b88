"""Folders of a diffusers pipeline, one network of it, or a CLIP; those of language models are in `language`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import Config, SamplingConfig, VAEConfig, from_dict, to_dict
from ..files import write_json
from . import configs
from .clip import read_clip, special_tokens, text_config, text_json, with_text_model
from .files import CheckpointError, Weights, open_weights, read_json, write_safetensors
from .language import TYPES, read_language
from .loaded import IGNORED, Loaded, refuse_unknown
from .tables import OLD_DIFFUSERS_VAE, pipeline_links

FOLDERS = {"unet": "unet", "vae": "vae", "text": "text_encoder"}
PARTS = {"UNet2DConditionModel": "unet", "AutoencoderKL": "vae", "CLIPTextModel": "text"}
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")


def read_folder(path: Path, ema: bool, config: Any) -> Loaded:
    """A folder with a `model_index.json`, or with one network's `config.json`."""
    if (path / "model_index.json").exists():
        return _read_pipeline(path, ema, config)
    if (path / "config.json").exists():
        values = read_json(path / "config.json")
        if values.get("model_type") == "clip":
            return read_clip(path, open_member(path, ema).tensors, config)
        if values.get("model_type") in TYPES:
            return read_language(path, open_member(path, ema).tensors, config)
        kind = values.get("_class_name") or (values.get("architectures") or [None])[0]
        if kind in PARTS:
            return _read_members(path, {PARTS[kind]: path}, ema, config)
        raise CheckpointError(
            f"{path / 'config.json'}: describes a {kind}; expected one of {', '.join(PARTS)}, a CLIP, or a language "
            f"model ({', '.join(TYPES.values())})"
        )
    files = sorted(file.name for file in path.iterdir() if file.suffix in (".safetensors", ".ckpt", ".pt", ".bin"))
    few = ", ".join(files[:5])
    hint = f"give one of its files: {few}" if files else "expected model_index.json or config.json in it"
    raise CheckpointError(f"{path}: a folder, but of no known layout; {hint}")


def _read_pipeline(path: Path, ema: bool, config: Config | None) -> Loaded:
    index = read_json(path / "model_index.json")
    members = {part: path / folder for part, folder in FOLDERS.items() if (path / folder).is_dir()}
    for part, folder in FOLDERS.items():
        if part not in members and (index.get(folder) or [None])[0] is not None:
            raise CheckpointError(f"{path / folder}: missing; model_index.json lists it")
    loaded = _read_members(path, members, ema, config)
    loaded.provenance = {"class": index.get("_class_name")}
    if (path / "tokenizer").is_dir():
        loaded.tokenizer = path / "tokenizer"
    elif "text" in members:
        loaded.notes.append(f"{path}: no tokenizer folder; CLIP's own vocabulary was assumed")
    if (path / "minip2p.json").exists():
        ours = read_json(path / "minip2p.json")
        loaded.provenance = ours.get("provenance", loaded.provenance)
        if config is None:
            loaded.config = replace(loaded.config, sampling=from_dict(SamplingConfig, ours.get("sampling", {})))
    return loaded


def _read_members(path: Path, members: dict[str, Path], ema: bool, config: Config | None) -> Loaded:
    opened = {part: open_member(folder, ema).tensors for part, folder in members.items()}
    loaded = Loaded(path, "diffusers", config or _config(path, members))
    to = pipeline_links(loaded.config, "diffusers", openclip=False)
    today = {"unet": dict, "vae": _todays_names, "text": with_text_model}
    for part, tensors in opened.items():
        tensors = today[part](tensors)
        used = loaded.take(part, tensors, to[part])
        refuse_unknown(members[part], (name for name in tensors.keys() - used if not IGNORED.match(name)), [part])
    return loaded


def _todays_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """diffusers < 0.15 had other names for the autoencoder's attention; some files keep it as 1x1 convolutions."""
    renamed = {}
    for name, tensor in tensors.items():
        for old, new in OLD_DIFFUSERS_VAE:
            name = name.replace(f".attentions.0.{old}.", f".attentions.0.{new}.")
        if ".attentions.0.to_" in name and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
            tensor = tensor[:, :, 0, 0]
        renamed[name] = tensor
    return renamed


def open_member(folder: Path, ema: bool) -> Weights:
    """A network's weights: full precision before half, safetensors before pickles, one file before shards.

    If there are averaged and plain weights ("non_ema"), `ema` decides.
    """
    for variant in (".", ".fp16.", ".bf16.") if ema else (".non_ema.", ".", ".fp16.", ".bf16."):
        for kind in ("safetensors", "safetensors.index.json", "bin", "bin.index.json"):
            # published shards are listed by "model.safetensors.index.fp16.json" or "model.fp16.safetensors.index.json"
            other = kind.replace(".index.", f".index{variant}") if "index" in kind else kind
            for stem in STEMS:
                for file in (folder / f"{stem}{variant}{kind}", folder / f"{stem}.{other}"):
                    if file.exists() and (variant == "." or variant[1:-1] in file.name):
                        return open_weights(file)
    raise CheckpointError(f"{folder}: no weights; expected a file such as {STEMS[0]}.safetensors or model.safetensors")


def _config(path: Path, members: dict[str, Path]) -> Config:
    """From the folders' configs; a network that is missing has the defaults."""
    found = {}
    if "unet" in members:
        found["unet"] = configs.unet(members["unet"] / "config.json")
    if "vae" in members:
        found["vae"] = configs.vae(members["vae"] / "config.json")
    if "text" in members:
        found["text"] = text_config(members["text"] / "config.json", special_tokens(path / "tokenizer"))
    if (path / "scheduler" / "scheduler_config.json").exists():
        found["schedule"] = configs.schedule(path / "scheduler" / "scheduler_config.json")
    if "unet" in members:
        found["sampling"] = configs.sampling(members["unet"] / "config.json", _factor(found.get("vae", VAEConfig())))
    return Config(**found)


def _factor(c: VAEConfig) -> int:
    """An image's side / its latent's side."""
    return 2 ** (len(c.widths) - 1)


def fill_folder(
    folder: Path,
    config: Config,
    parts: dict[str, dict[str, Tensor]],
    plain: dict[str, dict[str, Tensor]],
    tokenizer_files: Callable[[Path], object] | None,
    provenance: dict,
    dtype: torch.dtype | None,
) -> None:
    """Write a pipeline that diffusers reads, under its names; `plain` are weights of which `parts` has the averages."""
    values = {
        "unet": configs.unet_json(config.unet, config.sampling.resolution // _factor(config.vae)),
        "vae": configs.vae_json(config.vae, config.sampling.resolution),
        "text": text_json(config.text),
    }
    for variant, each in (("", parts), (".non_ema", plain)):
        for part, tensors in each.items():
            stem = "model" if part == "text" else STEMS[0]
            write_safetensors(folder / FOLDERS[part] / f"{stem}{variant}.safetensors", tensors, {"format": "pt"}, dtype)
    for part in parts:
        write_json(folder / FOLDERS[part] / "config.json", values[part])
    write_json(folder / "scheduler" / "scheduler_config.json", configs.schedule_json(config))
    if tokenizer_files is not None:
        tokenizer_files(folder / "tokenizer")
    members = [*(FOLDERS[part] for part in parts), "scheduler", *(["tokenizer"] if tokenizer_files else [])]
    write_json(folder / "model_index.json", configs.index_json(config, members))
    write_json(folder / "minip2p.json", {"sampling": to_dict(config.sampling), "provenance": provenance})
