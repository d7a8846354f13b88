"""Folders of a diffusers pipeline, one network of it, or a CLIP; those of language models are in `language`."""

from collections.abc import Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import Config, SamplingConfig, from_dict, to_dict
from ..files import write_json
from ..schema import Name, theirs
from ..schema import foreign as foreign_file
from . import configs, foreign, infer
from .clip import read_clip, special_ids, text_config, text_json, with_text_model
from .dino import read_dino
from .files import CheckpointError, Weights, open_weights, read_json, write_safetensors
from .language import TYPES, read_language
from .loaded import IGNORED, Header, Loaded, refuse_unknown
from .tables import links, pipeline_links, same_attention, vae_rows

FOLDERS = {"unet": "unet", "vae": "vae", "text": "text_encoder"}
PARTS = {"UNet2DConditionModel": "unet", "AutoencoderKL": "vae", "CLIPTextModel": "text"}
MEMBERS = (*FOLDERS.values(), "unet_ema", "tokenizer", "scheduler")
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
VARIANTS = {True: (".ema", "", ".fp16", ".bf16", ".non_ema"), False: (".non_ema", "", ".fp16", ".bf16", ".ema")}
"""whether averages are wanted -> words in the names of files of weights, from the first to take to the last"""


@foreign_file
class NetworkFile:
    """The `config.json` of one network: what it is."""

    class_name: Name | None = theirs("_class_name", None)
    model_type: Name | None = None
    architectures: tuple[Name, ...] | None = None


def read_folder(path: Path, ema: bool, config: Any) -> Loaded:
    """A folder with a `model_index.json`, with one network's `config.json`, or a hub cache's with such a snapshot."""
    path = _snapshot(path)
    for file in (each for folder in (path, *map(path.joinpath, MEMBERS)) for each in folder.glob("*.*")):
        if file.is_symlink() and not file.exists():
            raise CheckpointError(
                f"{file}: a link to a file that is not there: a download was interrupted, or the cache cleaned; "
                "fetch the repository again"
            )
    if (path / "model_index.json").exists():
        return _read_pipeline(path, ema, config)
    if (path / "config.json").exists():
        file = configs.read_file(path / "config.json", NetworkFile, {})
        if file.model_type == "clip":
            return read_clip(path, open_member(path, ema).tensors, config)
        if file.model_type == "vit":
            return read_dino(path, open_member(path, ema).tensors, config)
        if file.model_type in TYPES:
            return read_language(path, open_member(path, ema).tensors, config)
        kind = file.class_name or (file.architectures or [None])[0]
        if kind in PARTS:
            return _read_members(path, {PARTS[kind]: path}, ema, config)
        raise CheckpointError(
            f"{path / 'config.json'}: describes a {kind}; expected one of {', '.join(PARTS)}, a CLIP, or a language "
            f"model ({', '.join(TYPES.values())})"
        )
    members = {part: path / folder for part, folder in FOLDERS.items() if (path / folder / "config.json").exists()}
    if members:  # as training scripts of diffusers save their state: one network or two, and its averages
        return _read_members(path, _with_averages(members, ema), ema, config)
    files = sorted(file.name for file in path.iterdir() if file.suffix in (".safetensors", ".ckpt", ".pt", ".bin"))
    if what := foreign.of_folder([file.name for file in path.iterdir()]):
        raise CheckpointError(f"{path}: {what}")
    few = ", ".join(files[:5])
    hint = f"give one of its files: {few}" if files else "expected model_index.json or config.json in it"
    raise CheckpointError(f"{path}: a folder, but of no known layout; {hint}")


def _read_pipeline(path: Path, ema: bool, config: Config | None) -> Loaded:
    index = read_json(path / "model_index.json")
    if what := foreign.of_index(index):
        raise CheckpointError(f"{path}: {what}")
    members = {part: path / folder for part, folder in FOLDERS.items() if (path / folder).is_dir()}
    for part, folder in FOLDERS.items():
        listed = index.get(folder)
        if part not in members and isinstance(listed, list) and listed and listed[0] is not None:
            raise CheckpointError(f"{path / folder}: missing; model_index.json lists it")
    loaded = _read_members(path, _with_averages(members, ema), ema, config)
    loaded.provenance = {"class": str(index.get("_class_name"))}
    if (path / "tokenizer").is_dir():
        loaded.tokenizer = path / "tokenizer"
    elif "text" in members:
        loaded.notes.append(f"{path}: no tokenizer folder; CLIP's own vocabulary was assumed")
    if (path / "minip2p.json").exists():
        ours = configs.read_file(path / "minip2p.json", Header, {})
        loaded.provenance = ours.provenance or loaded.provenance
        if config is None:
            with configs.in_file(path / "minip2p.json"):
                loaded.config = replace(loaded.config, sampling=from_dict(SamplingConfig, ours.sampling or {}))
    return loaded


def _snapshot(path: Path) -> Path:
    """The newest version of a repository in a hub cache ("models--owner--name"); any other folder itself."""
    if not path.name.startswith("models--") or not (path / "snapshots").is_dir():
        return path
    snapshots = sorted(path.glob("snapshots/*/"))
    if not snapshots:
        raise CheckpointError(f"{path}: a hub cache without a version; fetch the repository again")
    main = path / "refs" / "main"
    newest = path / "snapshots" / main.read_text(errors="replace").strip()[:100] if main.is_file() else snapshots[0]
    if newest not in snapshots or (len(snapshots) > 1 and not main.is_file()):
        names = ", ".join(str(each) for each in snapshots[:3])
        raise CheckpointError(f"{path}: a hub cache of {len(snapshots)} versions; give one of them: {names}")
    return newest


def _with_averages(members: dict[str, Path], ema: bool) -> dict[str, Path]:
    """The folders of networks, each replaced by that of its averages ("unet_ema") where there is one."""
    averages = {part: folder.with_name(f"{folder.name}_ema") for part, folder in members.items()}
    return members | {part: each for part, each in averages.items() if ema and (each / "config.json").exists()}


def _read_members(path: Path, members: dict[str, Path], ema: bool, config: Config | None) -> Loaded:
    opened = {part: open_member(folder, ema).tensors for part, folder in members.items()}
    loaded = Loaded(path, "diffusers", config or _config(path, members))
    to = pipeline_links(loaded.config, "diffusers", openclip=False)
    today = {"unet": dict, "vae": partial(same_attention, column=2), "text": with_text_model}
    for part, tensors in opened.items():
        tensors = today[part](tensors)
        used = loaded.take(part, tensors, to[part])
        if part == "text" and "token.weight" in loaded.parts[part]:  # longer than its config says: words were added
            rows = len(loaded.parts[part]["token.weight"])
            if config is None and rows > loaded.config.text.vocab_size:
                loaded.config = replace(loaded.config, text=replace(loaded.config.text, vocab_size=rows))
        refuse_unknown(members[part], (name for name in tensors.keys() - used if not IGNORED.match(name)), [part])
    return loaded


def read_vae_file(path: Path, tensors: dict[str, Tensor], config: Config | None) -> Loaded:
    """diffusers' autoencoder as a file by itself; its config.json is read where it lies beside, or guessed."""
    tensors, beside = same_attention(tensors, column=2), path.with_name("config.json")
    if config is None and beside.is_file() and read_json(beside).get("_class_name") == "AutoencoderKL":
        config = Config(vae=configs.vae(beside))
    try:
        config = config or Config(vae=infer.vae(tensors, "encoder.down_blocks.{}.resnets.{}.conv1.weight"))
    except (KeyError, IndexError) as error:
        raise CheckpointError(f"{path}: an autoencoder of diffusers, but it lacks {error.args[0]}") from None
    except ValueError as error:
        raise CheckpointError(
            f"{path}: vae.{error}, which its tensors do not fit; put its config.json beside"
        ) from None
    loaded = Loaded(path, "diffusers", config)
    used = loaded.take("vae", tensors, links(vae_rows(config.vae), 2))
    refuse_unknown(path, tensors.keys() - used, ["vae"])
    return loaded


def weights_file(names: Collection[str], ema: bool) -> str | None:
    """The file among `names`, those in a network's folder, that its weights are read from; None if there is none.

    Full precision before half, safetensors before pickles, one file before the index of shards. If there are averaged
    and plain weights ("non_ema"), `ema` decides.
    """
    for variant in VARIANTS[ema]:
        for kind in ("safetensors", "safetensors.index.json", "bin", "bin.index.json"):
            for stem in STEMS:  # published indices are "model.fp16.safetensors.index.json" or "….index.fp16.json"
                for name in (f"{stem}{variant}.{kind}", f"{stem}.{kind.replace('.json', f'{variant}.json')}"):
                    if name in names and (not variant or variant in name):
                        return name
    return None


def open_member(folder: Path, ema: bool) -> Weights:
    """A network's weights: those of `weights_file`. Raises CheckpointError that names what is there instead."""
    names = {file.name for file in folder.iterdir()}
    if name := weights_file(names, ema):
        return open_weights(folder / name)
    others = sorted(names - {"config.json"})
    found = f"there is {', '.join(others[:3])}" if others else "the folder has none"
    raise CheckpointError(f"{folder}: no weights; expected e.g. {STEMS[0]}.safetensors or model.safetensors; {found}")


def _config(path: Path, members: dict[str, Path]) -> Config:
    """From the folders' configs; a network that is missing has the defaults."""
    found = {}
    if "unet" in members:
        found["unet"] = configs.unet(members["unet"] / "config.json")
    if "vae" in members:
        found["vae"] = configs.vae(members["vae"] / "config.json")
    if "text" in members:
        found["text"] = text_config(members["text"] / "config.json", special_ids(path / "tokenizer"))
    if (path / "scheduler" / "scheduler_config.json").exists():
        found["schedule"] = configs.schedule(path / "scheduler" / "scheduler_config.json")
    config = Config(**found)
    if "unet" in members:
        config = replace(config, sampling=configs.sampling(members["unet"] / "config.json", config))
    return config


def fill_folder(
    folder: Path,
    config: Config,
    parts: dict[str, dict[str, Tensor]],
    plain: dict[str, dict[str, Tensor]],
    tokenizer: Any,
    provenance: dict,
    dtype: torch.dtype | None,
) -> None:
    """Write a pipeline that diffusers reads, under its names; `plain` are weights of which `parts` has the averages."""
    values = {
        "unet": configs.unet_json(config.unet, config.sampling.resolution // config.vae.factor),
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
    if tokenizer is not None:
        tokenizer.save(folder / "tokenizer")
    members = [*(FOLDERS[part] for part in parts), "scheduler", *(["tokenizer"] if tokenizer else [])]
    write_json(folder / "model_index.json", configs.index_json(config, members))
    write_json(folder / "minip2p.json", {"sampling": to_dict(config.sampling), "provenance": provenance})
