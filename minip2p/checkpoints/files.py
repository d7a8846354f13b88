"""Weight files of any kind, read without running anything in them, and safetensors written.

`open_weights` looks at a file's content, never at its name, and gives its tensors as views of the mapped file: nothing
is copied until somebody converts or writes to them. Formats: https://github.com/huggingface/safetensors#format, and the
files of `torch.save` (see `archives`).
"""

import json
import math
from pathlib import Path

import torch
from torch import Tensor

from .archives import open_legacy, open_zip
from .mapped import CheckpointError, Weights, map_file, read_json, replace_file, view

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
WORDS = {dtype: word for word, dtype in DTYPES.items()}
HEADER_LIMIT = 100_000_000  # bytes; the format's own bound


def open_weights(path: Path) -> Weights:
    """The tensors of a safetensors file, an index of shards, or a `torch.save` file, memory-mapped.

    Raises CheckpointError for anything else, and FileNotFoundError where there is nothing.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder; expected a file of weights")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open("rb") as file:
        start = file.read(512)
    if start[:4] == b"PK\3\4":
        return open_zip(path)
    if start[8:9] == b"{":  # after the header's length, which may begin like any of the others
        return _open_safetensors(path)
    if start[:1] == b"\x80":
        return open_legacy(path)
    if start[:1] == b"{" and ".index." in path.name:
        return _open_shards(path)
    raise CheckpointError(f"{path}: {_guess(start)}; expected weights (.safetensors, .ckpt, .pt, .bin)")


def _open_safetensors(path: Path) -> Weights:
    data = map_file(path)
    length = int.from_bytes(data[:8], "little")
    if length > HEADER_LIMIT or 8 + length > len(data):
        raise CheckpointError(f"{path}: cut short or damaged: its header says {length} bytes, the file has {len(data)}")
    try:
        header = json.loads(data[8 : 8 + length])
        metadata = header.pop("__metadata__", None) or {}
        entries = [(name, e["dtype"], tuple(e["shape"]), *e["data_offsets"]) for name, e in header.items()]
        good = all(isinstance(n, int) and n >= 0 for e in entries for n in (*e[2], *e[3:])) and isinstance(
            metadata, dict
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        good = False
    if not good:
        raise CheckpointError(f"{path}: damaged: its safetensors header cannot be read")
    room, tensors = len(data) - 8 - length, {}
    for name, word, shape, start, end in entries:
        if word not in DTYPES:
            raise CheckpointError(f"{path}: {name} has the type {word!r}; expected one of {', '.join(DTYPES)}")
        if end - start != math.prod(shape) * DTYPES[word].itemsize:
            raise CheckpointError(f"{path}: damaged: {name} {word} {shape} does not fill its {end - start} bytes")
        if end > room:
            raise CheckpointError(f"{path}: cut short: {name} ends at byte {end} of {room}; fetch the file again")
        tensors[name] = view(data, 8 + length + start, DTYPES[word], shape)
    return Weights(tensors, {str(key): str(value) for key, value in metadata.items()})


def _open_shards(path: Path) -> Weights:
    """The files that an `*.index.json` lists under `weight_map`, all beside it."""
    wanted = read_json(path).get("weight_map")
    if not isinstance(wanted, dict) or not all(isinstance(name, str) for name in wanted.values()):
        raise CheckpointError(f"{path}: no weight_map; expected an index of shards")
    tensors = {}
    for name in sorted(set(wanted.values())):
        if Path(name).name != name:
            raise CheckpointError(f"{path}: names a shard outside its folder: {name!r}")
        if not (path.parent / name).exists():
            raise CheckpointError(
                f"{path.parent / name}: missing; {path.name} lists it among {len(set(wanted.values()))} shards"
            )
        tensors |= open_weights(path.parent / name).tensors
    if lost := sorted(set(wanted) - set(tensors)):
        raise CheckpointError(f"{path}: its shards lack {len(lost)} tensors, e.g. {lost[0]}")
    return Weights(tensors)


def _guess(start: bytes) -> str:
    """What a file that is no checkpoint seems to be."""
    text = start.lstrip().lower()
    for sign, meaning in (
        (b"version https://git-lfs", "a git-lfs pointer, not the weights themselves (run `git lfs pull`)"),
        (b"<!doctype", "a web page, so the download went wrong"),
        (b"<html", "a web page, so the download went wrong"),
        (b"\xff\xd8\xff", "a JPEG picture"),
        (b"\x89png", "a PNG picture"),
        (b"gguf", "a GGUF file"),
        (b"{", "a JSON text"),
    ):
        if text.startswith(sign):
            return meaning
    return "an unknown format" if start else "empty"


def write_safetensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str], dtype: torch.dtype | None = None
) -> None:
    """One file, written tensor by tensor; floating tensors become `dtype` on the way. Atomic."""
    header, at, kinds = {"__metadata__": metadata} if metadata else {}, 0, {}
    for name, tensor in tensors.items():
        kinds[name] = dtype if dtype and tensor.is_floating_point() else tensor.dtype
        end = at + tensor.numel() * kinds[name].itemsize
        header[name] = {"dtype": WORDS[kinds[name]], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 64)  # tensors then start where vector instructions like it

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name, tensor in tensors.items():
                plain = tensor.detach().to("cpu", kinds[name]).contiguous()
                file.write(plain.reshape(-1).view(torch.uint8).numpy())

    replace_file(path, write)
