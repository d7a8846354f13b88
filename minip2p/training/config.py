"""How each stage is trained, as frozen values. Defaults are the paper's (section 3.2); `presets` has the differences."""

import math
from dataclasses import dataclass, field
from typing import Literal

from ..config import PRESETS as MODELS
from ..config import CLIPConfig, Config, LlamaConfig, ReaderConfig, VAEConfig
from ..data.scenes import COLOURS, KINDS, MEDIA, SETTINGS, TIMES


HELD_OUT = 2**32 - 1
"""in place of a step: the draws that no training makes, for previews and their figures"""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop's part, the same for every stage."""

    steps: int = 10_000
    batch_size: int = 1024
    """of an optimiser's step, over all processes"""
    micro_batch: int | None = None
    """of it, how many at once on a device; gradients add up. None: all of a process' share"""
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
    ema_on_cpu: bool = False
    """keep the average in the CPU's memory: as much again as the weights is free on the device, a step takes longer"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """autocast; auto is bf16 on a GPU, fp32 elsewhere"""
    checkpointing: bool = False
    """gradient checkpointing: keep each block's input and compute the rest again on the way back"""
    compile: bool = False
    """compile the networks first (minutes): worth it for long runs; rounding differs from a run without"""
    workers: int = 0
    """processes that prepare batches beside the training; 0 prepares them between its steps"""
    seed: int = 0
    log_every: int = 50
    save_every: int = 1000
    preview_every: int = 2000
    keep: int = 2
    """the last so many states stay"""

    def __post_init__(self):
        least = {"workers": 0, "seed": 0} | dict.fromkeys(
            ("steps", "batch_size", "micro_batch", "log_every", "save_every", "preview_every", "keep"), 1
        )
        for name, at_least in least.items():
            value = getattr(self, name)
            if value is not None and value < at_least:
                raise ValueError(f"train.{name} = {value}: expected at least {at_least}")


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

    model: Config = field(default_factory=lambda: MODELS["pix2pix"])
    train: TrainConfig = field(default_factory=TrainConfig)
    data: tuple[str, ...] = ()
    """of an editor: sets of pairs, as pictures or precomputed; none is the tiny world's own edits, drawn"""
    shares: tuple[float, ...] = ()
    """how much of the training each set is; none is by the number of its pairs"""
    skip_broken: bool = False
    """take the next pair in place of one that cannot be read; else that ends the run"""
    size: int = 256
    """pixels a side"""
    resize: tuple[int, ...] = (256, 288)
    """the shorter side, drawn between these two, before a square of `size` is cut out at random; both alike: a random
    crop of what overhangs"""
    flip: float = 0.5
    """chance that both pictures are mirrored"""
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
    """scenes of the tiny world rendered and encoded before training, and how many edits each gets"""
    edits: int = 4
    lora_rank: int = 0
    """0 trains all of the UNet; else an addition of this rank to its attention's linear layers, merged at saving"""
    lora_alpha: float | None = None
    """weight of the addition times its rank; None is the rank"""
    held_out: int = 64
    """pairs kept back, on which the loss is measured at fixed noise"""
    preview_scales: tuple[float, ...] = (1.0, 1.5, 2.0)
    """image scales at which held-out pairs are shown"""

    def __post_init__(self):
        if self.shares and (len(self.shares) != len(self.data) or min(self.shares) <= 0):
            raise ValueError(f"shares = {self.shares}: expected a number above 0 for each of {len(self.data)} sets")
        if len(self.resize) != 2 or not self.size <= self.resize[0] <= self.resize[1]:
            raise ValueError(f"resize = {self.resize}: expected two sizes, from size = {self.size} on")
        for name in ("dropout", "flip"):
            most = {"dropout": 1 / 3, "flip": 1.0}[name]
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} = {getattr(self, name)}: expected 0 to {most:.3g}")


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
