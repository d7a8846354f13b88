"""How each stage is trained, as frozen values. Defaults are the paper's (section 3.2); PRESETS has the differences."""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from ..config import PRESETS as MODELS
from ..config import CLIPConfig, Config, LlamaConfig, ReaderConfig, VAEConfig, VisionConfig
from ..data.scenes import COLOURS, KINDS, MEDIA, SETTINGS, TIMES


HELD_OUT = 2**32 - 1
"""in place of a step: the draws that no training makes, for previews and their figures"""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop's part, the same for every stage."""

    steps: int = 10_000
    batch_size: int = 1024
    learning_rate: float = 1e-4
    betas: tuple[float, ...] = (0.9, 0.999)
    weight_decay: float = 0.01
    warmup: int = 0
    """steps over which the learning rate rises from 0"""
    decay: Literal["constant", "cosine"] = "constant"
    """what it does after that; cosine ends at 0 with the last step"""
    clip: float = 1.0
    """largest norm of the gradient"""
    ema: float = 0.9999
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """autocast; auto is bf16 on a GPU only, bf16 is that wherever the device computes in it, and fp32 elsewhere"""
    compile: bool = False
    """compile the networks first (minutes): worth it for long runs; rounding differs from a run without"""
    seed: int = 0
    log_every: int = 50
    save_every: int = 1000
    preview_every: int = 2000

    def __post_init__(self):
        for name in ("steps", "batch_size", "log_every", "save_every", "preview_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name} = {getattr(self, name)}: expected at least 1")


@dataclass(frozen=True, kw_only=True)
class VAETraining:
    """The autoencoder, on pictures of the tiny world: absolute error and a little of the KL divergence."""

    model: VAEConfig = field(default_factory=lambda: MODELS["tiny"].vae)
    train: TrainConfig = field(default_factory=TrainConfig)
    size: int = 64
    kl_weight: float = 1e-3


@dataclass(frozen=True, kw_only=True)
class CLIPTraining:
    """Both towers, on pictures of the tiny world and their captions: the symmetric contrastive loss."""

    model: CLIPConfig = field(default_factory=CLIPConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    size: int = 64


@dataclass(frozen=True, kw_only=True)
class ReaderTraining:
    """The reader, on pictures of the tiny world, most of them made as rough as a painter's: cross-entropies."""

    model: ReaderConfig = field(
        default_factory=lambda: ReaderConfig(settings=SETTINGS, times=TIMES, media=MEDIA, kinds=KINDS, colours=COLOURS)
    )
    train: TrainConfig = field(default_factory=TrainConfig)
    decoded: int = 6000
    """pictures that are sent through an autoencoder before training, there and back"""
    decoded_share: float = 0.5
    """share of a batch that is taken from these; the others are drawn anew"""
    latent_noise: float = 0.2
    """largest standard deviation of noise on their latents, which have about unit variance"""
    clean: float = 0.25
    """share of the pictures that are not roughened"""
    noise: float = 0.05
    """largest standard deviation of noise from pixel to pixel, and of noise in blotches"""
    tint: float = 0.06
    """largest change of a colour channel's offset; its contrast changes by up to twice this"""
    shift: int = 2
    """largest shift of a batch, in pixels"""


@dataclass(frozen=True, kw_only=True)
class DiffusionTraining:
    """A denoiser, editor or painter, on edits: the paper's objective (eq. 2) with conditioning dropout."""

    model: Config = field(default_factory=lambda: MODELS["tiny"])
    train: TrainConfig = field(default_factory=TrainConfig)
    size: int = 64
    dropout: float = 0.05
    """chance of dropping the text only, the image only, and both: each this much; so a painter's text: twice this"""
    noise_power: float = 1.0
    """density of training times ~ t^(power - 1): 1 is the paper's uniform one, more spends more on high noise"""
    change_weight: float = 0.0
    """extra weight of the loss where the target's latent differs from the source's; the paper has none"""
    told_in_full: int = 0
    """of a painter: the first so many steps read captions that leave nothing open"""
    train_text: bool = False
    """train the text encoder with the UNet; the paper keeps CLIP's frozen"""
    sources: int = 10_000
    """scenes rendered and encoded before training, and how many edits each gets"""
    edits: int = 4


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What a language model of the tiny world reads."""

    scenes: int = 4
    """captions in a row that are each one change away from the one before"""
    requests: float = 0.3
    """share of texts that have no captions, but requests, each with what has happened then"""


@dataclass(frozen=True, kw_only=True)
class LanguageTraining:
    """A language model from nothing, on texts of the tiny world."""

    model: LlamaConfig = field(default_factory=LlamaConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    length: int = 256
    """tokens a row"""
    texts: Texts = field(default_factory=Texts)
    triplets: int = 700
    """of the tiny world's, whose words its pieces know too"""


@dataclass(frozen=True, kw_only=True)
class WriterTraining:
    """A language model, on triplets of caption, instruction and edited caption; the loss is on the completion alone."""

    train: TrainConfig = field(default_factory=TrainConfig)
    data: str | None = None
    """a table of triplets; None is the tiny world's own"""
    triplets: int = 700
    """how many of those"""
    epochs: float = 1.0
    """passes over the triplets; train.steps follows from it"""
    length: int = 512
    """most tokens of a triplet"""
    rehearsed: int = 0
    """rows of the tiny world's texts beside each batch, so that what was learnt from them is not unlearnt"""
    texts: Texts = field(default_factory=Texts)
    lora_rank: int = 0
    """0 trains all weights; else an addition of this rank to every linear layer, merged at saving"""
    lora_alpha: float | None = None
    """weight of the addition times its rank; None is the rank"""

    def __post_init__(self):
        for name, least in (("triplets", 1), ("length", 1), ("lora_rank", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)}: expected at least {least}")
        if not 0 < self.epochs < math.inf:
            raise ValueError(f"epochs = {self.epochs}: expected more than 0")


EDITOR = DiffusionTraining(
    train=TrainConfig(
        steps=5400,
        batch_size=64,
        learning_rate=1e-3,
        betas=(0.9, 0.99),
        warmup=500,
        decay="cosine",
        ema=0.999,
        save_every=500,
        preview_every=1000,
    ),
    noise_power=2.0,
    change_weight=3.0,
    train_text=True,
    sources=7_000,
    edits=5,
)

PRESETS = {
    "vae": {
        "tiny": VAETraining(
            train=TrainConfig(
                steps=6000,
                batch_size=8,
                learning_rate=1.2e-3,
                betas=(0.9, 0.99),
                warmup=100,
                decay="cosine",
                weight_decay=0.0,
                ema=0.995,
                precision="bf16",
                save_every=500,
                preview_every=500,
            )
        ),
    },
    "clip": {
        "tiny": CLIPTraining(
            model=CLIPConfig(
                text=replace(MODELS["tiny"].text, projection=64, max_length=48),
                vision=VisionConfig(
                    image_size=64, patch_size=8, width=128, layers=4, heads=4, feed_forward=512, projection=64
                ),
            ),
            train=TrainConfig(
                steps=800,
                batch_size=128,
                learning_rate=1e-3,
                warmup=50,
                decay="cosine",
                ema=0.99,
                save_every=200,
                log_every=25,
                preview_every=400,
            ),
        ),
    },
    "reader": {
        "tiny": ReaderTraining(
            train=TrainConfig(
                steps=2000,
                batch_size=64,
                learning_rate=2e-3,
                betas=(0.9, 0.99),
                warmup=100,
                decay="cosine",
                ema=0.995,
                save_every=500,
                preview_every=500,
            ),
        ),
    },
    "language": {
        "tiny": LanguageTraining(
            model=LlamaConfig(
                vocab_size=768, max_length=512, width=192, layers=5, heads=6, kv_heads=2, feed_forward=384, tied=True
            ),
            train=TrainConfig(
                steps=8000,
                batch_size=16,
                learning_rate=1e-3,
                betas=(0.9, 0.98),
                warmup=100,
                decay="cosine",
                ema=0.99,
                save_every=400,
                preview_every=800,
            ),
            length=160,
        ),
    },
    "writer": {
        "tiny": WriterTraining(
            train=TrainConfig(
                batch_size=16,
                learning_rate=7e-4,
                betas=(0.9, 0.98),
                warmup=20,
                decay="cosine",
                ema=0.98,
                log_every=20,
                save_every=200,
                preview_every=200,
            ),
            epochs=8,
            length=200,
            rehearsed=8,
        ),
        "tinyllama": WriterTraining(
            train=TrainConfig(
                batch_size=8, learning_rate=1e-4, weight_decay=0.0, warmup=5, decay="cosine", ema=0.0, log_every=5,
                save_every=50, preview_every=50,
            ),
            lora_rank=16,
        ),
    },
    "editor": {"tiny": EDITOR},
    "painter": {
        "tiny": replace(
            EDITOR,
            model=MODELS["tiny_painter"],
            train=replace(EDITOR.train, steps=4000, warmup=300, save_every=250, preview_every=400),
            sources=10_000,
            told_in_full=1500,
        )
    },
}
"""stage -> preset -> its config"""
