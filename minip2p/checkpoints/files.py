"""Files of weights, opened safely and written atomically.

`open_weights` goes by a file's content, never by its name. safetensors are read by the safetensors library, files of
`torch.save` by torch's restricted unpickler (`torch_files`); no code in a file is run. Tensors are views of the mapped
file: nothing is copied until they are converted.
"""

import errno
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .. import files
from .torch_files import read_torch


class CheckpointError(ValueError):
    """One line: which file, what was found in it, what was expected or what to do."""

    def __init__(self, message: str):
        """Unprintable characters, which names of tensors may contain, are replaced; a long message is cut."""
        line = "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in message[:2000])
        super().__init__(line + "…" * (len(message) > 2000))


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises CheckpointError."""
    return files.read_json(path, CheckpointError)


@dataclass
class Weights:
    """The content of one file, or of one set of shards."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    """the strings of a safetensors header, or those at the top level of a pickle"""


def open_weights(path: Path) -> Weights:
    """The tensors of a safetensors file, an index of shards, or a `torch.save` file, memory-mapped.

    Raises CheckpointError for anything else, and FileNotFoundError for a missing file.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder; expected a file of weights")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open("rb") as file:
        start = file.read(512)
    if start[:1] == b"{" and ".index." in path.name:
        return _open_shards(path)
    try:
        if start[8:9] == b"{":  # after the length of a safetensors header, which may start like any other format
            return _open_safetensors(path)
        if start[:4] == b"PK\3\4" or start[:1] == b"\x80":
            return Weights(*read_torch(path))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    raise CheckpointError(f"{path}: {_guess(start)}; expected weights (.safetensors, .ckpt, .pt, .bin)")


def _open_safetensors(path: Path) -> Weights:
    try:
        with safe_open(path, framework="pt") as file:
            return Weights({name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, RuntimeError, TypeError, OverflowError, MemoryError) as error:
        raise ValueError(f"cut short or damaged ({error}); fetch the file again") from None


def _open_shards(path: Path) -> Weights:
    """The files that an `*.index.json` lists under `weight_map`, all in its folder."""
    wanted = read_json(path).get("weight_map")
    if not isinstance(wanted, dict) or not all(isinstance(name, str) for name in wanted.values()):
        raise CheckpointError(f"{path}: no weight_map; expected an index of shards")
    tensors, shards = {}, sorted(set(wanted.values()))
    for name in shards:
        if Path(name).name != name:
            raise CheckpointError(f"{path}: names a shard outside its folder: {name!r}")
        if not (path.parent / name).exists():
            raise CheckpointError(f"{path.parent / name}: missing; {path.name} lists it among {len(shards)} shards")
        tensors |= open_weights(path.parent / name).tensors
    if lost := sorted(set(wanted) - set(tensors)):
        raise CheckpointError(f"{path}: its shards lack {len(lost)} tensors, e.g. {lost[0]}")
    return Weights(tensors)


def _guess(start: bytes) -> str:
    """What a file without weights seems to be."""
    text = start.lstrip().lower()
    for sign, meaning in (
        (b"version https://git-lfs", "a git-lfs pointer, not the weights themselves (run `git lfs pull`)"),
        (b"<!doctype", "a web page, so the download went wrong"),
        (b"<html", "a web page, so the download went wrong"),
        (b"\xff\xd8\xff", "a JPEG image"),
        (b"\x89png", "a PNG image"),
        (b"gguf", "a GGUF file"),
        (b"{", "a JSON text"),
    ):
        if text.startswith(sign):
            return meaning
    return "an unknown format" if start else "empty"


def write_safetensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str], dtype: torch.dtype | None = None
) -> None:
    """Write one file atomically, floating tensors as `dtype` (None keeps each one's own). Same content, same bytes."""
    plain, starts = {}, set()
    for name, tensor in tensors.items():
        tensor = _on_cpu(tensor, dtype).contiguous()
        if tensor.data_ptr() in starts:  # the library refuses tensors that share memory
            tensor = tensor.clone()
        starts.add(tensor.data_ptr())
        plain[name] = tensor

    def write(temporary: Path) -> None:
        try:
            save_file(plain, temporary, metadata or None)
        except SafetensorError as error:
            raise OSError(errno.EIO, f"is the disk full? ({error})") from None
        _sort_metadata(temporary)

    files.replace_file(Path(path), write)


def _sort_metadata(path: Path) -> None:
    """Sort the metadata in a header, in place: the library writes them in a random order."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        if "__metadata__" in header:
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
            text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(length)
            assert len(text) == length, "the header's JSON has another length"
            file.seek(8)
            file.write(text)


def write_torch(path: Path, value: Any) -> None:
    """`torch.save`, atomically. A full disk is an OSError, which torch does not raise by itself."""

    def write(temporary: Path) -> None:
        try:
            torch.save(value, temporary)
        except RuntimeError as error:
            raise OSError(errno.ENOSPC, f"is the disk full? ({str(error).splitlines()[0]})") from None

    files.replace_file(Path(path), write)


def whole(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor on the CPU that fills its storage: `torch.save` writes whole storages, however small the view."""
    tensor = _on_cpu(tensor, dtype).contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _on_cpu(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None)
