"""Reading folders: a diffusers pipeline, one network of it, a CLIP or a language model as transformers writes it."""

import re
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from ..config import CLIPConfig, Config, SamplingConfig, VAEConfig, from_dict
from . import configs, infer
from .files import open_weights
from .language import TYPES, read_language
from .loaded import AnyConfig, Loaded, refuse_unknown
from .mapped import CheckpointError, Weights, read_json
from .tables import LOGIT_SCALE, OLD_DIFFUSERS_VAE, links, text_rows, unet_rows, vae_rows, vision_rows

FOLDERS = {"unet": "unet", "vae": "vae", "text": "text_encoder"}
PARTS = {"UNet2DConditionModel": "unet", "AutoencoderKL": "vae", "CLIPTextModel": "text"}


def read_folder(path: Path, ema: bool, config: AnyConfig | None) -> Loaded:
    """A folder with a `model_index.json`, or with one network's `config.json`."""
    if (path / "model_index.json").exists():
        return _read_pipeline(path, ema, config)
    if (path / "config.json").exists():
        values = read_json(path / "config.json")
        if values.get("model_type") == "clip":
            return _read_clip(path, config)
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
    hint = (
        f"give one of its files: {', '.join(files[:5])}" if files else "expected model_index.json or config.json in it"
    )
    raise CheckpointError(f"{path}: a folder, but of no known layout; {hint}")


def _read_pipeline(path: Path, ema: bool, config: Config | None) -> Loaded:
    index = read_json(path / "model_index.json")
    members = {}
    for part, folder in FOLDERS.items():
        if (path / folder).is_dir():
            members[part] = path / folder
        elif (index.get(folder) or [None])[0] is not None:
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
    opened = {part: open_member(folder, ema) for part, folder in members.items()}
    loaded = Loaded(path, "diffusers", config or _config(path, members))
    c = loaded.config
    for part, rows in (("unet", unet_rows(c.unet)), ("vae", vae_rows(c.vae)), ("text", text_rows(c.text))):
        if part in opened:
            tensors = opened[part].tensors
            tensors = with_text_model(tensors) if part == "text" else _new_names(tensors) if part == "vae" else tensors
            used = loaded.take(part, tensors, links(rows, 2))
            refuse_unknown(members[part], (name for name in tensors.keys() - used if not IGNORED.match(name)), [part])
    return loaded


IGNORED = re.compile(r".*\bposition_ids$|.*\battn_mask$")
"""Index buffers that older libraries saved."""


def with_text_model(tensors: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Today's transformers and some merging tools leave "text_model." out of a text tower's names."""
    bare = tuple(prefix + part for part in ("embeddings.", "encoder.layers.", "final_layer_norm."))
    return {f"{prefix}text_model.{k.removeprefix(prefix)}" if k.startswith(bare) else k: t for k, t in tensors.items()}


def _new_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """diffusers < 0.15 named the autoencoder's attention otherwise, and some files keep it as 1x1 convolutions."""
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

    Of a pair of averaged and plain weights ("non_ema"), `ema` says which.
    """
    stems = ("diffusion_pytorch_model", "model", "pytorch_model")
    for variant in (".", ".fp16.", ".bf16.") if ema else (".non_ema.", ".", ".fp16.", ".bf16."):
        for kind in ("safetensors", "safetensors.index.json", "bin", "bin.index.json"):
            # published shards are listed by "model.safetensors.index.fp16.json" or "model.fp16.safetensors.index.json"
            other = kind.replace(".index.", f".index{variant}") if "index" in kind else kind
            for stem in stems:
                for file in (folder / f"{stem}{variant}{kind}", folder / f"{stem}.{other}"):
                    if file.exists() and (variant == "." or variant[1:-1] in file.name):
                        return open_weights(file)
    raise CheckpointError(
        f"{folder}: no weights; expected diffusion_pytorch_model.safetensors, model.safetensors or the like"
    )


def _config(path: Path, members: dict[str, Path]) -> Config:
    """What the folders' configs say; a network that is not there has the defaults."""
    found = {}
    if "unet" in members:
        found["unet"] = configs.unet(members["unet"] / "config.json")
    if "vae" in members:
        found["vae"] = configs.vae(members["vae"] / "config.json")
    if "text" in members:
        file = members["text"] / "config.json"
        found["text"] = configs.text(file, read_json(file), configs.tokens(path / "tokenizer"))
    if (path / "scheduler" / "scheduler_config.json").exists():
        found["schedule"] = configs.schedule(path / "scheduler" / "scheduler_config.json")
    if "unet" in members:
        factor = 2 ** (len(found.get("vae", VAEConfig()).widths) - 1)
        found["sampling"] = configs.sampling(members["unet"] / "config.json", factor)
    return Config(**found)


def _read_clip(path: Path, config: CLIPConfig | None) -> Loaded:
    tensors = open_member(path, ema=True).tensors
    try:
        shapes = CLIPConfig(text=infer.text(tensors, openai=False), vision=infer.vision(tensors, openai=False))
    except (KeyError, IndexError) as error:
        raise CheckpointError(f"{path}: looks like a CLIP, but its weights lack {error.args[0]}") from None
    loaded = take_clip(Loaded(path, "clip", config or configs.clip(path / "config.json", shapes)), tensors, 2)
    loaded.tokenizer = path if (path / "vocab.json").exists() or (path / "tokenizer.json").exists() else None
    return loaded


def take_clip(loaded: Loaded, tensors: dict[str, Tensor], column: int) -> Loaded:
    """Both towers through the table; `column` 1 for OpenAI's names, 2 for transformers'."""
    c, used = loaded.config, set()
    for part, rows in (("text", text_rows(c.text)), ("vision", vision_rows(c.vision)), ("logit_scale", LOGIT_SCALE)):
        used |= loaded.take(part, tensors, links(rows, column))
    buffers = {name for name in tensors if name in ("input_resolution", "context_length", "vocab_size")}
    refuse_unknown(loaded.path, (n for n in tensors.keys() - used - buffers if not IGNORED.match(n)), loaded.parts)
    return loaded
