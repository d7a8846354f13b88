"""Files of weights, opened safely and written atomically.

`open_weights` goes by a file's content, never by its name. safetensors are read by the safetensors library, files of
`torch.save` by torch's restricted unpickler (`torch_files`); no code in a file is run. Tensors are views of the mapped
file: nothing is copied until they are converted.
"""

import errno
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .. import files
from ..regular import require_regular
from . import foreign
from .torch_files import read_torch

WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
"""of torch.compile, DDP and FSDP"""


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
    require_regular(path, CheckpointError)
    with path.open("rb") as file:
        index = ".index." in path.name and file.read(1) == b"{"
    if not index and (shard := re.search(r"-\d+-of-(\d+)\b", path.name)):
        raise CheckpointError(f"{path}: one of {int(shard[1])} shards; give their folder, or their .index.json")
    weights = _open_shards(path) if index else _open_file(path)
    return Weights(_unwrapped(weights.tensors, path), weights.metadata)


def _open_file(path: Path) -> Weights:
    require_regular(path, CheckpointError)
    with path.open("rb") as file:
        start = file.read(512)
    try:
        if start[8:9] == b"{":  # after the length of a safetensors header, which may start like any other format
            return _open_safetensors(path)
        if start[:4] == b"PK\3\4" or start[:1] == b"\x80":
            return Weights(*read_torch(path))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    raise CheckpointError(f"{path}: {foreign.of_bytes(start)}; expected weights (.safetensors, .ckpt, .pt, .bin)")


def check_name(path: Path) -> None:
    """Raise ValueError for a path that is not UTF-8, which the safetensors library writes but cannot read."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{str(path)!r}: weights need a path in UTF-8; choose another name") from None


def _open_safetensors(path: Path) -> Weights:
    check_name(path)
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
        try:
            tensors |= _open_file(path.parent / name).tensors
        except FileNotFoundError:
            raise CheckpointError(
                f"{path.parent / name}: missing; {path.name} lists it among {len(shards)} shards"
            ) from None
    if lost := sorted(set(wanted) - set(tensors)):
        raise CheckpointError(f"{path}: its shards lack {len(lost)} tensors, e.g. {lost[0]}")
    return Weights(tensors)


def _unwrapped(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Without the words that wrappers of training put into names: "unet._orig_mod.conv_in.weight"."""
    plain = {".".join(word for word in name.split(".") if word not in WRAPPERS): name for name in tensors}
    if len(plain) < len(tensors):
        twice = next(name for name in tensors if name not in plain.values())
        raise CheckpointError(f"{path}: names a tensor twice, with and without the words of a wrapper: {twice}")
    return {name: tensors[wrapped] for name, wrapped in plain.items()}


def write_safetensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str], dtype: torch.dtype | None = None
) -> None:
    """Write one file atomically, floating tensors as `dtype` (None keeps each one's own). Same content, same bytes."""
    check_name(Path(path))
    plain, starts = {}, set()
    for name, tensor in tensors.items():
        tensor = on_cpu(tensor, dtype).contiguous()
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
            with temporary.open("wb") as file:  # of a path torch would write the name, too, which is random here
                torch.save(value, file)
        except RuntimeError as error:
            raise OSError(errno.ENOSPC, f"is the disk full? ({str(error).splitlines()[0]})") from None

    files.replace_file(Path(path), write)


def on_cpu(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A tensor on the CPU; numbers that are not whole in this dtype, None: in their own."""
    return tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None)


def whole(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor on the CPU that fills its storage: `torch.save` writes whole storages, however small the view."""
    tensor = on_cpu(tensor, dtype).contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def require_finite(tensor: Tensor, name: str, source: str | Path, dtype: torch.dtype | None = None) -> None:
    """Raise CheckpointError for a tensor with NaN or infinity, or with values that are infinite in `dtype`.

    A float16 is at most 65,504, so finite weights may not be there.
    """
    if is_finite(tensor, dtype):
        return
    if is_finite(tensor):
        kind = str(dtype).removeprefix("torch.")
        raise CheckpointError(
            f"{source}: {name} holds {tensor.abs().max():.4g}, too large for {kind}; use bfloat16 or float32"
        )
    raise CheckpointError(
        f"{source}: {name} holds NaN or infinity: the weights are damaged, or were too large for float16; "
        "get them in bfloat16 or float32"
    )


def is_finite(tensor: Tensor, dtype: torch.dtype | None = None) -> bool:
    """Whether all values are finite, also in a floating `dtype`.

    One pass that makes nothing: isfinite().all() takes 30 times as long.
    """
    if not tensor.numel() or not tensor.is_floating_point():
        return True
    tensor = tensor.detach()
    ends = (tensor if tensor.itemsize > 1 else tensor.float()).aminmax()  # float8 has no aminmax
    most = torch.finfo(dtype or tensor.dtype).max
    return -most <= float(ends.min) and float(ends.max) <= most
