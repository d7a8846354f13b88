"""Training configs by name: the paper's, and one for language models with billions of parameters."""

from typing import NamedTuple

from ..data.layouts.common import NAMES
from .config import DiffusionTraining, InstructionTraining, TrainConfig

SD15 = DiffusionTraining(train=TrainConfig(micro_batch="auto", log_every=10, save_every=500))
"""the paper's training of the editor (section 3.2), in micro-batches that fit the GPU, from Stable Diffusion 1.5. It
does what the paper's code does, but for DEPARTURES"""
TINYLLAMA = InstructionTraining(
    train=TrainConfig(
        batch_size=8,
        weight_decay=0.0,
        warmup=5,
        decay="cosine",
        clip=1.0,
        ema=0.0,
        log_every=5,
        save_every=50,
        preview_every=50,
    ),
    lora_rank=16,
)
"""LoRA on TinyLlama, Llama 2 or Mistral"""


class Departure(NamedTuple):
    """Where the preset `sd15` does something else than the paper's code."""

    theirs: str
    """what the paper's code does"""
    ours: str
    """what the preset does"""
    why: str


DEPARTURES = {
    "resize": Departure(
        "resizes to exactly 256, so that its random crop of 256 changes nothing",
        "resizes to 256 to 288, then crops",
        "the paper says so (section 3.2)",
    ),
    "size": Departure(
        "squeezes pairs that are not square to a square",
        "crops them",
        "squeezed images teach wrong shapes; the paper's own pairs are square",
    ),
    "held_out": Departure(
        "takes the last 10 % of seeds.json for validation and test",
        "takes those 10 % by a hash of the caption",
        "no pair moves when others are added, and pairs of one caption stay together",
    ),
    "train.precision": Departure(
        "computes in float32",
        "computes in bfloat16 on a GPU; weights, average and optimiser stay in float32",
        "less time and memory; train.precision=fp32 does as the paper's code",
    ),
    "train.ema": Departure(
        "updates the average at every micro-batch, 4 times a step",
        "updates it once a step",
        "micro-batches must not change the result; below 90,000 updates the decay is (1 + n) / (10 + n), which weighs "
        "the steps alike for any number of updates in a step",
    ),
    "train.seed": Departure(
        "never applies its seed",
        "draws every random number from the seed and the item's number",
        "a run can be repeated, stopped and resumed to the same bits",
    ),
}
"""word of the config -> where the preset `sd15` differs from the paper's code"""
UNMARKED = {
    f"train.{name}"
    for name in "micro_batch ema_on_cpu checkpointing compile graph workers".split()
    + "log_every save_every preview_every keep".split()
} | {"data", "skip_broken", "preview_scales", *(f"columns.{role}" for role in NAMES)}
"""words whose values say nothing about the paper: how a result is computed and shown, and on what"""


def departures_table() -> str:
    """DEPARTURES as a table in Markdown."""
    rows = [("what", "the paper's code", "here", "why"), ("---",) * 4]
    rows += [(f"`{word}`", *each) for word, each in DEPARTURES.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
