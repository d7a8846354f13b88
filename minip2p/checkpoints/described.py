"""Our configs as diffusers' and transformers' `config.json`, and the `model_index.json` of a folder."""

from typing import Any

from ..config import Config, TextConfig, UNetConfig, VAEConfig
from .configs import BETAS, DOWN, INJECTION, PREDICTION, UNET_FIXED, UP

MEMBERS = {
    "vae": "AutoencoderKL",
    "unet": "UNet2DConditionModel",
    "text_encoder": "CLIPTextModel",
    "tokenizer": "CLIPTokenizer",
}
SPELLED_OUT = (
    "act_fn", "norm_eps", "center_input_sample", "flip_sin_to_cos", "freq_shift", "downsample_padding",
    "mid_block_scale_factor",
)  # fmt: skip
"""what published configs say though it is the default"""


def unet_json(c: UNetConfig, sample_size: int) -> dict[str, Any]:
    heads = c.heads or [w // c.head_size for w in c.widths]
    attends = [word != "none" for word in c.attention]
    return {
        "_class_name": MEMBERS["unet"], "sample_size": sample_size, "in_channels": c.in_channels,
        "out_channels": c.out_channels, "block_out_channels": list(c.widths), "layers_per_block": c.blocks,
        "down_block_types": [DOWN[yes] for yes in attends],
        "up_block_types": [UP[yes] for yes in reversed(attends)], "transformer_layers_per_block": c.depth,
        "attention_head_dim": heads, "cross_attention_dim": c.text_width, "norm_num_groups": c.norm_groups,
        "resnet_time_scale_shift": _back(INJECTION, c.time_injection), "use_linear_projection": c.linear_projection,
        **{key: UNET_FIXED[key] for key in SPELLED_OUT},
    }  # fmt: skip


def vae_json(c: VAEConfig, resolution: int) -> dict[str, Any]:
    n = len(c.widths)
    return {
        "_class_name": MEMBERS["vae"],
        "sample_size": resolution,
        "in_channels": c.in_channels,
        "out_channels": c.in_channels,
        "latent_channels": c.latent_channels,
        "block_out_channels": list(c.widths),
        "layers_per_block": c.blocks,
        "down_block_types": ["DownEncoderBlock2D"] * n,
        "up_block_types": ["UpDecoderBlock2D"] * n,
        "act_fn": "silu",
        "norm_num_groups": c.norm_groups,
        "scaling_factor": c.scaling_factor,
    }


def text_json(c: TextConfig) -> dict[str, Any]:
    return {
        "architectures": [MEMBERS["text_encoder"]],
        "model_type": "clip_text_model",
        "vocab_size": c.vocab_size,
        "max_position_embeddings": c.max_length,
        "hidden_size": c.width,
        "projection_dim": c.width,
        "num_hidden_layers": c.layers - c.skip_last,
        "num_attention_heads": c.heads,
        "intermediate_size": c.feed_forward,
        "hidden_act": c.activation,
        "layer_norm_eps": 1e-5,
        "bos_token_id": c.bos,
        "eos_token_id": c.eos,
        "pad_token_id": c.pad,
    }


def schedule_json(c: Config) -> dict[str, Any]:
    s = c.schedule
    name = "EulerAncestralDiscreteScheduler" if is_editor(c) else "DDIMScheduler"
    return {
        "_class_name": name,
        "num_train_timesteps": s.steps,
        "beta_start": s.start,
        "beta_end": s.end,
        "trained_betas": None,
        "beta_schedule": _back(BETAS, s.kind),
        "prediction_type": _back(PREDICTION, s.prediction),
        "steps_offset": 1,
        **({} if is_editor(c) else {"clip_sample": False, "set_alpha_to_one": False}),
    }


def index_json(c: Config, members: list[str]) -> dict[str, Any]:
    """`model_index.json`: which class loads which folder."""
    kinds = {
        name: [("transformers" if name in ("text_encoder", "tokenizer") else "diffusers"), MEMBERS[name]]
        for name in MEMBERS
    }
    kinds["scheduler"] = ["diffusers", schedule_json(c)["_class_name"]]
    return {
        "_class_name": "StableDiffusionInstructPix2PixPipeline" if is_editor(c) else "StableDiffusionPipeline",
        "_diffusers_version": "0.30.0",
        "requires_safety_checker": False,
        **{name: kinds[name] if name in members else [None, None] for name in kinds},
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
    }


def is_editor(c: Config) -> bool:
    return c.unet.in_channels == c.unet.out_channels + c.vae.latent_channels


def _back(words: dict[str, str], ours: str) -> str:
    return next(theirs for theirs, word in words.items() if word == ours)
