"""Language models of Llama's kind: their names in folders as transformers writes them, read and written.

Llama 2, TinyLlama and Mistral are published so: `config.json`, weights in one file or in shards, `tokenizer.model`.
The authors' own files (`tok_embeddings.weight` ...) are not read: they keep the channels of queries and keys in another
order, and their table would look right and be wrong.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import LlamaConfig, from_dict
from .configs import fixed
from .files import write_safetensors
from .loaded import Loaded, refuse_unknown
from .mapped import CheckpointError, read_json
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
"""Tables that older libraries saved; they follow from the config."""
FIXED = {
    "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "quantization_config": None,
    "partial_rotary_factor": 1.0,
}  # fmt: skip
SIZES = {
    "vocab_size": "vocab_size", "max_length": "max_position_embeddings", "width": "hidden_size",
    "layers": "num_hidden_layers", "heads": "num_attention_heads", "kv_heads": "num_key_value_heads",
    "head_size": "head_dim", "feed_forward": "intermediate_size", "norm_eps": "rms_norm_eps",
    "tied": "tie_word_embeddings", "bos": "bos_token_id", "eos": "eos_token_id",
}  # fmt: skip
"""our word -> transformers'"""
USUAL = {
    "vocab_size": 32000, "max_length": 2048, "width": 4096, "layers": 32, "heads": 32, "head_size": None,
    "feed_forward": 11008, "norm_eps": 1e-6, "tied": False, "bos": 1, "eos": 2,
}  # fmt: skip
"""transformers' defaults, for what a Llama's config leaves out"""
MISTRAL = {"max_length": 131072, "kv_heads": 8, "feed_forward": 14336}
"""where Mistral's are others"""


def language_rows(c: LlamaConfig) -> list[Row]:
    """As in `tables`; there is one layout besides ours, so both columns of theirs are its names."""
    top = [row for row in TOP if not (c.tied and row[0] == "head.weight")]
    layer = [(ours, theirs, theirs) for ours, theirs in LAYER]
    places = "layers.{}", "model.layers.{}", "model.layers.{}"
    return [*((ours, theirs, theirs) for ours, theirs in top), *each(under(places, layer), c.layers)]


def read_language(path: Path, tensors: dict[str, Tensor], config: LlamaConfig | None) -> Loaded:
    """From a folder with `config.json` and, beside the tensors, `tokenizer.model`."""
    loaded = Loaded(path, "transformers", config or language_config(path / "config.json"))
    used = loaded.take("writer", tensors, links(language_rows(loaded.config), 2))
    if loaded.config.tied and "lm_head.weight" in tensors:
        if not torch.equal(tensors["lm_head.weight"], tensors.get("model.embed_tokens.weight", torch.empty(0))):
            raise CheckpointError(
                f"{path}: tie_word_embeddings is true, but lm_head.weight is not model.embed_tokens.weight"
            )
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
    usual = USUAL | (MISTRAL if mistral else {})
    found = {ours: v.get(theirs, usual.get(ours)) for ours, theirs in SIZES.items()}
    for name in ("kv_heads", "bos", "eos"):  # null means these
        found[name] = {"kv_heads": found["heads"], "bos": 1, "eos": 2}[name] if found[name] is None else found[name]
    found["window"] = v.get("sliding_window", 4096 if mistral else None)
    if found["window"] is not None and not mistral:
        raise CheckpointError(f"{path}: sliding_window = {found['window']!r} is not supported in a Llama")
    found["rope_theta"] = _rope_theta(path, v)
    try:
        config = from_dict(LlamaConfig, found)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    _check_sizes(path, config)
    return config


def _rope_theta(path: Path, values: dict[str, Any]) -> Any:
    """Published configs say `rope_theta` and `rope_scaling`, today's library says both in `rope_parameters`."""
    scaling = values.get("rope_scaling") or values.get("rope_parameters") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default")) if isinstance(scaling, dict) else scaling
    if kind != "default" or any(isinstance(value, dict) for value in scaling.values()):
        word = "rope_scaling" if values.get("rope_scaling") else "rope_parameters"
        raise CheckpointError(f"{path}: {word} = {json.dumps(scaling)} is not supported; expected plain positions")
    return values.get("rope_theta") or scaling.get("rope_theta") or 10_000.0


def _check_sizes(path: Path, c: LlamaConfig) -> None:
    counts = {SIZES[name]: getattr(c, name) for name in ("vocab_size", "max_length", "width", "heads", "kv_heads")}
    if wrong := [f"{name} = {n}" for name, n in counts.items() if n < 1]:
        raise CheckpointError(f"{path}: {wrong[0]}: expected at least 1")
    if c.head_size is None and c.width % c.heads:
        raise CheckpointError(f"{path}: hidden_size = {c.width} does not divide into {c.heads} heads")
    if c.heads % c.kv_heads:
        raise CheckpointError(
            f"{path}: num_attention_heads = {c.heads} is no multiple of num_key_value_heads = {c.kv_heads}"
        )
    size = c.head_size or c.width // c.heads
    if size % 2:
        raise CheckpointError(f"{path}: head_dim = {size} is odd; rotary positions turn channels in pairs")


def language_json(c: LlamaConfig, dtype: torch.dtype) -> dict[str, Any]:
    """`config.json`: a Mistral where there is a window, else a Llama."""
    kind = "llama" if c.window is None else "mistral"
    values = {theirs: getattr(c, ours) for ours, theirs in SIZES.items()}
    return {
        "architectures": [TYPES[kind]], "model_type": kind, **values, "head_dim": c.head_size or c.width // c.heads,
        "hidden_act": "silu", "rope_theta": c.rope_theta, "rope_scaling": None,
        "torch_dtype": str(dtype).removeprefix("torch."),
        **({"attention_bias": False, "mlp_bias": False} if c.window is None else {"sliding_window": c.window}),
    }  # fmt: skip


def fill_language_folder(
    folder: Path, config: LlamaConfig, tensors: dict[str, Tensor], tokenizer_files: Callable[[Path], object],
    provenance: dict, dtype: torch.dtype | None,
) -> None:
    """What `read_language` and transformers' `from_pretrained` read. tensors: our names."""
    theirs = push(tensors, links(language_rows(config), 2))
    write_safetensors(folder / "model.safetensors", theirs, {"format": "pt"}, dtype)
    for name, values in {
        "config.json": language_json(config, dtype or theirs["model.embed_tokens.weight"].dtype),
        "minip2p.json": {"provenance": provenance},
    }.items():
        (folder / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    tokenizer_files(folder)
