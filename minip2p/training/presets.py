"""How each stage is trained: named configs, as differences from the paper's."""

from dataclasses import replace

from ..config import PRESETS as MODELS
from ..config import CLIPConfig, LlamaConfig, VisionConfig
from .config import (
    CLIPTraining, DiffusionTraining, LanguageTraining, ReaderTraining, TrainConfig, VAETraining, WriterTraining,
)  # fmt: skip

PAPER = DiffusionTraining()
"""the editor's training as the paper has it (section 3.2): what is marked where a run differs from it"""
EDITOR = DiffusionTraining(
    model=MODELS["tiny"],
    size=64,
    resize=(64, 72),
    flip=0.0,  # "on the left" is a word of its captions
    preview_scales=(1.0, 1.25, 1.5),
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
FROM_PAIRS = replace(
    EDITOR,
    model=replace(EDITOR.model, sampling=replace(EDITOR.model.sampling, text_scale=3.5)),
    train=replace(EDITOR.train, steps=1000, warmup=200, decay="constant"),
)
"""the recipe's other editor, which learns as the paper's: from the painter, on pairs that the other models made. They are
few: in more steps it learns them by heart"""

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
    "editor": {
        "tiny": EDITOR,
        "sd15": DiffusionTraining(train=TrainConfig(micro_batch=32, workers=8, log_every=10, save_every=500)),
    },
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
