"""DINO's vision transformers as their authors publish them (one file) and as transformers does (a folder)."""

import math
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from ..config import VisionConfig
from ..schema import Heads, foreign, theirs
from .configs import in_file, read_file
from .files import CheckpointError
from .loaded import Loaded, refuse_unknown
from .tables import Row, each, links, under

DINO = (
    ("patch.*", "patch_embed.proj.*", "embeddings.patch_embeddings.projection.*"),
    ("cls", "cls_token", "embeddings.cls_token"),
    ("position", "pos_embed", "embeddings.position_embeddings"),
    ("norm.*", "norm.*", "layernorm.*"),
)
DINO_LAYER = (
    ("norm_1.*", "norm1.*", "layernorm_before.*"),
    ("attention.q.weight", "attn.qkv.weight[0]", "attention.attention.query.weight"),
    ("attention.k.weight", "attn.qkv.weight[1]", "attention.attention.key.weight"),
    ("attention.v.weight", "attn.qkv.weight[2]", "attention.attention.value.weight"),
    ("attention.q.bias", "attn.qkv.bias[0]", "attention.attention.query.bias"),
    ("attention.k.bias", "attn.qkv.bias[1]", "attention.attention.key.bias"),
    ("attention.v.bias", "attn.qkv.bias[2]", "attention.attention.value.bias"),
    ("attention.out.*", "attn.proj.*", "attention.output.dense.*"),
    ("norm_2.*", "norm2.*", "layernorm_after.*"),
    ("linear_1.*", "mlp.fc1.*", "intermediate.dense.*"),
    ("linear_2.*", "mlp.fc2.*", "output.dense.*"),
)
"""as in `tables`: ours, the authors', transformers' """
FIXED = {"hidden_act": "gelu", "qkv_bias": True}
POOLER = {"pooler.dense.weight", "pooler.dense.bias"}
"""which transformers adds, untrained"""


@foreign
class ViTFile:
    """transformers' ViTConfig: what the shapes of tensors do not say."""

    heads: Heads = theirs("num_attention_heads", 12)


def dino_rows(c: VisionConfig) -> list[Row]:
    """The names of all tensors of a DINO."""
    return [*DINO, *each(under(("layers.{}", "blocks.{}", "encoder.layer.{}"), DINO_LAYER), c.layers)]


def is_dino(names: set[str]) -> bool:
    """Whether a single file with tensors of these names is a DINO."""
    return {"cls_token", "patch_embed.proj.weight"} <= names


def read_dino(path: Path, tensors: dict[str, Tensor], config: VisionConfig | None) -> Loaded:
    """The network of a file, or of a folder with its `config.json`. Its sizes are those of the tensors."""
    column = 2 if path.is_dir() else 1
    loaded = Loaded(path, "transformers" if path.is_dir() else "original", config or _config(path, tensors, column))
    used = loaded.take("dino", tensors, links(dino_rows(loaded.config), column))
    refuse_unknown(path, tensors.keys() - used - POOLER, loaded.parts)
    return loaded


def _config(path: Path, tensors: dict[str, Tensor], column: int) -> VisionConfig:
    """From the shapes; heads are of 64 unless a `config.json` says otherwise."""
    place = ("blocks", "encoder.layer")[column - 1]
    hidden = DINO_LAYER[-2][column].replace("*", "weight")
    layers = 0
    while f"{place}.{layers}.{hidden}" in tensors:
        layers += 1
    try:
        patch, position = (tensors[row[column].replace("*", "weight")] for row in (DINO[0], DINO[2]))
        (width, _, size, _), places = patch.shape, position.shape[1]
        feed_forward = tensors[f"{place}.0.{hidden}"].shape[0]
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(f"{path}: looks like a DINO, but its weights do not fit one ({error})") from None
    with in_file(path):
        found = VisionConfig(
            image_size=size * math.isqrt(max(places - 1, 1)),
            patch_size=size,
            width=width,
            layers=layers,
            heads=max(width // 64, 1),
            feed_forward=feed_forward,
            activation="gelu",
            projection=width,
        )
    if column == 2:
        file = read_file(path / "config.json", ViTFile, FIXED)
        with in_file(path / "config.json"):
            found = replace(found, heads=file.heads)
    return found
