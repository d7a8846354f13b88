"""Training configs by name: the paper's, and one for language models with billions of parameters."""

from .config import DiffusionTraining, InstructionTraining, TrainConfig

PAPER = DiffusionTraining()
"""the paper's training of the editor (section 3.2)"""
SD15 = DiffusionTraining(train=TrainConfig(micro_batch=32, workers=8, log_every=10, save_every=500))
"""the paper's, in micro-batches of 32 that fit a GPU of 80 GB, from Stable Diffusion 1.5"""
TINYLLAMA = InstructionTraining(
    train=TrainConfig(
        batch_size=8, weight_decay=0.0, warmup=5, decay="cosine", ema=0.0, log_every=5, save_every=50, preview_every=50
    ),
    lora_rank=16,
)
"""LoRA on TinyLlama, Llama 2 or Mistral"""
