"""diffusers' `config.json` files, read into our configs and written from them; those of text towers are in `clip`.

A value that our networks do not support is an error that names it, never ignored: with a wrong norm or activation a
network would load and generate rubbish.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator

from ..config import Beta, Config, SamplingConfig, ScheduleConfig, UNetConfig, VAEConfig, Widths, kind_of
from ..schema import Count, Heads, Layers, Pixels, Positive, Width, foreign, from_dict, shared, theirs, written
from .files import CheckpointError, read_json

T = TypeVar("T")

DOWN, UP = ("DownBlock2D", "CrossAttnDownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")


def one_for_all(value: Any) -> Any:
    """A list of equal numbers, one a level, is one number here."""
    return value[0] if isinstance(value, list) and value and value.count(value[0]) == len(value) else value


def as_list(value: Any) -> Any:
    """A number as a list of one; a list and None as they are."""
    return tuple(value) if isinstance(value, list) else value if value is None else (value,)


OneForAll, AsList = BeforeValidator(one_for_all), BeforeValidator(as_list)


@foreign
class UNetFile:
    """diffusers' UNet2DConditionModel: the words that are read, with its defaults."""

    in_channels: Width = 4
    out_channels: Width = 4
    widths: Widths = theirs("block_out_channels", (320, 640, 1280, 1280))
    blocks: Annotated[Layers, OneForAll] = theirs("layers_per_block", 2)
    depth: Annotated[Layers, OneForAll] = theirs("transformer_layers_per_block", 1)
    text_width: Annotated[Width, OneForAll] = theirs("cross_attention_dim", 1280)
    norm_groups: Width = theirs("norm_num_groups", 32)
    linear_projection: bool = theirs("use_linear_projection", False)
    down_block_types: tuple[Literal[DOWN], ...] = (DOWN[1], DOWN[1], DOWN[1], DOWN[0])
    up_block_types: tuple[Literal[UP], ...] = (UP[0], UP[1], UP[1], UP[1])
    num_attention_heads: Annotated[tuple[Heads, ...] | None, AsList] = None
    attention_head_dim: Annotated[tuple[Heads, ...] | None, AsList] = None
    """a number of heads too, despite its name"""
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    sample_size: Annotated[tuple[Pixels, ...] | None, AsList] = None


@foreign
class VAEFile:
    """AutoencoderKL."""

    in_channels: Width = 3
    out_channels: Width | None = None
    latent_channels: Width = 4
    widths: Widths = theirs("block_out_channels", (64,))
    blocks: Layers = theirs("layers_per_block", 1)
    norm_groups: Width = theirs("norm_num_groups", 32)
    scaling_factor: Positive = 0.18215


@foreign
class ScheduleFile:
    """A scheduler of any class."""

    start: Beta = theirs("beta_start", 0.0001)
    end: Beta = theirs("beta_end", 0.02)
    steps: Count = theirs("num_train_timesteps", 1000)
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon"
    rescale_betas_zero_snr: bool = False


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
SCHEDULE_FIXED = {"trained_betas": None}
INJECTION = {"default": "add", "scale_shift": "scale_shift"}
BETAS = {"scaled_linear": "scaled_linear", "linear": "linear", "squaredcos_cap_v2": "cosine"}
PREDICTION = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}


def unet(path: Path) -> UNetConfig:
    """From `unet/config.json`."""
    f = read_file(path, UNetFile, UNET_FIXED)
    n, attends = len(f.widths), [word == DOWN[1] for word in f.down_block_types]
    if len(attends) != n or [word == UP[1] for word in reversed(f.up_block_types)] != attends:
        wrong = f"down_block_types = {f.down_block_types}, up_block_types = {f.up_block_types}"
        raise CheckpointError(f"{path}: {wrong}: expected {n} on the way down, and their mirror on the way up")
    heads = f.num_attention_heads or f.attention_head_dim or (8,)
    heads = heads * n if len(heads) == 1 else heads
    same, sizes = len(set(heads)) == 1, {width // h for width, h in zip(f.widths, heads)}
    if len(heads) != n or not (same or len(sizes) == 1):
        raise CheckpointError(f"{path}: attention_head_dim {heads} gives neither one number of heads nor one head size")
    with in_file(path):
        return UNetConfig(
            **shared(f, UNetConfig),
            attention=tuple("full" if yes else "none" for yes in attends),
            heads=heads[0] if same else None,
            head_size=None if same else sizes.pop(),
            time_injection=INJECTION[f.resnet_time_scale_shift],
        )


def unet_json(c: UNetConfig, sample_size: int) -> dict[str, Any]:
    """A UNet as diffusers' config.json has it. sample_size: side of the latents."""
    attends = [word != "none" for word in c.attention]
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": sample_size,
        **written(c, UNetFile),
        "down_block_types": [DOWN[yes] for yes in attends],
        "up_block_types": [UP[yes] for yes in reversed(attends)],
        "attention_head_dim": c.heads or [w // c.head_size for w in c.widths],
        "resnet_time_scale_shift": _back(INJECTION, c.time_injection),
    }


def vae(path: Path) -> VAEConfig:
    """From `vae/config.json`."""
    f = read_file(path, VAEFile, VAE_FIXED)
    if f.out_channels not in (None, f.in_channels):
        raise CheckpointError(f"{path}: out_channels = {f.out_channels} is not supported; expected {f.in_channels}")
    with in_file(path):
        return VAEConfig(**shared(f, VAEConfig))


def vae_json(c: VAEConfig, resolution: int) -> dict[str, Any]:
    """An autoencoder as diffusers' config.json has it. resolution: side of the images."""
    return {
        "_class_name": "AutoencoderKL",
        "sample_size": resolution,
        **written(c, VAEFile),
        "out_channels": c.in_channels,
        "down_block_types": ["DownEncoderBlock2D"] * len(c.widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(c.widths),
    }


def schedule(path: Path) -> ScheduleConfig:
    """From `scheduler/scheduler_config.json`, of any class."""
    f = read_file(path, ScheduleFile, SCHEDULE_FIXED)
    kind, prediction = BETAS[f.beta_schedule], PREDICTION[f.prediction_type]
    if f.rescale_betas_zero_snr:
        if kind != "scaled_linear":
            raise CheckpointError(
                f"{path}: rescale_betas_zero_snr = True with beta_schedule = {f.beta_schedule!r} is not supported"
            )
        kind = "zero_snr"
    with in_file(path):
        return ScheduleConfig(**shared(f, ScheduleConfig), kind=kind, prediction=prediction)


def schedule_json(c: Config) -> dict[str, Any]:
    """The noise schedule as diffusers' scheduler_config.json has it."""
    rescaled = c.schedule.kind == "zero_snr"
    return {
        "_class_name": "EulerAncestralDiscreteScheduler" if kind_of(c) == "editor" else "DDIMScheduler",
        **written(c.schedule, ScheduleFile),
        "trained_betas": None,
        "beta_schedule": _back(BETAS, "scaled_linear" if rescaled else c.schedule.kind),
        **({"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if rescaled else {}),
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


def sampling(unet_path: Path, c: Config) -> SamplingConfig:
    """The resolution of training, and sides that the networks can halve; the scales are the published ones."""
    sizes = read_file(unet_path, UNetFile, {}).sample_size or (64,)
    with in_file(unet_path):
        return SamplingConfig(resolution=c.vae.factor * max(sizes), multiple=math.lcm(64, c.factor))


def fixed(path: Path, values: dict[str, Any], only: dict[str, Any]) -> None:
    """Raise CheckpointError for a word of `only` with another value."""
    for key, known in only.items():
        found = values.get(key, known)
        if found != known and (found or known):  # null, false and 0 all mean "without"
            raise CheckpointError(f"{path}: {key} = {found!r} is not supported; expected {known!r}")


def read_file(path: Path, kind: type[T], only: dict[str, Any]) -> T:
    """A file of another library. Raises CheckpointError for a value of a wrong type or range, and as `fixed`."""
    values = read_json(path)
    fixed(path, values, only)
    with in_file(path):
        return from_dict(kind, values)


@contextmanager
def in_file(path: Path) -> Iterator[None]:
    """What is wrong with values from a file, as a CheckpointError that names it."""
    try:
        yield
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _back(words: dict[str, str], ours: str) -> str:
    return next(theirs for theirs, word in words.items() if word == ours)
