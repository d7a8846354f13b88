"""diffusers' `config.json` files, read into our configs and written from them; those of text towers are in `clip`.

A value that our networks do not support is an error that names it, never ignored: with a wrong norm or activation a
network would load and generate rubbish.
"""

from pathlib import Path
from typing import Any

from ..config import Config, SamplingConfig, ScheduleConfig, UNetConfig, VAEConfig, kind_of
from .files import CheckpointError, read_json

Table = dict[str, tuple[str, Any]]
"""our word -> (theirs, the value that their library takes if the file leaves it out)"""
UNET: Table = {
    "in_channels": ("in_channels", 4),
    "out_channels": ("out_channels", 4),
    "widths": ("block_out_channels", (320, 640, 1280, 1280)),
    "blocks": ("layers_per_block", 2),
    "depth": ("transformer_layers_per_block", 1),
    "text_width": ("cross_attention_dim", 1280),
    "norm_groups": ("norm_num_groups", 32),
    "linear_projection": ("use_linear_projection", False),
}
VAE: Table = {
    "in_channels": ("in_channels", 3),
    "latent_channels": ("latent_channels", 4),
    "widths": ("block_out_channels", (64,)),
    "blocks": ("layers_per_block", 1),
    "norm_groups": ("norm_num_groups", 32),
    "scaling_factor": ("scaling_factor", 0.18215),
}
SCHEDULE: Table = {"start": ("beta_start", 0.0001), "end": ("beta_end", 0.02), "steps": ("num_train_timesteps", 1000)}
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
"""words with one supported value"""
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
    """From `unet/config.json`."""
    v = read_json(path)
    fixed(path, v, UNET_FIXED)
    c = read_words(path, v, UNET)
    widths = c["widths"]
    down = v.get("down_block_types", [DOWN[1]] * 3 + [DOWN[0]])
    up = v.get("up_block_types", [UP[0]] + [UP[1]] * 3)
    if not len(widths) == len(down) == len(up) or not set(down) <= set(DOWN):
        raise CheckpointError(
            f"{path}: down_block_types = {down} is not supported; expected {len(widths)} of {', '.join(DOWN)}"
        )
    if [DOWN.index(word) for word in down] != [UP.index(word) if word in UP else None for word in reversed(up)]:
        raise CheckpointError(f"{path}: up_block_types = {up} is not supported; expected the mirror of the way down")
    heads = v.get("num_attention_heads") or v.get("attention_head_dim", 8)  # a number of heads too, despite its name
    heads = [heads] * len(widths) if isinstance(heads, int) else heads
    sizes = {w // h for w, h in zip(widths, heads, strict=True)}
    if len(set(heads)) > 1 and len(sizes) > 1:
        raise CheckpointError(f"{path}: attention_head_dim {heads} gives neither one number of heads nor one head size")
    return UNetConfig(
        **c,
        attention=tuple("full" if word == DOWN[1] else "none" for word in down),
        heads=heads[0] if len(set(heads)) == 1 else None,
        head_size=None if len(set(heads)) == 1 else sizes.pop(),
        time_injection=one_of(path, INJECTION, v, "resnet_time_scale_shift", "default"),
    )


def unet_json(c: UNetConfig, sample_size: int) -> dict[str, Any]:
    attends = [word != "none" for word in c.attention]
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": sample_size,
        **written(c, UNET),
        "down_block_types": [DOWN[yes] for yes in attends],
        "up_block_types": [UP[yes] for yes in reversed(attends)],
        "attention_head_dim": c.heads or [w // c.head_size for w in c.widths],
        "resnet_time_scale_shift": _back(INJECTION, c.time_injection),
    }


def vae(path: Path) -> VAEConfig:
    """From `vae/config.json`."""
    v = read_json(path)
    c = read_words(path, v, VAE)
    fixed(path, v, VAE_FIXED | {"out_channels": c["in_channels"]})
    return VAEConfig(**c)


def vae_json(c: VAEConfig, resolution: int) -> dict[str, Any]:
    return {
        "_class_name": "AutoencoderKL",
        "sample_size": resolution,
        **written(c, VAE),
        "out_channels": c.in_channels,
        "down_block_types": ["DownEncoderBlock2D"] * len(c.widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(c.widths),
    }


def schedule(path: Path) -> ScheduleConfig:
    """From `scheduler/scheduler_config.json`, of any class."""
    v = read_json(path)
    fixed(path, v, SCHEDULE_FIXED)
    return ScheduleConfig(
        **read_words(path, v, SCHEDULE),
        kind=one_of(path, BETAS, v, "beta_schedule", "linear"),
        prediction=one_of(path, PREDICTION, v, "prediction_type", "epsilon"),
    )


def schedule_json(c: Config) -> dict[str, Any]:
    return {
        "_class_name": "EulerAncestralDiscreteScheduler" if kind_of(c) == "editor" else "DDIMScheduler",
        **written(c.schedule, SCHEDULE),
        "trained_betas": None,
        "beta_schedule": _back(BETAS, c.schedule.kind),
        "prediction_type": _back(PREDICTION, c.schedule.prediction),
        "steps_offset": 1,
        **({} if kind_of(c) == "editor" else {"clip_sample": False, "set_alpha_to_one": False}),
    }


def index_json(c: Config, members: list[str]) -> dict[str, Any]:
    """`model_index.json`: the library and class of each folder, [null, null] where there is none."""
    classes = {
        "vae": ["diffusers", "AutoencoderKL"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", schedule_json(c)["_class_name"]],
    }
    return {
        "_class_name": "StableDiffusionInstructPix2PixPipeline"
        if kind_of(c) == "editor"
        else "StableDiffusionPipeline",
        "_diffusers_version": "0.30.0",
        "requires_safety_checker": False,
        **{name: found if name in members else [None, None] for name, found in classes.items()},
        **dict.fromkeys(("safety_checker", "feature_extractor", "image_encoder"), [None, None]),
    }


def sampling(unet_path: Path, factor: int) -> SamplingConfig:
    """The resolution of training; the scales are the published ones."""
    size = read_json(unet_path).get("sample_size") or 64
    return SamplingConfig(resolution=factor * (size if isinstance(size, int) else max(size)))


def fixed(path: Path, values: dict[str, Any], only: dict[str, Any]) -> None:
    """Raise CheckpointError for a word of `only` with another value."""
    for key, known in only.items():
        found = values.get(key, known)
        if found != known and (found or known):  # null, false and 0 all mean "without"
            raise CheckpointError(f"{path}: {key} = {found!r} is not supported; expected {known!r}")


def read_words(path: Path, values: dict[str, Any], table: Table) -> dict[str, Any]:
    """The words of a file under our names. A list of equal numbers, one a level, is one number here."""
    ours = {}
    for word, (theirs, default) in table.items():
        found = values.get(theirs, default)
        if isinstance(default, tuple):
            found = tuple(found)
        elif isinstance(found, list) and len(set(found)) == 1:
            found = found[0]
        if isinstance(default, int) and not isinstance(found, int):
            raise CheckpointError(f"{path}: {theirs} = {found!r} is not supported; expected one number for all levels")
        ours[word] = found
    return ours


def written(c: Any, table: Table) -> dict[str, Any]:
    return {theirs: getattr(c, word) for word, (theirs, _) in table.items()}


def one_of(path: Path, words: dict[str, str], values: dict[str, Any], key: str, default: str) -> str:
    if (word := values.get(key, default)) not in words:
        raise CheckpointError(f"{path}: {key} = {word!r} is not supported; expected one of {', '.join(words)}")
    return words[word]


def _back(words: dict[str, str], ours: str) -> str:
    return next(theirs for theirs, word in words.items() if word == ours)
