"""Training configs of the shipped weights, as differences from `TRAIN`."""

from dataclasses import replace

from ...config import PRESETS as MODELS
from ...config import CLIPConfig, LlamaConfig, VisionConfig
from ...training.config import CLIPTraining, TrainConfig
from .config import (
    ClassifierTraining,
    TinyDiffusionTraining,
    TinyInstructionTraining,
    TinyLanguageTraining,
    TinyVAETraining,
)

TRAIN = TrainConfig(
    batch_size=64,
    learning_rate=1e-3,
    betas=(0.9, 0.99),
    warmup=100,
    decay="cosine",
    clip=1.0,
    ema=0.995,
    save_every=500,
    preview_every=500,
)
LANGUAGE_TRAIN = replace(TRAIN, batch_size=16, betas=(0.9, 0.98))
"""of language models"""
VAE = TinyVAETraining(
    model=MODELS["tiny"].vae,
    size=128,
    edge_weight=0.5,
    train=replace(
        TRAIN, steps=12_000, batch_size=8, learning_rate=8e-4, weight_decay=0.0, precision="bf16", save_every=200
    ),
)
CLIP = CLIPTraining(
    model=CLIPConfig(
        text=replace(MODELS["tiny"].text, projection=64, max_length=48),
        vision=VisionConfig(image_size=64, patch_size=8, width=128, layers=4, heads=4, feed_forward=512, projection=64),
    ),
    size=64,
    train=replace(
        TRAIN,
        steps=800,
        batch_size=128,
        betas=(0.9, 0.999),
        warmup=50,
        ema=0.99,
        log_every=25,
        save_every=200,
        preview_every=400,
    ),
)
CLASSIFIER = ClassifierTraining(train=replace(TRAIN, steps=2000, learning_rate=2e-3))
EDITOR = TinyDiffusionTraining(
    model=MODELS["tiny"],
    size=128,
    flip=0.0,  # captions say "on the left"
    preview_scales=(1.0, 1.25, 1.5),
    train=replace(TRAIN, steps=5000, warmup=500, ema=0.999, precision="bf16", preview_every=1000),
    draw="pairs",
    times="uniform",
    timestep_power=2.0,
    change_weight=3.0,
    train_text=True,
    sources=10_000,
    edits=5,
)
EDITOR_FROM_PAIRS = replace(
    EDITOR,
    model=replace(EDITOR.model, sampling=replace(EDITOR.model.sampling, text_scale=2.0)),
    train=replace(EDITOR.train, warmup=200),
)
"""an editor trained as in the paper: from the text-to-image model, on pairs that the other models generate"""
TEXT2IMAGE = replace(
    EDITOR,
    model=MODELS["tiny_text2image"],
    train=replace(EDITOR.train, steps=5000, warmup=300, save_every=250, preview_every=400),
    sources=10_000,
    full_caption_steps=1500,
)
LANGUAGE = TinyLanguageTraining(
    model=LlamaConfig(
        vocab_size=840, max_length=512, width=192, layers=5, heads=6, kv_heads=2, feed_forward=384, tied=True
    ),
    train=replace(LANGUAGE_TRAIN, steps=8500, learning_rate=1.2e-3, ema=0.99, save_every=400, preview_every=800),
    length=160,
)
INSTRUCTIONS = TinyInstructionTraining(
    train=replace(
        LANGUAGE_TRAIN,
        learning_rate=7e-4,
        warmup=20,
        weight_decay=0.1,
        ema=0.98,
        log_every=20,
        save_every=100,
        preview_every=100,
    ),
    epochs=6,
    length=200,
    rehearsed=8,
)
