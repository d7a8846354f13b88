"""What all readers and writers of weight files share: their error, mapped memory, JSON, and replacing a file whole."""

import errno
import json
import math
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class CheckpointError(ValueError):
    """One line: which file, what was found in it, what was expected or what to do."""

    def __init__(self, message: str):
        """Names that a file gives its tensors may hold anything, control characters too."""
        line = "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in message[:2000])
        super().__init__(line + "…" * (len(message) > 2000))


@dataclass
class Weights:
    """What one file, or one set of shards, holds."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    """strings beside the tensors: a safetensors header's `__metadata__`, a pickle's top-level strings"""


def map_file(path: Path) -> mmap.mmap:
    """The file as memory; writes to it stay private to this process."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def view(data: mmap.mmap, at: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """The tensor that starts at byte `at`. Its bytes are the mapped file's, unless they lie askew."""
    count = math.prod(shape)
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    if at % dtype.itemsize:
        return (
            torch.frombuffer(data, dtype=torch.uint8, count=count * dtype.itemsize, offset=at)
            .clone()
            .view(dtype)
            .view(shape)
        )
    return torch.frombuffer(data, dtype=dtype, count=count, offset=at).view(shape)


def read_json(path: Path) -> dict:
    """A JSON object from a file, or a CheckpointError that names the file."""
    if not path.exists():
        raise CheckpointError(f"{path}: missing")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found a {type(values).__name__}")
    return values


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary name beside `path`, then rename: the file is there whole or not at all.

    Whatever keeps it from being written is an OSError that names `path`.
    """
    try:
        with temporary_beside(path) as temporary:
            write(temporary)
            os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, f"cannot be written: {error.strerror or error}", str(path)) from None


def save_torch(value: Any, path: Path) -> None:
    """`torch.save`, whole or not at all. A disk that is full is an OSError, which torch does not make of it."""

    def write(temporary: Path) -> None:
        try:
            torch.save(value, temporary)
        except RuntimeError as error:
            raise OSError(errno.ENOSPC, f"is the disk full? ({str(error).splitlines()[0]})") from None

    replace_file(path, write)


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """A fresh name in the folder of `path` (made where absent); what is left under it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    os.chmod(name, 0o666 & ~_umask())
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _umask() -> int:
    """mkstemp makes files for the owner only; a checkpoint is as readable as any new file."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
