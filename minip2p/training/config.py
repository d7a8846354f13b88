"""How each stage is trained, as frozen values. The defaults are the paper's (section 3.2); presets are differences."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from ..config import PRESETS as MODELS
from ..config import CLIPConfig, Config, LlamaConfig, VAEConfig

HELD_OUT = 2**32 - 1
"""stands for a step (or an item's number) that no training reaches: previews and held-out losses draw from it"""


def check_least(config: Any, prefix: str = "", /, **least: float) -> None:
    """Raise ValueError unless each named value of a config is None or at least this much. prefix: of its name."""
    for name, low in least.items():
        value = getattr(config, name)
        if value is not None and value < low:
            raise ValueError(f"{prefix}{name} = {value}: expected at least {low}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The settings of the loop, the same for every stage."""

    steps: int = 10_000
    """steps of the optimiser"""
    batch_size: int = 1024
    """items in a step, over all processes"""
    micro_batch: int | None = None
    """items that a device computes at once; their gradients add up. None: a process computes its whole part at once"""
    learning_rate: float = 1e-4
    betas: tuple[float, ...] = (0.9, 0.999)
    """of AdamW"""
    weight_decay: float = 0.01
    warmup: int = 0
    """steps over which the learning rate rises from 0"""
    decay: Literal["constant", "cosine"] = "constant"
    """the learning rate after warm-up; cosine falls to 0 at the last step"""
    clip: float = 1.0
    """largest norm of the gradient"""
    ema: float = 0.9999
    """decay of the weights' moving average"""
    ema_on_cpu: bool = False
    """keep the average in the CPU's memory: saves as much GPU memory as the weights take; steps get slower"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """autocast; auto is bf16 on a GPU and fp32 elsewhere"""
    checkpointing: bool = False
    """gradient checkpointing: store each block's input only and recompute the block in the backward pass"""
    compile: bool = False
    """torch.compile the networks (takes minutes at first); results differ by rounding"""
    workers: int = 0
    """processes that prepare batches in the background; 0 prepares them between steps"""
    seed: int = 0
    """decides all random numbers of the run"""
    log_every: int = 50
    """steps between two lines of the log"""
    save_every: int = 1000
    """steps between two states on disk"""
    preview_every: int = 2000
    """steps between two previews"""
    keep: int = 2
    """states to keep: the newest ones"""

    def __post_init__(self):
        check_least(self, "train.", workers=0, seed=0, steps=1, batch_size=1, micro_batch=1)
        check_least(self, "train.", log_every=1, save_every=1, preview_every=1, keep=1)


@dataclass(frozen=True, kw_only=True)
class VAETraining:
    """The autoencoder, on images: absolute error, squared error and a small KL divergence."""

    model: VAEConfig = field(default_factory=VAEConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    size: int = 256
    """side of the images, in pixels"""
    kl_weight: float = 1e-3


@dataclass(frozen=True, kw_only=True)
class CLIPTraining:
    """Both towers of CLIP, on images and captions: the symmetric contrastive loss."""

    model: CLIPConfig = field(default_factory=CLIPConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    size: int = 224
    """side of the images, in pixels"""


@dataclass(frozen=True, kw_only=True)
class DiffusionTraining:
    """A denoiser, for editing or for text-to-image: the paper's objective (eq. 2) with conditioning dropout."""

    model: Config = field(default_factory=lambda: MODELS["pix2pix"])
    train: TrainConfig = field(default_factory=TrainConfig)
    data: tuple[str, ...] = ()
    """sets of edit pairs, as images or as precomputed latents"""
    weights: tuple[float, ...] = ()
    """how often each set is drawn from, relative to the others; none: by its number of pairs"""
    skip_broken: bool = False
    """use the next pair in place of one that cannot be read; otherwise the run ends with an error"""
    size: int = 256
    """side of the images, in pixels"""
    resize: tuple[int, ...] = (256, 288)
    """range of the shorter side, in pixels: a random size, then a random crop of `size`, the same for both images"""
    flip: float = 0.5
    """chance that both images are mirrored"""
    dropout: float = 0.05
    """chance of dropping the text only, the image only, and both: this much each. A text-to-image model drops its text
    with twice this chance"""
    timestep_power: float = 1.0
    """density of training times ~ t^(power - 1): 1 is uniform, as in the paper; more prefers high noise"""
    times: Literal["uniform", "logit_normal"] = "uniform"
    """the distribution of training times before that, a word of `diffusion.TIMES`; logit-normal is usual for
    rectified flow"""
    change_weight: float = 0.0
    """extra weight of the loss where the target's latent differs from the source's; the paper has none"""
    train_text: bool = False
    """train the text encoder too; the paper keeps CLIP frozen"""
    lora_rank: int = 0
    """0 trains the whole denoiser; otherwise LoRA of this rank on its attention layers, merged in when saved"""
    lora_alpha: float | None = None
    """the LoRA update is scaled by alpha / rank; None: alpha = rank"""
    held_out: int = 64
    """held-out pairs on which the loss is measured, at fixed noise"""
    preview_scales: tuple[float, ...] = (1.0, 1.5, 2.0)
    """image scales of the previews of held-out pairs"""

    def __post_init__(self):
        if self.weights and (len(self.weights) != len(self.data) or min(self.weights) <= 0):
            raise ValueError(f"weights = {self.weights}: expected a number above 0 for each of {len(self.data)} sets")
        if len(self.resize) != 2 or not self.size <= self.resize[0] <= self.resize[1]:
            raise ValueError(f"resize = {self.resize}: expected two sizes, from size = {self.size} on")
        for name, most in {"dropout": 1 / 3, "flip": 1.0}.items():
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} = {getattr(self, name)}: expected 0 to {most:.3g}")


@dataclass(frozen=True, kw_only=True)
class LanguageTraining:
    """A language model from random weights, on texts: next-token prediction."""

    model: LlamaConfig = field(default_factory=LlamaConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    length: int = 256
    """tokens in a row"""


@dataclass(frozen=True, kw_only=True)
class InstructionTraining:
    """A language model on triplets of caption, instruction and edited caption; the loss is on the completion alone."""

    train: TrainConfig = field(default_factory=TrainConfig)
    data: str | None = None
    """a table of triplets (.jsonl or .csv)"""
    epochs: float = 1.0
    """passes over the triplets; train.steps follows from it"""
    length: int = 512
    """longest triplet, in tokens"""
    lora_rank: int = 0
    """0 trains all weights; otherwise LoRA of this rank on every linear layer, merged in when saved"""
    lora_alpha: float | None = None
    """the LoRA update is scaled by alpha / rank; None: alpha = rank"""

    def __post_init__(self):
        check_least(self, length=1, lora_rank=0)
        if not 0 < self.epochs < math.inf:
            raise ValueError(f"epochs = {self.epochs}: expected more than 0")
