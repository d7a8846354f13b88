"""Fetching published checkpoints from the Hugging Face hub, by huggingface_hub (`pip install 'minip2p[hub]'`)."""

import re
from collections.abc import Collection
from glob import escape
from pathlib import Path

from .files import CheckpointError
from .folders import FOLDERS, STEMS, weights_file

CONFIGS = re.compile(
    r"model_index\.json|(scheduler|tokenizer)/[^/]+\.(json|txt|model)|(unet|vae|text_encoder)/config\.json"
    r"|config\.json|(tokenizer|special_tokens|vocab)[^/]*\.(json|model)|merges\.txt"
)
"""small files that we read; those at the top are of a CLIP or a language model"""
OTHER_FAMILIES = ("text_encoder_2", "transformer", "prior", "image_normalizer")
"""folders that Stable Diffusion 1 and 2 do not have"""


def fetch(source: str, folder: str | Path, *, revision: str | None = None) -> Path:
    """Download into `folder` what is not there yet; returns the path to give to `load`.

    source: "owner/name" (a pipeline, CLIP or language model) or "owner/name:file". Raises CheckpointError in one line,
    before anything is downloaded if the repository has no weights that we read; an interrupted transfer is resumed by
    the next call.
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
        names = wanted_files(hub.HfApi().list_repo_files(repository, revision=revision), source)
        hub.snapshot_download(repository, **how, allow_patterns=[escape(name) for name in names])
    except CheckpointError:
        raise
    except Exception as error:  # of many kinds, from several libraries
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{source}: not fetched: {reason}") from error
    return target


def wanted_files(names: Collection[str], source: str = "") -> list[str]:
    """What of a repository's files is read: each network's weights in one format. Raises CheckpointError for none."""
    tops = {name.partition("/")[0] for name in names if "/" in name}
    if other := tops.intersection(OTHER_FAMILIES):
        raise CheckpointError(f"{source}: not fetched: it has a {min(other)}; expected Stable Diffusion 1 or 2")
    folders = [f"{folder}/" for folder in FOLDERS.values()] if "model_index.json" in names else [""]
    if folders == [""] and "config.json" not in names:
        single = sorted(name for name in names if name.endswith((".safetensors", ".ckpt")))[:5]
        hint = f"; give one of its files: {', '.join(f'{source}:{name}' for name in single)}" if single else ""
        raise CheckpointError(f"{source}: not fetched: it has neither model_index.json nor config.json{hint}")
    chosen = [name for name in names if CONFIGS.fullmatch(name)]
    for folder in folders:
        inside = {name.removeprefix(folder) for name in names if name.startswith(folder)}
        if (best := weights_file(inside, ema=True)) is None:
            there = ", ".join(sorted(name for name in inside - {"config.json"} if "/" not in name)[:5]) or "nothing"
            raise CheckpointError(
                f"{source}: not fetched: no weights that we read in {folder or 'it'}; there is {there}"
            )
        chosen += [folder + name for name in sorted(inside) if name == best or _is_shard(name, best)]
    return chosen


def _is_shard(name: str, index: str) -> bool:
    """Whether a file is one of the shards that an index of this name lists, as their names tell."""
    kind = re.fullmatch(rf"({'|'.join(STEMS)})(\.\w+)?\.(safetensors|bin)\.index(\.\w+)?\.json", index)
    if kind is None:
        return False
    variant = re.escape(kind[2] or kind[4] or "")
    return bool(re.fullmatch(rf"{kind[1]}({variant})?-\d+-of-\d+({variant})?\.{kind[3]}", name)) and (
        (kind[2] or kind[4] or "") in name
    )
