"""Language models of Llama's kind: their names in folders as transformers writes them, read and written.

Llama 2, TinyLlama and Mistral are published so: `config.json`, weights in one file or in shards, `tokenizer.model`.
The authors' own files (`tok_embeddings.weight` ...) are not read: the channels of their queries and keys are in another
order, so a table of names alone would load them wrongly.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import LlamaConfig, from_dict
from ..files import write_json
from .configs import Table, fixed
from .files import CheckpointError, read_json, write_safetensors
from .loaded import Loaded, refuse_unknown
from .tables import Row, each, links, push, under

TYPES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}
TOP = (
    ("token.weight", "model.embed_tokens.weight"),
    ("norm.weight", "model.norm.weight"),
    ("head.weight", "lm_head.weight"),
)
LAYER = (
    ("norm_1.weight", "input_layernorm.weight"),
    ("attention.q.weight", "self_attn.q_proj.weight"),
    ("attention.k.weight", "self_attn.k_proj.weight"),
    ("attention.v.weight", "self_attn.v_proj.weight"),
    ("attention.out.weight", "self_attn.o_proj.weight"),
    ("norm_2.weight", "post_attention_layernorm.weight"),
    ("gate.weight", "mlp.gate_proj.weight"),
    ("up.weight", "mlp.up_proj.weight"),
    ("down.weight", "mlp.down_proj.weight"),
)
IGNORED = re.compile(r".*\brotary_emb\.inv_freq$")
"""Tables that older libraries saved; the config determines them."""
FIXED = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "quantization_config": None,
    "partial_rotary_factor": 1.0,
}
WORDS: Table = {
    "vocab_size": ("vocab_size", 32000),
    "max_length": ("max_position_embeddings", 2048),
    "width": ("hidden_size", 4096),
    "layers": ("num_hidden_layers", 32),
    "heads": ("num_attention_heads", 32),
    "kv_heads": ("num_key_value_heads", None),
    "head_size": ("head_dim", None),
    "feed_forward": ("intermediate_size", 11008),
    "norm_eps": ("rms_norm_eps", 1e-6),
    "tied": ("tie_word_embeddings", False),
    "bos": ("bos_token_id", 1),
    "eos": ("eos_token_id", 2),
}
"""our word -> (transformers', its default in a Llama's config)"""
MISTRAL = {"max_length": 131072, "kv_heads": 8, "feed_forward": 14336}
"""where Mistral's defaults differ"""


def language_rows(c: LlamaConfig) -> list[Row]:
    """As in `tables`; there is one layout besides ours, so both other columns are its names."""
    top = [row for row in TOP if not (c.tied and row[0] == "head.weight")]
    layer = [(ours, theirs, theirs) for ours, theirs in LAYER]
    places = "layers.{}", "model.layers.{}", "model.layers.{}"
    return [*((ours, theirs, theirs) for ours, theirs in top), *each(under(places, layer), c.layers)]


def read_language(path: Path, tensors: dict[str, Tensor], config: LlamaConfig | None) -> Loaded:
    """From a folder with `config.json` and, beside the tensors, `tokenizer.model`."""
    loaded = Loaded(path, "transformers", config or language_config(path / "config.json"))
    used = loaded.take("language_model", tensors, links(language_rows(loaded.config), 2))
    if loaded.config.tied and "lm_head.weight" in tensors:
        if not torch.equal(tensors["lm_head.weight"], tensors.get("model.embed_tokens.weight", torch.empty(0))):
            raise CheckpointError(f"{path}: tie_word_embeddings is true, but lm_head.weight is another tensor")
        used.add("lm_head.weight")
    refuse_unknown(path, (name for name in tensors.keys() - used if not IGNORED.match(name)), loaded.parts)
    if (path / "tokenizer.model").exists():
        loaded.tokenizer = path
    values = read_json(path / "config.json")
    loaded.provenance = {"class": (values.get("architectures") or [TYPES[values["model_type"]]])[0]}
    if (path / "minip2p.json").exists():
        loaded.provenance = read_json(path / "minip2p.json").get("provenance", loaded.provenance)
    return loaded


def language_config(path: Path) -> LlamaConfig:
    """From transformers' `config.json` of a Llama or Mistral."""
    v = read_json(path)
    fixed(path, v, FIXED)
    mistral = v.get("model_type") == "mistral"
    defaults = {ours: default for ours, (_, default) in WORDS.items()} | (MISTRAL if mistral else {})
    found = {ours: v.get(theirs, defaults[ours]) for ours, (theirs, _) in WORDS.items()}
    for name, default in {"kv_heads": found["heads"], "bos": 1, "eos": 2}.items():  # null means these
        found[name] = default if found[name] is None else found[name]
    found["window"] = v.get("sliding_window", 4096 if mistral else None)
    if found["window"] is not None and not mistral:
        raise CheckpointError(f"{path}: sliding_window = {found['window']!r} is not supported in a Llama")
    found["rope_theta"] = _rope_theta(path, v)
    try:
        config = from_dict(LlamaConfig, found)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    for name in ("vocab_size", "max_length", "width", "heads", "kv_heads"):
        if getattr(config, name) < 1:
            raise CheckpointError(f"{path}: {WORDS[name][0]} = {getattr(config, name)}: expected at least 1")
    if config.head_size is None and config.width % config.heads:
        raise CheckpointError(f"{path}: hidden_size = {config.width} does not divide into {config.heads} heads")
    return config


def _rope_theta(path: Path, values: dict[str, Any]) -> Any:
    """In published configs `rope_theta` and `rope_scaling`, in those of today's library `rope_parameters`."""
    scaling = values.get("rope_scaling") or values.get("rope_parameters") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default")) if isinstance(scaling, dict) else scaling
    if kind != "default" or any(isinstance(value, dict) for value in scaling.values()):
        word = "rope_scaling" if values.get("rope_scaling") else "rope_parameters"
        raise CheckpointError(f"{path}: {word} = {json.dumps(scaling)} is not supported; expected unscaled positions")
    return values.get("rope_theta") or scaling.get("rope_theta") or 10_000.0


def language_json(c: LlamaConfig, dtype: torch.dtype) -> dict[str, Any]:
    """`config.json`: a Mistral if there is a window, else a Llama."""
    kind = "llama" if c.window is None else "mistral"
    return {
        "architectures": [TYPES[kind]],
        "model_type": kind,
        **{theirs: getattr(c, ours) for ours, (theirs, _) in WORDS.items()},
        "head_dim": c.head_size or c.width // c.heads,
        "hidden_act": "silu",
        "rope_theta": c.rope_theta,
        "rope_scaling": None,
        "torch_dtype": str(dtype).removeprefix("torch."),
        **({"attention_bias": False, "mlp_bias": False} if c.window is None else {"sliding_window": c.window}),
    }


def fill_language_folder(
    folder: Path,
    config: LlamaConfig,
    tensors: dict[str, Tensor],
    tokenizer_files: Callable[[Path], object],
    provenance: dict,
    dtype: torch.dtype | None,
) -> None:
    """What `read_language` and transformers' `from_pretrained` read. tensors: our names."""
    theirs = push(tensors, links(language_rows(config), 2))
    write_safetensors(folder / "model.safetensors", theirs, {"format": "pt"}, dtype)
    dtype = dtype or theirs["model.embed_tokens.weight"].dtype
    write_json(folder / "config.json", language_json(config, dtype))
    write_json(folder / "minip2p.json", {"provenance": provenance})
    tokenizer_files(folder)
