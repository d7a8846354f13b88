"""Language models of Llama's kind: their names in folders as transformers writes them, read and written.

Llama 2, TinyLlama and Mistral are published so: `config.json`, weights in one file or in shards, `tokenizer.model`.
The authors' own files (`tok_embeddings.weight` ...) are not read: the channels of their queries and keys are in another
order, so a table of names alone would load them wrongly.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import LlamaConfig
from ..files import write_json
from ..schema import Heads, Layers, Length, Positive, Token, Vocabulary, Width, foreign, shared, theirs, written
from .configs import in_file, read_file
from .files import CheckpointError, read_json, write_safetensors
from .loaded import Header, Loaded, refuse_unknown
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


@foreign
class LlamaFile:
    """transformers' LlamaConfig: the words that are read, with its defaults."""

    architectures: tuple[str, ...] | None = None
    model_type: str = "llama"
    vocab_size: Vocabulary = 32000
    max_length: Length = theirs("max_position_embeddings", 2048)
    width: Width = theirs("hidden_size", 4096)
    layers: Layers = theirs("num_hidden_layers", 32)
    heads: Heads = theirs("num_attention_heads", 32)
    kv_heads: Heads | None = theirs("num_key_value_heads", None)
    """as many as heads unless given"""
    head_size: Width | None = theirs("head_dim", None)
    feed_forward: Width = theirs("intermediate_size", 11008)
    norm_eps: Positive = theirs("rms_norm_eps", 1e-6)
    window: Length | None = theirs("sliding_window", None)
    tied: bool = theirs("tie_word_embeddings", False)
    bos: Token | None = theirs("bos_token_id", 1)
    eos: Token | None = theirs("eos_token_id", 2)
    rope_theta: Positive | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None


@foreign
class MistralFile(LlamaFile):
    """transformers' MistralConfig."""

    max_length: Length = theirs("max_position_embeddings", 131072)
    kv_heads: Heads | None = theirs("num_key_value_heads", 8)
    feed_forward: Width = theirs("intermediate_size", 14336)
    window: Length | None = theirs("sliding_window", 4096)


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
    file = read_file(path / "config.json", LlamaFile, {})
    loaded.provenance = {"class": (file.architectures or [TYPES.get(file.model_type)])[0]}
    if (path / "minip2p.json").exists():
        loaded.provenance = read_file(path / "minip2p.json", Header, {}).provenance or loaded.provenance
    return loaded


def language_config(path: Path) -> LlamaConfig:
    """From transformers' `config.json` of a Llama or Mistral."""
    mistral = read_json(path).get("model_type") == "mistral"
    f = read_file(path, MistralFile if mistral else LlamaFile, FIXED)
    if f.window is not None and not mistral:
        raise CheckpointError(f"{path}: sliding_window = {f.window!r} is not supported in a Llama")
    meant = {"kv_heads": f.heads, "bos": 1, "eos": 2}  # by null
    changes = {name: value for name, value in meant.items() if getattr(f, name) is None}
    with in_file(path):
        return LlamaConfig(**shared(f, LlamaConfig) | changes | {"rope_theta": _rope_theta(path, f)})


def _rope_theta(path: Path, f: LlamaFile) -> float:
    """In published configs `rope_theta` and `rope_scaling`, in those of today's library `rope_parameters`."""
    scaling = f.rope_scaling or f.rope_parameters or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind != "default" or any(isinstance(value, dict) for value in scaling.values()):
        word = "rope_scaling" if f.rope_scaling else "rope_parameters"
        raise CheckpointError(f"{path}: {word} = {json.dumps(scaling)} is not supported; expected unscaled positions")
    return f.rope_theta or scaling.get("rope_theta") or 10_000.0


def language_json(c: LlamaConfig, dtype: torch.dtype) -> dict[str, Any]:
    """`config.json`: a Mistral if there is a window, else a Llama."""
    kind = "llama" if c.window is None else "mistral"
    return {
        "architectures": [TYPES[kind]],
        "model_type": kind,
        **{name: value for name, value in written(c, LlamaFile).items() if name != "sliding_window"},
        "head_dim": c.head_size or c.width // c.heads,
        "hidden_act": "silu",
        "rope_scaling": None,
        "torch_dtype": str(dtype).removeprefix("torch."),
        **({"attention_bias": False, "mlp_bias": False} if c.window is None else {"sliding_window": c.window}),
    }


def fill_language_folder(
    folder: Path,
    config: LlamaConfig,
    tensors: dict[str, Tensor],
    tokenizer: Any,
    provenance: dict,
    dtype: torch.dtype | None,
) -> None:
    """What `read_language` and transformers' `from_pretrained` read. tensors: our names."""
    theirs = push(tensors, links(language_rows(config), 2))
    write_safetensors(folder / "model.safetensors", theirs, {"format": "pt"}, dtype)
    dtype = dtype or theirs["model.embed_tokens.weight"].dtype
    write_json(folder / "config.json", language_json(config, dtype))
    write_json(folder / "minip2p.json", {"provenance": provenance})
    tokenizer.save(folder)
