"""CLIP as OpenAI and transformers publish it, and the text towers of Stable Diffusion: their configs, read and written.

Names are in `tables`; in this file `column` is 1 for OpenAI's and 2 for transformers'.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ..config import CLIPConfig, TextConfig, VisionConfig
from ..schema import Heads, Layers, Length, Vocabulary, Width, foreign, shared, theirs, written
from ..tokenizer_files import TokenizerFile, Vocab, read_if_there, special_tokens
from .configs import fixed, in_file, read_file
from .files import CheckpointError
from .loaded import IGNORED, Loaded, refuse_unknown
from .tables import LOGIT_SCALE, links, pull, text_rows, vision_rows

Tensors = dict[str, Tensor]
FIXED = {"layer_norm_eps": 1e-5}
CLIP_WORDS = 49408
"""tokens of CLIP's vocabulary, the last two begin and end a text; what follows them was added (textual inversion)"""
MOST_LAYERS = 100
"""towers with more are not recognised"""
Activation = Literal["quick_gelu", "gelu"]


@foreign
class TextFile:
    """transformers' CLIPTextConfig: the words that are read, with its defaults."""

    vocab_size: Vocabulary = 49408
    max_length: Length = theirs("max_position_embeddings", 77)
    width: Width = theirs("hidden_size", 512)
    layers: Layers = theirs("num_hidden_layers", 12)
    heads: Heads = theirs("num_attention_heads", 8)
    feed_forward: Width = theirs("intermediate_size", 2048)
    activation: Activation = theirs("hidden_act", "quick_gelu")


@foreign
class TowerFile:
    """A tower in a CLIPConfig: what the shapes of its tensors do not say."""

    heads: Heads | None = theirs("num_attention_heads", None)
    activation: Activation = theirs("hidden_act", "quick_gelu")
    layer_norm_eps: float = 1e-5


@foreign
class CLIPFile:
    """transformers' CLIPConfig."""

    text_config: TowerFile | None = None
    vision_config: TowerFile | None = None


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
    known = min(words, CLIP_WORDS)
    return TextConfig(
        **found,
        vocab_size=words,
        max_length=ours["position.weight"].shape[0],
        bos=known - 2,
        eos=known - 1,
        pad=known - 1,
        projection=None if projection is None else projection.shape[0],
    )


def sd2_text_of(tensors: Tensors) -> TextConfig:
    """Stable Diffusion 2's tower, OpenCLIP's: exact gelu, padded with 0; its last layer and projection are not used."""
    found = text_of(tensors, 1)
    layers = found.layers if found.projection is None else found.layers - 1
    return replace(found, activation="gelu", pad=0, projection=None, layers=layers)


def vision_of(tensors: Tensors, column: int) -> VisionConfig:
    """The vision tower of OpenAI's CLIPs, by the shapes of its tensors."""
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
    f = read_file(path, TextFile, FIXED)
    bos, eos, pad = tokens or (f.vocab_size - 2, f.vocab_size - 1, f.vocab_size - 1)
    with in_file(path):
        return TextConfig(**shared(f, TextConfig), bos=bos, eos=eos, pad=pad)


def text_json(c: TextConfig) -> dict[str, Any]:
    """A text tower as transformers' config.json has it."""
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        **written(c, TextFile),
        "num_hidden_layers": c.layers - c.skip_last,
        "projection_dim": c.width,
        "layer_norm_eps": 1e-5,
        "bos_token_id": c.bos,
        "eos_token_id": c.eos,
        "pad_token_id": c.pad,
    }


def clip_config(path: Path, shapes: CLIPConfig) -> CLIPConfig:
    """From a CLIPConfig, which may leave most out: sizes are those of the tensors, in `shapes`."""
    f = read_file(path, CLIPFile, {})
    text, vision = f.text_config or TowerFile(), f.vision_config or TowerFile()
    for tower in (text, vision):
        fixed(path, vars(tower), FIXED)
    ids = dict(zip(("bos", "eos", "pad"), special_ids(path.parent) or ()))
    with in_file(path):
        return CLIPConfig(
            text=replace(shapes.text, heads=text.heads or 8, activation=text.activation, **ids),
            vision=replace(shapes.vision, heads=vision.heads or 12, activation=vision.activation),
        )


def special_ids(folder: Path) -> tuple[int, int, int] | None:
    """(bos, eos, pad) of a tokenizer's folder, or None if it has none that can be read (loading it says why)."""
    try:
        if (vocab := read_if_there(folder / "vocab.json", Vocab)) is None:
            whole = read_if_there(folder / "tokenizer.json", TokenizerFile)
            vocab = whole.model.vocab | {token.content: token.id for token in whole.added_tokens} if whole else {}
        tokens = special_tokens(folder)
    except ValueError:
        return None
    ids = [vocab.get(tokens[key].content) for key in ("bos", "eos", "pad")]
    return None if None in ids else tuple(ids)
