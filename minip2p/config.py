"""Every choice of architecture and sampling, as frozen values.

The defaults are Stable Diffusion 1.5 (Rombach et al. 2022); `PRESETS` are differences from it. A config goes to JSON
and back (`to_dict`, `from_dict`), travels inside our checkpoints, and is changed by words:
`override(config, "unet.norm=rms")`.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field

from .schema import Heads, Layers, Length, Name, Pixels, Positive, Scale, Token, Vocabulary, Width, checked
from .schema import from_dict as from_dict
from .schema import override as override
from .schema import to_dict as to_dict
from .schema import words_of as words_of

Widths = Annotated[tuple[Width, ...], Field(min_length=1, max_length=10)]
"""channels of each level, from the finest; each level has half the sides of the one before"""
Beta = Annotated[float, Field(gt=0, lt=1)]
MOST_TRANSFORMERS = 2000
"""in one UNet; Stable Diffusion XL has 70"""


def check_levels(widths: Sequence[int], norm: str, groups: int) -> None:
    """Raise ValueError for widths that a group norm of so many groups cannot divide; other norms have no groups."""
    if norm == "group" and (wrong := [width for width in widths if width % groups]):
        raise ValueError(f"norm_groups = {groups}: expected a number that divides all widths, {wrong[0]} too")


def check_heads(widths: Sequence[int], heads: int | None, head_size: int | None = None) -> None:
    """Raise ValueError for a width that does not divide into the heads, or into heads of this size."""
    name, number = ("heads", heads) if head_size is None else ("head_size", head_size)
    if wrong := [width for width in widths if width % (number or 1)]:
        raise ValueError(f"{name} = {number}: expected a divisor of the width {wrong[0]}")


def check_tokens(config: Any, *names: str) -> None:
    """Raise ValueError for a token that is not in the vocabulary."""
    for name in names:
        if getattr(config, name) >= config.vocab_size:
            raise ValueError(f"{name} = {getattr(config, name)}: expected less than vocab_size = {config.vocab_size}")


@checked
class UNetConfig:
    """The denoiser as Stable Diffusion's UNet: residual blocks, with transformers on some levels."""

    in_channels: Width = 4
    """4 for text-to-image; 8 for editing: the noisy latent, then the image latent (InstructPix2Pix, section 3.2)"""
    out_channels: Width = 4
    widths: Widths = (320, 640, 1280, 1280)
    blocks: Layers = 2
    """residual blocks a level on the way down; one more on the way up"""
    attention: tuple[Name, ...] = ("full", "full", "full", "none")
    """what follows each residual block of a level: a word of `nn.attention.ATTENTION`"""
    mid_attention: Name = "full"
    depth: Layers = 1
    """transformer blocks in a row"""
    heads: Heads | None = 8
    """heads at every level; None where `head_size` is given instead (Stable Diffusion 2)"""
    head_size: Width | None = None
    text_width: Width = 768
    norm: Name = "group"
    norm_groups: Width = 32
    time_injection: Name = "add"
    feed_forward: Name = "geglu"
    linear_projection: bool = False
    """the transformers' first and last layer: a 1x1 convolution (Stable Diffusion 1) or a linear layer (2)"""

    def __post_init__(self):
        check_levels(self.widths, self.norm, self.norm_groups)
        if self.widths[0] % 2:
            raise ValueError(f"widths = {self.widths}: expected an even first one, which sinusoids need")
        if len(self.attention) != len(self.widths):
            raise ValueError(f"attention = {self.attention}: expected a word for each of {len(self.widths)} widths")
        if (self.heads is None) == (self.head_size is None):
            raise ValueError(f"heads = {self.heads}: expected either heads or head_size = {self.head_size}")
        words = (*zip(self.widths, self.attention), (self.widths[-1], self.mid_attention))
        check_heads([width for width, word in words if word != "none"], self.heads, self.head_size)
        if len(self.widths) * (2 * self.blocks + 1) * self.depth > MOST_TRANSFORMERS:
            raise ValueError(f"blocks = {self.blocks}: with depth = {self.depth} over {MOST_TRANSFORMERS} transformers")


@checked
class DiTConfig:
    """The denoiser as a diffusion transformer; the defaults are DiT-XL/2's (Peebles & Xie 2023)."""

    in_channels: Width = 4
    """as the UNet's"""
    out_channels: Width = 4
    patch: Pixels = 2
    """side of the patches, in latents"""
    width: Width = 1152
    depth: Layers = 28
    heads: Heads = 16
    text_width: Width = 768
    feed_forward: Name = "gelu"
    """a word of `nn.attention.FEED_FORWARD`"""

    def __post_init__(self):
        if self.width % 8:
            raise ValueError(f"width = {self.width}: expected a multiple of 8, which sinusoids need")
        check_heads([self.width], self.heads)


@checked
class VAEConfig:
    """The autoencoder between images and latents."""

    in_channels: Width = 3
    latent_channels: Width = 4
    widths: Widths = (128, 256, 512, 512)
    blocks: Layers = 2
    norm: Name = "group"
    norm_groups: Width = 32
    scaling_factor: Annotated[float, Field(ge=1e-6, le=1e6)] = 0.18215
    """latents times this have about unit variance, as the denoiser needs them"""

    def __post_init__(self):
        check_levels(self.widths, self.norm, self.norm_groups)

    @property
    def factor(self) -> int:
        """An image's side / its latent's side."""
        return 2 ** (len(self.widths) - 1)


@checked
class TextConfig:
    """CLIP's text tower."""

    vocab_size: Vocabulary = 49408
    max_length: Annotated[int, Field(ge=2, le=10_000)] = 77
    width: Width = 768
    layers: Layers = 12
    heads: Heads = 12
    feed_forward: Width = 3072
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    skip_last: Annotated[int, Field(ge=0)] = 0
    """layers at the end that are not run; the final norm is applied to what comes before them ("penultimate" = 1)"""
    bos: Token = 49406
    eos: Token = 49407
    pad: Token = 49407
    projection: Width | None = None
    """width of the space that texts and images share; None where the tower only conditions a denoiser"""

    def __post_init__(self):
        check_heads([self.width], self.heads)
        check_tokens(self, "bos", "eos", "pad")
        if self.skip_last >= self.layers:
            raise ValueError(f"skip_last = {self.skip_last}: expected less than the {self.layers} layers")


@checked
class VisionConfig:
    """CLIP's vision tower; the defaults are ViT-L/14's."""

    image_size: Pixels = 224
    patch_size: Pixels = 14
    width: Width = 1024
    layers: Layers = 24
    heads: Heads = 16
    feed_forward: Width = 4096
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    projection: Width = 768

    def __post_init__(self):
        check_heads([self.width], self.heads)
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size = {self.image_size}: expected a multiple of patch_size = {self.patch_size}")


@checked
class CLIPConfig:
    """Both towers; the defaults are OpenAI's ViT-L/14, by which the paper filters pairs."""

    text: TextConfig = field(default_factory=lambda: TextConfig(projection=768))
    vision: VisionConfig = field(default_factory=VisionConfig)

    def __post_init__(self):
        ours, theirs = self.text.projection, self.vision.projection
        if ours != theirs:
            raise ValueError(f"text.projection = {ours}: expected vision.projection = {theirs}")


@checked
class LlamaConfig:
    """The language model that writes instructions; the defaults are Llama 2's with 7 billion parameters."""

    vocab_size: Vocabulary = 32000
    max_length: Length = 4096
    """tokens that it was trained on at most"""
    width: Width = 4096
    layers: Layers = 32
    heads: Heads = 32
    kv_heads: Heads = 32
    """heads of keys and values; each serves heads / kv_heads of the queries (grouped-query attention)"""
    head_size: Width | None = None
    """None is width / heads"""
    feed_forward: Width = 11008
    norm_eps: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    rope_theta: Annotated[float, Field(ge=1, le=1e12)] = 10_000.0
    """base of the rotary positions' wavelengths"""
    window: Length | None = None
    """how many tokens back attention reaches, itself included (Mistral 7B 0.1: 4096); None is all"""
    tied: bool = False
    """whether the output's weights are the input embedding's"""
    bos: Token = 1
    eos: Token = 2

    def __post_init__(self):
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads = {self.kv_heads}: expected a divisor of heads = {self.heads}")
        check_heads([] if self.head_size else [self.width], self.heads)
        if (size := self.head_size or self.width // self.heads) % 2:
            raise ValueError(f"head_size = {size}: expected an even number, which rotary positions need")
        check_tokens(self, "bos", "eos")


@checked
class ScheduleConfig:
    """The forward process and what the network predicts."""

    kind: Name = "scaled_linear"
    """a word of `diffusion.BETAS` or `SCHEDULES`"""
    start: Beta = 0.00085
    end: Beta = 0.012
    """the first and the last beta, where the schedule has betas"""
    steps: Annotated[int, Field(ge=2, le=100_000)] = 1000
    shift: Positive = 1.0
    """of a flow: above 1 spends more on high noise"""
    prediction: Name = "eps"
    """a word of `diffusion.denoiser.PREDICTIONS`"""

    def __post_init__(self):
        if self.start > self.end:
            raise ValueError(f"start = {self.start}: expected at most end = {self.end}")
        if (self.kind, self.prediction) == ("zero_snr", "eps"):
            raise ValueError("prediction = 'eps': expected v with kind = 'zero_snr', whose last time is noise alone")


@checked
class SamplingConfig:
    """Defaults of `Pipeline`'s methods."""

    resolution: Pixels = 512
    """longer side of an edited image, in pixels"""
    multiple: Pixels = 64
    """sides are rounded to multiples of this many pixels"""
    text_scale: Scale = 7.5
    image_scale: Scale = 1.5


@checked
class Config:
    """A whole text-conditioned latent diffusion model."""

    denoiser: Name = "unet"
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

    @property
    def factor(self) -> int:
        """Images have sides that are multiples of this many pixels, which the networks halve or cut into patches."""
        return self.vae.factor * (self.dit.patch if self.denoiser == "dit" else 2 ** (len(self.unet.widths) - 1))

    def check_together(self) -> None:
        """Raise ValueError where the parts do not fit together; a config of some parts alone need not."""
        part, d = "dit" if self.denoiser == "dit" else "unet", self.denoiser_config
        for name, value, expected in (
            ("vae.in_channels", self.vae.in_channels, 3),
            (f"{part}.out_channels", d.out_channels, self.vae.latent_channels),
            (f"{part}.text_width", d.text_width, self.text.width),
        ):
            if value != expected:
                raise ValueError(f"{name} = {value}: expected {expected}, as the other parts have")
        if self.sampling.multiple % self.factor:
            raise ValueError(f"sampling.multiple = {self.sampling.multiple}: expected a multiple of {self.factor}")

    def with_denoiser(self, **changes: Any) -> "Config":
        """The config with this changed in the chosen denoiser's part."""
        part = "dit" if self.denoiser == "dit" else "unet"
        return dataclasses.replace(self, **{part: dataclasses.replace(self.denoiser_config, **changes)})


def kind_of(config: Config) -> str:
    """What a model is, by the denoiser's inputs beside the noisy latent: none ("text-to-image"), a picture ("editor"),
    a picture and a mask ("inpainting"), depth ("depth"), a small picture in RGB ("upscaler"); all others are a
    "denoiser with N inputs"."""
    inputs, latent = config.denoiser_config.in_channels, config.denoiser_config.out_channels
    kinds = {latent + 1: "depth", latent + 3: "upscaler", 2 * latent + 1: "inpainting", latent: "text-to-image"}
    kinds[2 * latent] = "editor"
    return kinds.get(inputs, f"denoiser with {inputs} inputs")


HOW_TO_GET = {
    "editor": "load an InstructPix2Pix checkpoint, or make an editor of a text-to-image model with "
    "`minip2p convert --widen` and train it on edits",
    "text-to-image": "load a Stable Diffusion checkpoint, or the shipped tiny text-to-image model",
}
"""kind of model -> where one comes from"""


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
            widths=(64, 128, 128),
            blocks=1,
            attention=("full", "full", "none"),
            mid_attention="full",
            heads=2,
            text_width=128,
            norm_groups=8,
        ),
        dit=DiTConfig(in_channels=16, out_channels=8, patch=2, width=192, depth=6, heads=4, text_width=128),
        vae=VAEConfig(latent_channels=8, widths=(24, 48, 96, 128), blocks=1, norm_groups=8),
        text=TextConfig(
            vocab_size=768, max_length=24, width=128, layers=3, heads=4, feed_forward=512, bos=766, eos=767, pad=767
        ),
        schedule=ScheduleConfig(prediction="v"),
        sampling=SamplingConfig(resolution=128, multiple=32, text_scale=1.5, image_scale=1.0),
    ),
}
PRESETS["tiny_text2image"] = override(
    PRESETS["tiny"], "unet.in_channels=8", "dit.in_channels=8", "text.max_length=48", "sampling.text_scale=2.0"
)
"""`sd2` is Stable Diffusion 2 base: of its text tower's 24 layers the last is never run, so it has 23."""
