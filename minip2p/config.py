"""Every choice of architecture and sampling, as frozen values.

The defaults are Stable Diffusion 1.5 (Rombach et al. 2022); `PRESETS` are differences from it. A config goes to JSON
and back (`to_dict`, `from_dict`), travels inside our checkpoints, and is changed by words:
`override(config, "unet.norm=rms")`.
"""

import ast
import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The denoiser as Stable Diffusion's UNet: residual blocks, with transformers on some levels."""

    in_channels: int = 4
    """4 for text-to-image; 8 for editing: the noisy latent, then the image latent (InstructPix2Pix, section 3.2)"""
    out_channels: int = 4
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    """channels of each level, from the finest; each level has half the sides of the one before"""
    blocks: int = 2
    """residual blocks a level on the way down; one more on the way up"""
    attention: tuple[str, ...] = ("full", "full", "full", "none")
    """what follows each residual block of a level: a word of `nn.blocks.ATTENTION`"""
    mid_attention: str = "full"
    depth: int = 1
    """transformer blocks in a row"""
    heads: int | None = 8
    """heads at every level; None where `head_size` is given instead (Stable Diffusion 2)"""
    head_size: int | None = None
    text_width: int = 768
    norm: str = "group"
    norm_groups: int = 32
    time_injection: str = "add"
    feed_forward: str = "geglu"
    linear_projection: bool = False
    """the transformers' first and last layer: a 1x1 convolution (Stable Diffusion 1) or a linear layer (2)"""


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """The denoiser as a diffusion transformer; the defaults are DiT-XL/2's (Peebles & Xie 2023)."""

    in_channels: int = 4
    """as the UNet's"""
    out_channels: int = 4
    patch: int = 2
    """side of the patches, in latents"""
    width: int = 1152
    depth: int = 28
    heads: int = 16
    text_width: int = 768
    feed_forward: str = "gelu"
    """a word of `nn.blocks.FEED_FORWARD`"""


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """The autoencoder between images and latents."""

    in_channels: int = 3
    latent_channels: int = 4
    widths: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    norm: str = "group"
    norm_groups: int = 32
    scaling_factor: float = 0.18215
    """latents times this have about unit variance, as the denoiser needs them"""


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """CLIP's text tower."""

    vocab_size: int = 49408
    max_length: int = 77
    width: int = 768
    layers: int = 12
    heads: int = 12
    feed_forward: int = 3072
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    skip_last: int = 0
    """layers at the end that are not run; the final norm is applied to what comes before them ("penultimate" = 1)"""
    bos: int = 49406
    eos: int = 49407
    pad: int = 49407
    projection: int | None = None
    """width of the space that texts and images share; None where the tower only conditions a denoiser"""


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """CLIP's vision tower; the defaults are ViT-L/14's."""

    image_size: int = 224
    patch_size: int = 14
    width: int = 1024
    layers: int = 24
    heads: int = 16
    feed_forward: int = 4096
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    projection: int = 768


@dataclass(frozen=True, kw_only=True)
class CLIPConfig:
    """Both towers; the defaults are OpenAI's ViT-L/14, by which the paper filters pairs."""

    text: TextConfig = field(default_factory=lambda: TextConfig(projection=768))
    vision: VisionConfig = field(default_factory=VisionConfig)


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """The language model that writes instructions; the defaults are Llama 2's with 7 billion parameters."""

    vocab_size: int = 32000
    max_length: int = 4096
    """tokens that it was trained on at most"""
    width: int = 4096
    layers: int = 32
    heads: int = 32
    kv_heads: int = 32
    """heads of keys and values; each serves heads / kv_heads of the queries (grouped-query attention)"""
    head_size: int | None = None
    """None is width / heads"""
    feed_forward: int = 11008
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    """base of the rotary positions' wavelengths"""
    window: int | None = None
    """how many tokens back attention reaches, itself included (Mistral 7B 0.1: 4096); None is all"""
    tied: bool = False
    """whether the output's weights are the input embedding's"""
    bos: int = 1
    eos: int = 2


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The forward process and what the network predicts."""

    kind: str = "scaled_linear"
    """a word of `diffusion.BETAS` or `SCHEDULES`"""
    start: float = 0.00085
    end: float = 0.012
    """the first and the last beta, where the schedule has betas"""
    steps: int = 1000
    shift: float = 1.0
    """of a flow: above 1 spends more on high noise"""
    prediction: str = "eps"
    """a word of `diffusion.denoiser.PREDICTIONS`"""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Defaults of `Pipeline`'s methods."""

    resolution: int = 512
    """longer side of an edited image, in pixels"""
    multiple: int = 64
    """sides are rounded to multiples of this many pixels"""
    text_scale: float = 7.5
    image_scale: float = 1.5


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole text-conditioned latent diffusion model."""

    denoiser: str = "unet"
    """a word of `models.denoisers.DENOISERS`; "dit" is configured by `dit`, all others by `unet`"""
    unet: UNetConfig = field(default_factory=UNetConfig)
    dit: DiTConfig = field(default_factory=DiTConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    text: TextConfig = field(default_factory=TextConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    @property
    def denoiser_config(self) -> UNetConfig | DiTConfig:
        """The chosen denoiser's part of the config: its channels, the width of the text that it reads, its shape."""
        return self.dit if self.denoiser == "dit" else self.unet

    def with_denoiser(self, **changes: Any) -> "Config":
        """The config with this changed in the chosen denoiser's part."""
        part = "dit" if self.denoiser == "dit" else "unet"
        return dataclasses.replace(self, **{part: dataclasses.replace(self.denoiser_config, **changes)})


def to_dict(config: Any) -> dict:
    """A config as nested dicts of JSON values (tuples become lists when dumped)."""
    return dataclasses.asdict(config)


def from_dict(kind: type, values: dict, path: str = "") -> Any:
    """The inverse of `to_dict`. Raises ValueError naming an unknown key or a value of a wrong type."""
    types = get_type_hints(kind)
    if unknown := sorted(set(values) - set(types)):
        raise ValueError(f"unknown config key {path + unknown[0]!r}; there are {', '.join(types)}")
    parts = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(types[name]):
            parts[name] = from_dict(types[name], value, f"{path}{name}.")
        else:
            parts[name] = _fit(types[name], value, path + name)
    return kind(**parts)


def _fit(wanted: Any, value: Any, name: str) -> Any:
    """`value` as its annotation wants it. Raises ValueError that names it."""
    options = get_args(wanted) if get_origin(wanted) is not tuple else ()
    if get_origin(wanted) is Literal:
        if value not in options:
            raise ValueError(f"{name} = {value!r}: expected one of {', '.join(map(repr, options))}")
        return value
    if get_origin(wanted) is tuple and isinstance(value, (list, tuple)):
        return tuple(_fit(get_args(wanted)[0], item, name) for item in value)
    for option in options or (wanted,):
        if option is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if isinstance(option, type) and isinstance(value, option) and not (option is int and isinstance(value, bool)):
            return value
    raise ValueError(f"{name} = {value!r}: expected {getattr(wanted, '__name__', wanted)}")


def override(config: Any, *words: str) -> Any:
    """`config` with dotted words set: `override(config, "unet.norm=rms", "unet.widths=(64, 128)")`.

    Values are Python literals; anything else is a string. Raises ValueError for an unknown name or a wrong type.
    """
    values = to_dict(config)
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"{word!r}: expected name=value, e.g. unet.norm=rms")
        *parents, last = name.strip().split(".")
        place = values
        for parent in parents:
            place = place.get(parent) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            raise ValueError(f"unknown config key {name!r}; at the top there are {', '.join(values)}")
        try:
            place[last] = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError):
            place[last] = text.strip()
    return from_dict(type(config), values)


def kind_of(config: Config) -> str:
    """What a model is, by the denoiser's inputs beside the noisy latent: none ("text-to-image"), a picture ("editor"),
    a picture and a mask ("inpainting"), depth ("depth"); all others are a "denoiser with N inputs"."""
    inputs, latent = config.denoiser_config.in_channels, config.denoiser_config.out_channels
    kinds = {latent: "text-to-image", latent + 1: "depth", 2 * latent: "editor", 2 * latent + 1: "inpainting"}
    return kinds.get(inputs, f"denoiser with {inputs} inputs")


HOW_TO_GET = {
    "editor": "load an InstructPix2Pix checkpoint, or make an editor of a text-to-image model with "
    "`minip2p convert --widen` and train it on edits",
    "text-to-image": "load a Stable Diffusion checkpoint, or the shipped tiny text-to-image model",
}
"""kind of model -> where one comes from"""


def words_of(config: Any, path: str = "") -> dict[str, Any]:
    """Dotted name -> value of everything in a config: what `override` sets."""
    words = {}
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        nested = dataclasses.is_dataclass(value)
        words |= words_of(value, f"{path}{each.name}.") if nested else {path + each.name: value}
    return words


PRESETS: dict[str, Config] = {
    "sd15": Config(),
    "pix2pix": Config(unet=UNetConfig(in_channels=8), dit=DiTConfig(in_channels=8)),
    "sd2": Config(
        unet=UNetConfig(heads=None, head_size=64, text_width=1024, linear_projection=True),
        dit=DiTConfig(text_width=1024),
        text=TextConfig(width=1024, layers=23, heads=16, feed_forward=4096, activation="gelu", pad=0),
    ),
    "tiny": Config(
        unet=UNetConfig(
            in_channels=16,
            out_channels=8,
            widths=(64, 128),
            blocks=1,
            attention=("full", "full"),
            heads=4,
            text_width=128,
            norm_groups=8,
        ),
        dit=DiTConfig(in_channels=16, out_channels=8, patch=1, width=192, depth=6, heads=4, text_width=128),
        vae=VAEConfig(latent_channels=8, widths=(16, 32, 80, 128), blocks=1, norm_groups=8),
        text=TextConfig(
            vocab_size=768, max_length=24, width=128, layers=3, heads=4, feed_forward=512, bos=766, eos=767, pad=767
        ),
        schedule=ScheduleConfig(prediction="v"),
        sampling=SamplingConfig(resolution=64, multiple=16, text_scale=1.5, image_scale=1.0),
    ),
}
PRESETS["tiny_text2image"] = override(
    PRESETS["tiny"], "unet.in_channels=8", "dit.in_channels=8", "text.max_length=48", "sampling.text_scale=3.0"
)
"""`sd2` is Stable Diffusion 2 base: of its text tower's 24 layers the last is never run, so it has 23."""
