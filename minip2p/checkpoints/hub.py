"""Fetching published checkpoints from the Hugging Face hub, by huggingface_hub (`pip install 'minip2p[hub]'`)."""

import re
from pathlib import Path

from .files import CheckpointError

WANTED = [
    "model_index.json",
    "scheduler/*.json",
    "tokenizer/*",
    "*/config.json",
    "unet/diffusion_pytorch_model.safetensors*",
    "vae/diffusion_pytorch_model.safetensors*",
    "text_encoder/model.safetensors*",
    "*/*-of-*.safetensors",
    # of a CLIP or a language model, whose files are at the top
    "config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "model.safetensors*",
    "model-*-of-*.safetensors",
]
"""The files of a repository that we read; most repositories have the same weights in several formats."""
UNWANTED = ["safety_checker/*", "image_encoder/*", "feature_extractor/*", "*.fp16*", "*non_ema*"]


def fetch(source: str, folder: str | Path, *, revision: str | None = None) -> Path:
    """Download into `folder` what is not there yet; returns the path to give to `load`.

    source: "owner/name" (a pipeline, CLIP or language model) or "owner/name:file". Raises CheckpointError in one line;
    an interrupted transfer is resumed by the next call.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(:.+)?", source):
        raise CheckpointError(
            f"{source!r}: expected owner/name or owner/name:file of the Hugging Face hub; download other files yourself"
        )
    try:
        import huggingface_hub as hub
    except ImportError:
        raise CheckpointError(f"{source}: not fetched: pip install 'minip2p[hub]' (or huggingface_hub)") from None
    repository, _, file = source.partition(":")
    target = Path(folder).expanduser() / repository.replace("/", "--")
    how = {"revision": revision, "local_dir": target}
    try:
        if file:
            return Path(hub.hf_hub_download(repository, file, **how))
        hub.snapshot_download(repository, **how, allow_patterns=WANTED, ignore_patterns=UNWANTED)
    except Exception as error:  # of many kinds, from several libraries
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{source}: not fetched: {reason}") from error
    return target
