"""How each stage is trained, as frozen values. The defaults are the paper's (section 3.2); presets are differences."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from ..config import PRESETS as MODELS
from ..config import CLIPConfig, Config, LlamaConfig, VAEConfig
from ..data.layouts.common import Columns
from ..data.sizes import resize_range
from ..schema import AtLeast0, Count, CountOrNone, Decay, Fraction, Name, Pixels, Positive, Rank, Scale, Size, checked

HELD_OUT = 2**32 - 1
"""stands for a step (or an item's number) that no training reaches: previews and held-out losses draw from it"""
Batch = Annotated[int, Field(ge=1, le=1_000_000)]
"""items computed at once, or in a step"""


@checked
class TrainConfig:
    """The settings of the loop, the same for every stage."""

    steps: Count = 10_000
    """steps of the optimiser"""
    batch_size: Batch = 1024
    """items in a step, over all processes"""
    micro_batch: Batch | Literal["auto"] | None = None
    """items that a device computes at once; their gradients add up. None: a process computes its whole part at once.
    auto: on a GPU as many as the estimate of memory leaves room for, on a CPU 32"""
    learning_rate: Annotated[float, Field(gt=0, le=100)] = 1e-4
    betas: Annotated[tuple[Decay, ...], Field(min_length=2, max_length=2)] = (0.9, 0.999)
    """of AdamW"""
    weight_decay: AtLeast0 = 0.01
    warmup: CountOrNone = 0
    """steps over which the learning rate rises from 0"""
    decay: Literal["constant", "cosine"] = "constant"
    """the learning rate after warm-up; cosine falls to 0 at the last step"""
    clip: Positive | None = None
    """largest norm of the gradient; None does not clip it"""
    ema: Decay = 0.9999
    """decay of the weights' moving average"""
    ema_on_cpu: bool = False
    """keep the average in the CPU's memory: saves as much GPU memory as the weights take; steps get slower"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """of products and convolutions; weights, average and optimiser are always float32. auto: bf16 on GPUs that compute
    in it, fp32 elsewhere"""
    checkpointing: bool = False
    """gradient checkpointing: store each block's input only and recompute the block in the backward pass"""
    compile: bool | None = None
    """torch.compile the networks (takes minutes at first); results differ by rounding. None: denoisers on a GPU, for
    1,000 steps or more, unless there are buckets"""
    graph: bool | None = None
    """record a step's work as CUDA graphs and replay them; results are the same. None: denoisers on one GPU, unless
    there are buckets"""
    workers: Annotated[int, Field(ge=0, le=1000)] | None = None
    """processes that prepare batches in the background; 0 prepares them between steps. None: beside a GPU as many as
    this process has cores, at most 16; on a CPU 0"""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """decides all random numbers of the run"""
    log_every: Count = 50
    """steps between two lines of the log"""
    save_every: Count = 1000
    """steps between two states on disk"""
    preview_every: Count = 2000
    """steps between two previews"""
    keep: Count = 2
    """states to keep: the newest ones"""


@checked
class VAETraining:
    """The autoencoder, on images: absolute error, squared error and a small KL divergence."""

    model: VAEConfig = field(default_factory=VAEConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    size: Pixels = 256
    """side of the images, in pixels"""
    kl_weight: AtLeast0 = 1e-3
    edge_weight: AtLeast0 = 0.0
    """weight of the absolute error of the differences between neighbouring pixels, which sharpens edges"""

    def __post_init__(self):
        if self.size % self.model.factor:
            raise ValueError(f"size = {self.size}: expected a multiple of {self.model.factor}")


@checked
class CLIPTraining:
    """Both towers of CLIP, on images and captions: the symmetric contrastive loss."""

    model: CLIPConfig = field(default_factory=CLIPConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    size: Pixels = 224
    """side of the images, in pixels"""

    def __post_init__(self):
        if self.size != (expected := self.model.vision.image_size):
            raise ValueError(f"size = {self.size}: expected model.vision.image_size = {expected}")


@checked
class DiffusionTraining:
    """A denoiser, for editing or for text-to-image: the paper's objective (eq. 2) with conditioning dropout."""

    model: Config = field(default_factory=lambda: MODELS["pix2pix"])
    train: TrainConfig = field(default_factory=TrainConfig)
    data: tuple[str, ...] = ()
    """sets of edit pairs, as images or as precomputed latents"""
    columns: Columns = field(default_factory=Columns)
    """what their columns are called, where that is none of the known names"""
    weights: tuple[Positive, ...] = ()
    """how often each set is drawn from, relative to the others; none: by its number of prompts or pairs"""
    draw: Literal["prompts", "pairs"] = "prompts"
    """what is drawn once an epoch: prompts (caption, instruction, edited caption), each with one of its pairs at
    random, or pairs"""
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """part of each set's prompts (or pairs, as `draw` says) that is trained on, chosen by hashes of train.seed and the
    captions: a smaller part lies within a larger one"""
    filtered: bool = True
    """train on the pairs that a set's list (seeds.json) keeps; False: on all samples of a folder of made pairs, as if
    there were no CLIP filter"""
    skip_broken: bool = False
    """use the next pair in place of one that cannot be read; otherwise the run ends with an error"""
    size: Size = 256
    """of the images, in pixels: a side, or (width, height)"""
    resize: tuple[Pixels, Pixels] | None = None
    """range of the shorter side, in pixels: a random size, then a random crop of `size`, the same for both images.
    None: from that of `size` to 9/8 of it, as in the paper, 256 to 288"""
    buckets: bool = False
    """batches of pairs of near shapes, wide ones with wide ones, which are cropped less (`training.buckets`); each has
    about size^2 pixels"""
    flip: Fraction = 0.5
    """chance that both images are mirrored"""
    dropout: Annotated[float, Field(ge=0, le=1 / 3)] = 0.05
    """chance of dropping the text only, the image only, and both: this much each. A text-to-image model drops its text
    with twice this chance"""
    image_condition: Literal["channels", "none"] = "channels"
    """how an editor sees the source image: as further input channels (section 3.2), or not at all, for comparison"""
    timestep_power: Annotated[float, Field(gt=0, le=100)] = 1.0
    """density of training times ~ t^(power - 1): 1 is uniform, as in the paper; more prefers high noise"""
    times: Literal["integers", "uniform", "logit_normal"] = "integers"
    """the distribution of training times before that, a word of `training.rng.TIMES`; logit-normal is usual for
    rectified flow"""
    change_weight: AtLeast0 = 0.0
    """extra weight of the loss where the target's latent differs from the source's; the paper has none"""
    vae_precision: Literal["fp32", "bf16"] = "fp32"
    """in which the autoencoder encodes images; bf16 keeps the moments in float32. Precomputed latents do without"""
    train_text: bool = False
    """train the text encoder too; the paper keeps CLIP frozen"""
    lora_rank: Rank = 0
    """0 trains the whole denoiser; otherwise LoRA of this rank on its attention layers, merged in when saved"""
    lora_alpha: Positive | None = None
    """the LoRA update is scaled by alpha / rank; None: alpha = rank"""
    lora_also: Annotated[tuple[Name, ...], Field(max_length=1000)] = ()
    """layers of the denoiser that are trained whole beside the LoRA. Where its inputs for the source image are new,
    that is conv_in"""
    held_out: CountOrNone = 64
    """held-out pairs on which the loss is measured, at fixed noise"""
    preview_scales: Annotated[tuple[Scale, ...], Field(min_length=1, max_length=20)] = (1.0, 1.5, 2.0)
    """image scales of the previews of held-out pairs"""

    def __post_init__(self):
        if self.weights and len(self.weights) != len(self.data):
            raise ValueError(f"weights = {self.weights}: expected a number for each of {len(self.data)} sets")
        resize_range(self.size, self.resize)
        if self.buckets and not isinstance(self.size, int):
            raise ValueError(f"size = {self.size}: expected one side with buckets = True, which have all shapes")


@checked
class LanguageTraining:
    """A language model from random weights, on texts: next-token prediction."""

    model: LlamaConfig = field(default_factory=LlamaConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    length: Annotated[int, Field(ge=2, le=1_000_000)] = 256
    """tokens in a row"""


@checked
class InstructionTraining:
    """A language model on triplets of caption, instruction and edited caption; the loss is on the completion alone."""

    train: TrainConfig = field(default_factory=TrainConfig)
    data: str | None = None
    """a table of triplets (.jsonl or .csv)"""
    epochs: Annotated[float, Field(gt=0, le=100_000)] = 1.0
    """passes over the triplets; train.steps follows from it"""
    length: Annotated[int, Field(ge=2, le=1_000_000)] = 512
    """longest triplet, in tokens"""
    lora_rank: Rank = 0
    """0 trains all weights; otherwise LoRA of this rank on every linear layer, merged in when saved"""
    lora_alpha: Positive | None = None
    """the LoRA update is scaled by alpha / rank; None: alpha = rank"""
