"""CLIP as OpenAI and transformers publish it, and the text towers of Stable Diffusion: their configs, read and written.

Names are in `tables`; in this file `column` is 1 for OpenAI's and 2 for transformers'.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config import CLIPConfig, TextConfig, VisionConfig
from .configs import Table, fixed, one_of, read_words, written
from .files import CheckpointError, read_json
from .loaded import IGNORED, Loaded, refuse_unknown
from .tables import LOGIT_SCALE, links, pull, text_rows, vision_rows

Tensors = dict[str, Tensor]
TEXT: Table = {
    "vocab_size": ("vocab_size", 49408),
    "max_length": ("max_position_embeddings", 77),
    "width": ("hidden_size", 512),
    "layers": ("num_hidden_layers", 12),
    "heads": ("num_attention_heads", 8),
    "feed_forward": ("intermediate_size", 2048),
}
FIXED = {"layer_norm_eps": 1e-5}
ACTIVATION = {"quick_gelu": "quick_gelu", "gelu": "gelu"}
MOST_LAYERS = 100
"""towers with more are not recognised"""


def read_clip(path: Path, tensors: Tensors, config: CLIPConfig | None) -> Loaded:
    """Both towers of a CLIP: of a single file, or of a folder with its `config.json` and tokenizer."""
    column = 1 if "visual.conv1.weight" in tensors else 2
    if config is None:
        try:
            config = CLIPConfig(text=text_of(tensors, column), vision=vision_of(tensors, column))
        except (KeyError, IndexError) as error:
            raise CheckpointError(f"{path}: looks like a CLIP, but its weights lack {error.args[0]}") from None
        config = clip_config(path / "config.json", config) if path.is_dir() else config
    loaded, used = Loaded(path, "clip", config), set()
    towers = {"text": text_rows(config.text), "vision": vision_rows(config.vision), "logit_scale": LOGIT_SCALE}
    for part, rows in towers.items():
        used |= loaded.take(part, tensors, links(rows, column))
    buffers = {"input_resolution", "context_length", "vocab_size"}
    refuse_unknown(path, (n for n in tensors.keys() - used - buffers if not IGNORED.match(n)), loaded.parts)
    if (path / "vocab.json").exists() or (path / "tokenizer.json").exists():
        loaded.tokenizer = path
    return loaded


def with_text_model(tensors: Tensors, prefix: str = "") -> Tensors:
    """Today's transformers and some merging tools leave "text_model." out of a text tower's names."""
    bare = tuple(prefix + part for part in ("embeddings.", "encoder.layers.", "final_layer_norm."))
    return {f"{prefix}text_model.{k.removeprefix(prefix)}" if k.startswith(bare) else k: t for k, t in tensors.items()}


# From the shapes of tensors. Heads are of 64. A missing tensor is a KeyError.


def text_of(tensors: Tensors, column: int) -> TextConfig:
    """The text tower of OpenAI's CLIPs and Stable Diffusion 1."""
    ours, names, _ = pull(tensors, links(text_rows(TextConfig(layers=MOST_LAYERS, projection=1)), column))
    found = _sizes(ours, names)
    words, projection = ours["token.weight"].shape[0], ours.get("projection.weight")
    return TextConfig(
        **found,
        vocab_size=words,
        max_length=ours["position.weight"].shape[0],
        bos=words - 2,
        eos=words - 1,
        pad=words - 1,
        projection=None if projection is None else projection.shape[0],
    )


def sd2_text_of(tensors: Tensors) -> TextConfig:
    """Stable Diffusion 2's tower, OpenCLIP's: exact gelu, padded with 0; its last layer and projection are not used."""
    found = text_of(tensors, 1)
    layers = found.layers if found.projection is None else found.layers - 1
    return replace(found, activation="gelu", pad=0, projection=None, layers=layers)


def vision_of(tensors: Tensors, column: int) -> VisionConfig:
    ours, names, _ = pull(tensors, links(vision_rows(VisionConfig(layers=MOST_LAYERS)), column))
    found = _sizes(ours, names)
    size = ours["patch.weight"].shape[-1]
    return VisionConfig(
        **found,
        image_size=size * math.isqrt(ours["position.weight"].shape[0] - 1),
        patch_size=size,
        projection=ours["projection.weight"].shape[0],
    )


def _sizes(ours: Tensors, names: dict[str, str]) -> dict[str, int]:
    """What both towers have. Raises KeyError with the file's name of the first tensor that is needed and missing."""
    for name in ("position.weight", "layers.0.linear_1.weight"):
        if name not in ours:
            raise KeyError(names[name])
    width, layers = ours["position.weight"].shape[1], 0
    while f"layers.{layers}.linear_1.weight" in ours:
        layers += 1
    feed_forward = ours["layers.0.linear_1.weight"].shape[0]
    return {"width": width, "layers": layers, "heads": max(width // 64, 1), "feed_forward": feed_forward}


# transformers' config.json and tokenizer files


def text_config(path: Path, tokens: tuple[int, int, int] | None) -> TextConfig:
    """From a CLIPTextConfig; `tokens` is the tokenizer's (bos, eos, pad): published configs err there."""
    v = read_json(path)
    fixed(path, v, FIXED)
    c = read_words(path, v, TEXT)
    bos, eos, pad = tokens or (c["vocab_size"] - 2, c["vocab_size"] - 1, c["vocab_size"] - 1)
    return TextConfig(**c, activation=_activation(path, v), bos=bos, eos=eos, pad=pad)


def text_json(c: TextConfig) -> dict[str, Any]:
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        **written(c, TEXT),
        "num_hidden_layers": c.layers - c.skip_last,
        "projection_dim": c.width,
        "hidden_act": c.activation,
        "layer_norm_eps": 1e-5,
        "bos_token_id": c.bos,
        "eos_token_id": c.eos,
        "pad_token_id": c.pad,
    }


def clip_config(path: Path, shapes: CLIPConfig) -> CLIPConfig:
    """From a CLIPConfig, which may leave most out: sizes are those of the tensors, in `shapes`."""
    v, parts = read_json(path), {}
    for name, key, heads in (("text", "text_config", 8), ("vision", "vision_config", 12)):
        words = v.get(key) or {}
        fixed(path, words, FIXED)
        changes = {"heads": words.get("num_attention_heads", heads), "activation": _activation(path, words)}
        if name == "text" and (ids := special_tokens(path.parent)):
            changes |= dict(zip(("bos", "eos", "pad"), ids, strict=True))
        parts[name] = replace(getattr(shapes, name), **changes)
    return CLIPConfig(**parts)


def special_tokens(folder: Path) -> tuple[int, int, int] | None:
    """(bos, eos, pad) of a tokenizer's folder, or None if it has none."""
    vocab, words = {}, {}
    if (folder / "vocab.json").exists():
        vocab = read_json(folder / "vocab.json")
    elif (folder / "tokenizer.json").exists():
        values = read_json(folder / "tokenizer.json")
        vocab = values.get("model", {}).get("vocab", {})
        vocab = vocab | {token["content"]: token["id"] for token in values.get("added_tokens", ())}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):  # the second overrides the first
        words |= read_json(folder / name) if (folder / name).exists() else {}
    ids = []
    for key, default in (("bos", "<|startoftext|>"), ("eos", "<|endoftext|>"), ("pad", "<|endoftext|>")):
        word = words.get(f"{key}_token") or default
        ids.append(vocab.get(word["content"] if isinstance(word, dict) else word))
    return None if None in ids else tuple(ids)


def _activation(path: Path, values: dict[str, Any]) -> str:
    return one_of(path, ACTIVATION, values, "hidden_act", "quick_gelu")
