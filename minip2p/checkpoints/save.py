"""Writing a checkpoint in any layout."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import Config, LlamaConfig, to_dict
from . import configs, described
from .files import write_safetensors
from .folders import FOLDERS
from .language import fill_language_folder
from .load import COMPVIS, OPENCLIP, UNET, VAE
from .loaded import KINDS, AnyConfig, join
from .mapped import CheckpointError, save_torch
from .tables import Link, ema_name, links, push, text_rows, unet_rows, vae_rows

LAYOUTS = ("minip2p", "original", "diffusers", "transformers")
Parts = dict[str, dict[str, Tensor]]


def write(
    path: str | Path,
    layout: str,
    config: AnyConfig,
    parts: Parts,
    *,
    tokenizer: dict | None = None,
    tokenizer_files: Callable[[Path], object] | None = None,
    provenance: dict | None = None,
    dtype: torch.dtype | None = None,
    ema_parts: Parts | None = None,
) -> None:
    """Write `parts` (our names: {"unet": {name: tensor}, ...}, any subset) as `path`, atomically.

    layout: "minip2p", one safetensors file with the config in its header; "original", a single file as CompVis's and
    Stability AI's, a pickle where `path` ends with .ckpt; "diffusers", a folder; "transformers", a language model's
    folder. `dtype=None` keeps each tensor's own. `tokenizer` is a tokenizer as a JSON-able dict (None: CLIP's own
    vocabulary); `tokenizer_files` writes one as files into the folder that it is called with, which a folder with a
    text encoder or a language model needs. `ema_parts` are averaged weights beside the plain ones. Raises
    CheckpointError for a config that the layout has no words for.
    """
    path = Path(path).expanduser()
    if layout not in LAYOUTS:
        raise CheckpointError(f"layout = {layout!r}: expected one of {', '.join(LAYOUTS)}")
    ema_parts, provenance = ema_parts or {}, provenance or {}
    if layout == "minip2p":
        kind = next(word for word, each in KINDS.items() if isinstance(config, each))
        metadata = {"format": "minip2p", "version": "1", "kind": kind} | _header(config, tokenizer, provenance)
        write_safetensors(path, _flat(parts) | _flat(ema_parts, "ema."), metadata, dtype)
        return
    if isinstance(config, LlamaConfig) and layout == "transformers":
        if tokenizer_files is None:
            raise CheckpointError(f"{path}: a language model's folder needs its tokenizer; give tokenizer_files=")
        fill = partial(fill_language_folder, config=config, tensors=parts["writer"], tokenizer_files=tokenizer_files)
        fill = partial(fill, provenance=provenance, dtype=dtype)
        _write_folder(path, ("minip2p.json", "tokenizer.model"), "folder of a writer that minip2p wrote", fill)
        return
    _check_words(layout, config, parts)
    ema_parts = _run_layers(config, ema_parts)[1]
    config, parts = _run_layers(config, parts)
    if layout == "original":
        header = {"minip2p": json.dumps({k: json.loads(v) for k, v in _header(config, tokenizer, provenance).items()})}
        _write_original(path, config, parts, ema_parts, header, dtype)
    else:
        if "text" in parts and tokenizer_files is None:
            raise CheckpointError(f"{path}: a diffusers folder needs its tokenizer's files; give tokenizer_files=")
        more = (config, parts, ema_parts, tokenizer_files, provenance, dtype)
        _write_folder(path, ("model_index.json",), "diffusers folder", lambda folder: _fill_folder(folder, *more))


def _header(config: AnyConfig, tokenizer: dict | None, provenance: dict) -> dict[str, str]:
    values = {"config": to_dict(config), "tokenizer": tokenizer, "provenance": provenance}
    return {key: json.dumps(value) for key, value in values.items()}


def _flat(parts: Parts, prefix: str = "") -> dict[str, Tensor]:
    """{"unet": {"conv_in.weight": t}} -> {"unet.conv_in.weight": t}; a part may be one tensor."""
    return {
        prefix + join(part, name): tensor
        for part, tensors in parts.items()
        for name, tensor in ({"": tensors} if isinstance(tensors, Tensor) else tensors).items()
    }


def _check_words(layout: str, config: AnyConfig, parts: Parts) -> None:
    """The layouts of others know one norm, one feed-forward, and transformers with both attentions or none."""
    if isinstance(config, LlamaConfig):
        raise CheckpointError(f"a writer has no {layout} layout; layout='minip2p' or 'transformers' holds it")
    if not isinstance(config, Config):
        what = "a CLIP with both towers" if "vision" in parts else "a reader"
        raise CheckpointError(f"{what} has no {layout} layout; layout='minip2p' holds it")
    if layout == "transformers":
        raise CheckpointError("the layout 'transformers' is for writers; layout='diffusers' is a pipeline's folder")
    known = {
        "unet.norm": (config.unet.norm, {"group"}), "unet.feed_forward": (config.unet.feed_forward, {"geglu"}),
        "unet.attention": (set(config.unet.attention), {"full", "none"}),
        "unet.mid_attention": (config.unet.mid_attention, {"full"}),
        "vae.norm": (config.vae.norm, {"group"}), "text.projection": (config.text.projection, {None}),
    }  # fmt: skip
    if layout == "diffusers":
        known["schedule.kind"] = (config.schedule.kind, set(configs.BETAS.values()))
    for name, (value, words) in known.items():
        part, _, word = name.partition(".")
        if part in (*parts, "schedule") and not (value if isinstance(value, set) else {value}) <= words:
            said = getattr(getattr(config, part), word)
            raise CheckpointError(
                f"{name} = {said!r} cannot be written as {layout!r}; layout='minip2p' holds any config"
            )


def _names(config: Config, layout: str) -> dict[str, list[Link]]:
    """Part -> its links."""
    rows = {"unet": unet_rows(config.unet), "vae": vae_rows(config.vae), "text": text_rows(config.text)}
    if layout == "diffusers":
        return {part: list(links(each, 2)) for part, each in rows.items()}
    openclip = config.text.activation == "gelu"  # Stable Diffusion 2's tower; reading goes by the same sign
    return {
        "unet": list(links(rows["unet"], 1, UNET)),
        "vae": list(links(rows["vae"], 1, VAE)),
        "text": list(links(rows["text"], 1, OPENCLIP) if openclip else links(rows["text"], 2, COMPVIS)),
    }


def _run_layers(config: Config, parts: Parts) -> tuple[Config, Parts]:
    """Without the layers of the text tower that are never run: other layouts have no word for them."""
    text = replace(config.text, layers=config.text.layers - config.text.skip_last, skip_last=0)
    unused = tuple(f"layers.{i}." for i in range(text.layers, config.text.layers))
    kept = {
        part: {n: t for n, t in ts.items() if not (part == "text" and n.startswith(unused))}
        for part, ts in parts.items()
    }
    return replace(config, text=text), kept


def _theirs(config: Config, layout: str, parts: Parts) -> Parts:
    """Each part's tensors under the layout's names."""
    names = _names(config, layout)
    return {part: push(tensors, names[part]) for part, tensors in parts.items()}


def _write_original(
    path: Path, config: Config, parts: Parts, ema_parts: Parts, header: dict[str, str], dtype: torch.dtype | None
) -> None:
    tensors = {name: t for part in _theirs(config, "original", parts).values() for name, t in part.items()}
    for part in _theirs(config, "original", ema_parts).values():
        tensors |= {ema_name(name): t for name, t in part.items()}
    if path.suffix != ".ckpt":
        write_safetensors(path, tensors, {"format": "pt"} | header, dtype)
        return
    plain = {name: _own(t, dtype) for name, t in tensors.items()}
    save_torch({"state_dict": plain} | header, path)


def _own(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A tensor that is all of its storage: `torch.save` writes whole storages, however small the view."""
    tensor = tensor.to("cpu", dtype if tensor.is_floating_point() else None).contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _write_folder(path: Path, signs: Sequence[str], what: str, fill: Callable[[Path], None]) -> None:
    """Filled beside `path`, then renamed; only an empty folder or one that holds all files of `signs` is replaced."""
    signed = all((path / sign).exists() for sign in signs)
    if path.exists() and not (path.is_dir() and (signed or not any(path.iterdir()))):
        raise CheckpointError(f"{path}: exists and is no {what}; give another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    try:
        temporary.chmod(0o755)
        fill(temporary)
        if path.exists():
            old = temporary.with_suffix(".old")
            os.replace(path, old)
            try:
                os.replace(temporary, path)
            except OSError:
                os.replace(old, path)
                raise
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fill_folder(
    folder: Path,
    config: Config,
    parts: Parts,
    ema_parts: Parts,
    tokenizer_files: Callable[[Path], object] | None,
    provenance: dict,
    dtype: torch.dtype | None,
) -> None:
    factor, resolution = 2 ** (len(config.vae.widths) - 1), config.sampling.resolution
    values = {
        "unet": described.unet_json(config.unet, resolution // factor),
        "vae": described.vae_json(config.vae, resolution),
        "text": described.text_json(config.text),
    }
    stem = {"text": "model"}
    for part, tensors in _theirs(config, "diffusers", parts | ema_parts).items():
        file = folder / FOLDERS[part] / f"{stem.get(part, 'diffusion_pytorch_model')}.safetensors"
        write_safetensors(file, tensors, {"format": "pt"}, dtype)
        _write_json(file.parent / "config.json", values[part])
    for part, tensors in _theirs(config, "diffusers", {p: t for p, t in parts.items() if p in ema_parts}).items():
        name = f"{stem.get(part, 'diffusion_pytorch_model')}.non_ema.safetensors"
        write_safetensors(folder / FOLDERS[part] / name, tensors, {"format": "pt"}, dtype)
    _write_json(folder / "scheduler" / "scheduler_config.json", described.schedule_json(config))
    if tokenizer_files is not None:
        tokenizer_files(folder / "tokenizer")
    members = [*(FOLDERS[part] for part in parts), "scheduler", *(["tokenizer"] if tokenizer_files else [])]
    _write_json(folder / "model_index.json", described.index_json(config, members))
    _write_json(folder / "minip2p.json", {"sampling": to_dict(config.sampling), "provenance": provenance})


def _write_json(file: Path, values: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
