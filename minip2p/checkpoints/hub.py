"""Fetching published checkpoints. Nothing here runs unless it is called."""

import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .mapped import CheckpointError

Progress = Callable[[int, int | None], object]
"""Called with bytes so far and bytes in all, None where the server does not say."""

WANTED = [
    "model_index.json", "scheduler/*.json", "tokenizer/*", "*/config.json",
    *(f"{folder}/{file}.{kind}" for folder, file in (
        ("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model"), ("text_encoder", "model"),
    ) for kind in ("safetensors", "safetensors.index.json")),
    "*/*-of-*.safetensors",
    # of a CLIP or a language model, whose files lie at the top
    "config.json", "tokenizer*.json", "special_tokens_map.json", "vocab.json", "merges.txt", "tokenizer.model",
    "model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors",
]  # fmt: skip
"""Of a repository's files, those that we read; most repositories hold the same weights several times over."""
UNWANTED = ["safety_checker/*", "image_encoder/*", "feature_extractor/*", "*.fp16*", "*non_ema*"]
CHUNK = 1 << 20


def fetch(source: str, folder: str | Path, *, revision: str | None = None, progress: Progress | None = None) -> Path:
    """Download into `folder`; what is there already is not fetched again. The path to give to `load`.

    source: a URL of one file, "owner/name" (a pipeline, CLIP or language model on the Hugging Face hub) or
    "owner/name:file".
    The last two need the package huggingface_hub. Raises CheckpointError in one line, also where a transfer breaks off:
    the next call goes on where it stopped.
    """
    folder = Path(folder).expanduser()
    if source.startswith(("http://", "https://")):
        name = unquote(urlsplit(source).path).rpartition("/")[2]
        if not name or name in (".", ".."):
            raise CheckpointError(f"{source}: the address of a folder; expected that of a file")
        return fetch_url(source, folder / name, progress)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(:.+)?", source):
        raise CheckpointError(f"{source!r}: expected https://…, owner/name or owner/name:file")
    repository, _, file = source.partition(":")
    return _fetch_hub(repository, file, folder / repository.replace("/", "--"), revision)


def _fetch_hub(repository: str, file: str, folder: Path, revision: str | None) -> Path:
    try:
        import huggingface_hub as hub
    except ImportError:
        raise CheckpointError(
            f"{repository}: fetching from the hub needs huggingface_hub: pip install huggingface_hub"
        ) from None
    try:
        if file:
            return Path(hub.hf_hub_download(repository, file, revision=revision, local_dir=folder))
        hub.snapshot_download(
            repository, revision=revision, local_dir=folder, allow_patterns=WANTED, ignore_patterns=UNWANTED
        )  # fmt: skip
    except Exception as error:  # of many kinds, from several libraries; all mean that there is nothing to load
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{source_name(repository, file)}: not fetched: {reason}") from error
    return folder


def source_name(repository: str, file: str) -> str:
    return f"{repository}:{file}" if file else repository


def fetch_url(url: str, path: Path, progress: Progress | None = None) -> Path:
    """One file by http(s), through `path`.part, which is gone on with if the server vouches for the file."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part, tag = path.with_name(path.name + ".part"), path.with_name(path.name + ".part.tag")
    done = part.stat().st_size if part.exists() and tag.exists() else 0
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity", "User-Agent": "minip2p"})
    if done:
        request.add_header("Range", f"bytes={done}-")
        request.add_header("If-Range", tag.read_text())
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            done = done if answer.status == 206 else 0
            length = answer.headers.get("Content-Length")
            total = done + int(length) if length else None
            _note(tag, answer.headers.get("ETag", ""))
            with part.open("ab" if done else "wb") as file:
                while chunk := answer.read(CHUNK):
                    file.write(chunk)
                    done += len(chunk)
                    if progress is not None:
                        progress(done, total)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing lies beyond our part, so it is not the beginning of this file
            part.unlink(missing_ok=True)
            tag.unlink(missing_ok=True)
            return fetch_url(url, path, progress)
        raise CheckpointError(f"{url}: the server says {error.code} {error.reason}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{url}: not fetched: {getattr(error, 'reason', error)}; call again to go on") from None
    if total is not None and done != total:
        raise CheckpointError(f"{url}: broke off after {done} of {total} bytes; call again to go on")
    part.replace(path)
    tag.unlink(missing_ok=True)
    return path


def _note(tag: Path, word: str) -> None:
    """Keep the server's name for this version of the file; without a strong one a part cannot be gone on with."""
    if word and not word.startswith("W/"):
        tag.write_text(word)
    else:
        tag.unlink(missing_ok=True)
