"""diffusers' and transformers' `config.json` to our configs; the way back is in `described`.

A word that our networks do not know is an error that names it, never ignored: a wrong norm or activation would load and
paint rubbish.
"""

from pathlib import Path
from typing import Any

from ..config import CLIPConfig, SamplingConfig, ScheduleConfig, TextConfig, UNetConfig, VAEConfig
from .mapped import CheckpointError, read_json

UNET_FIXED = {
    "act_fn": "silu",
    "norm_eps": 1e-5,
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "only_cross_attention": False,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "addition_embed_type": None,
    "class_embed_type": None,
    "num_class_embeds": None,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "time_cond_proj_dim": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "attention_type": "default",
    "mid_block_only_cross_attention": None,
    "cross_attention_norm": None,
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
    "reverse_transformer_layers_per_block": None,
}
VAE_FIXED = {
    "act_fn": "silu",
    "mid_block_add_attention": True,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
}
SCHEDULE_FIXED = {"trained_betas": None, "rescale_betas_zero_snr": False}
INJECTION = {"default": "add", "scale_shift": "scale_shift"}
BETAS = {"scaled_linear": "scaled_linear", "linear": "linear", "squaredcos_cap_v2": "cosine"}
PREDICTION = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
DOWN, UP = ("DownBlock2D", "CrossAttnDownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")


def unet(path: Path) -> UNetConfig:
    """From `unet/config.json`; what it leaves out has diffusers' defaults."""
    v = read_json(path)
    fixed(path, v, UNET_FIXED)
    widths = tuple(v.get("block_out_channels", (320, 640, 1280, 1280)))
    down = v.get("down_block_types", [DOWN[1]] * 3 + [DOWN[0]])
    up = v.get("up_block_types", [UP[0]] + [UP[1]] * 3)
    if not len(widths) == len(down) == len(up) or not set(down) <= set(DOWN):
        raise CheckpointError(
            f"{path}: down_block_types {down} do not fit; expected {len(widths)} of {', '.join(DOWN)}"
        )
    if [DOWN.index(word) for word in down] != [UP.index(word) if word in UP else None for word in reversed(up)]:
        raise CheckpointError(f"{path}: up_block_types {up} do not mirror the way down; not supported")
    heads = v.get("num_attention_heads") or v.get(
        "attention_head_dim", 8
    )  # the second is a number of heads too, despite its name
    heads = [heads] * len(widths) if isinstance(heads, int) else heads
    sizes = {w // h for w, h in zip(widths, heads, strict=True)}
    if len(set(heads)) > 1 and len(sizes) > 1:
        raise CheckpointError(f"{path}: attention_head_dim {heads} gives neither one number of heads nor one head size")
    return UNetConfig(
        in_channels=v.get("in_channels", 4),
        out_channels=v.get("out_channels", 4),
        widths=widths,
        blocks=_one(path, v, "layers_per_block", 2),
        attention=tuple("full" if word == DOWN[1] else "none" for word in down),
        depth=_one(path, v, "transformer_layers_per_block", 1),
        heads=heads[0] if len(set(heads)) == 1 else None,
        head_size=None if len(set(heads)) == 1 else sizes.pop(),
        text_width=_one(path, v, "cross_attention_dim", 1280),
        norm_groups=v.get("norm_num_groups", 32),
        time_injection=_word(path, INJECTION, v, "resnet_time_scale_shift", "default"),
        linear_projection=v.get("use_linear_projection", False),
    )


def vae(path: Path) -> VAEConfig:
    """From `vae/config.json`."""
    v = read_json(path)
    fixed(path, v, VAE_FIXED | {"out_channels": v.get("in_channels", 3)})
    return VAEConfig(
        in_channels=v.get("in_channels", 3),
        latent_channels=v.get("latent_channels", 4),
        widths=tuple(v.get("block_out_channels", (64,))),
        blocks=v.get("layers_per_block", 1),
        norm_groups=v.get("norm_num_groups", 32),
        scaling_factor=v.get("scaling_factor", 0.18215),
    )


def text(path: Path, values: dict[str, Any], tokens: tuple[int, int, int] | None) -> TextConfig:
    """From transformers' CLIPTextConfig; `tokens` is the tokenizer's (bos, eos, pad): published configs err there."""
    fixed(path, values, {"layer_norm_eps": 1e-5})
    words = values.get("vocab_size", 49408)
    bos, eos, pad = tokens or (words - 2, words - 1, words - 1)
    return TextConfig(
        vocab_size=words,
        max_length=values.get("max_position_embeddings", 77),
        width=values.get("hidden_size", 512),
        layers=values.get("num_hidden_layers", 12),
        heads=values.get("num_attention_heads", 8),
        feed_forward=values.get("intermediate_size", 2048),
        activation=_activation(path, values),
        bos=bos,
        eos=eos,
        pad=pad,
    )


def clip(path: Path, shapes: CLIPConfig) -> CLIPConfig:
    """A CLIP folder's `config.json` may leave most out; the sizes in `shapes` are the tensors', the rest is read."""
    v = read_json(path)
    towers = {"text": ("text_config", 8), "vision": ("vision_config", 12)}
    parts = {}
    for name, (key, heads) in towers.items():
        values = v.get(key) or {}
        fixed(path, values, {"layer_norm_eps": 1e-5})
        changes = {"heads": values.get("num_attention_heads", heads), "activation": _activation(path, values)}
        if name == "text" and (ids := tokens(path.parent)):
            changes |= dict(zip(("bos", "eos", "pad"), ids, strict=True))
        parts[name] = type(getattr(shapes, name))(**(vars(getattr(shapes, name)) | changes))
    return CLIPConfig(**parts)


def schedule(path: Path) -> ScheduleConfig:
    """From `scheduler/scheduler_config.json`, of any class; what it leaves out has diffusers' defaults."""
    v = read_json(path)
    fixed(path, v, SCHEDULE_FIXED)
    return ScheduleConfig(
        kind=_word(path, BETAS, v, "beta_schedule", "linear"),
        start=v.get("beta_start", 0.0001),
        end=v.get("beta_end", 0.02),
        steps=v.get("num_train_timesteps", 1000),
        prediction=_word(path, PREDICTION, v, "prediction_type", "epsilon"),
    )


def sampling(unet_path: Path, factor: int) -> SamplingConfig:
    """The resolution is that of training; the scales are the published ones."""
    size = read_json(unet_path).get("sample_size") or 64
    return SamplingConfig(resolution=factor * (size if isinstance(size, int) else max(size)))


def tokens(folder: Path) -> tuple[int, int, int] | None:
    """(bos, eos, pad) of a tokenizer's folder, or None where it has none."""
    vocab: dict[str, int] = {}
    if (folder / "vocab.json").exists():
        vocab = read_json(folder / "vocab.json")
    elif (folder / "tokenizer.json").exists():
        values = read_json(folder / "tokenizer.json")
        vocab = dict(values.get("model", {}).get("vocab", {}))
        vocab |= {token["content"]: token["id"] for token in values.get("added_tokens", ())}
    said: dict[str, Any] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):  # where they differ, the second is meant
        said |= read_json(folder / name) if (folder / name).exists() else {}
    words = []
    for key, usual in (
        ("bos_token", "<|startoftext|>"),
        ("eos_token", "<|endoftext|>"),
        ("pad_token", "<|endoftext|>"),
    ):
        word = said.get(key) or usual
        words.append(vocab.get(word["content"] if isinstance(word, dict) else word))
    return None if None in words else tuple(words)


def _activation(path: Path, values: dict[str, Any]) -> str:
    return _word(path, {"quick_gelu": "quick_gelu", "gelu": "gelu"}, values, "hidden_act", "quick_gelu")


def fixed(path: Path, values: dict[str, Any], only: dict[str, Any]) -> None:
    """Raise CheckpointError for a word that says other than the one thing that our networks do."""
    for key, known in only.items():
        found = values.get(key, known)
        if found != known and (found or known):  # null, false and 0 all mean "without"
            raise CheckpointError(f"{path}: {key} = {found!r} is not supported; expected {known!r}")


def _word(path: Path, words: dict[str, str], values: dict[str, Any], key: str, usual: str) -> str:
    if (word := values.get(key, usual)) not in words:
        raise CheckpointError(f"{path}: {key} = {word!r} is not supported; expected one of {', '.join(words)}")
    return words[word]


def _one(path: Path, values: dict[str, Any], key: str, usual: int) -> int:
    """A number that diffusers also accepts as a list, one a level."""
    found = values.get(key, usual)
    if isinstance(found, list) and len(set(found)) == 1:
        return found[0]
    if not isinstance(found, int):
        raise CheckpointError(f"{path}: {key} = {found!r} is not supported; expected one number for all levels")
    return found
