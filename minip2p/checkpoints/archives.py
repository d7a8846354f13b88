"""Files of `torch.save`, today's and old ones: a pickle that describes tensors (see `pickles`), and their bytes."""

import io
import mmap
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from .mapped import CheckpointError, Weights, map_file, view
from .pickles import Pending, StandIn, Storage, build

MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of a file of torch < 1.6
ZIP_FAULTS = (
    zipfile.BadZipFile,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    struct.error,
    zlib.error,
)
FAULTS = (ValueError, LookupError, TypeError, AttributeError, OverflowError, MemoryError, RuntimeError)
"""what reading damaged bytes may raise, in a zip and anywhere"""


def open_zip(path: Path) -> Weights:
    """A zip of one pickle and raw storages: `torch.save`'s, or a TorchScript archive (as OpenAI publishes CLIP)."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            pickle = next((name for name in entries if name.endswith("/data.pkl") or name == "data.pkl"), None)
            if pickle is None:
                raise CheckpointError(f"{path}: a zip without data.pkl; expected a file written by torch.save")
            folder = pickle.removesuffix("data.pkl")
            needed = [name for name in entries if name == pickle or name.startswith(folder + "data/")]
            if any(entries[name].compress_type for name in needed):
                raise CheckpointError(f"{path}: a compressed zip; expected a file written by torch.save")
            if folder + "byteorder" in entries and archive.read(folder + "byteorder").strip() == b"big":
                raise CheckpointError(f"{path}: written on a big-endian machine; not readable here")
            root = _checked(path, archive.read(pickle))
    except CheckpointError:
        raise
    except ZIP_FAULTS as error:
        raise CheckpointError(f"{path}: cut short or damaged ({error}); expected a file of torch.save") from None
    data = map_file(path)

    def locate(storage: Storage) -> tuple[int, int]:
        entry = entries[f"{folder}data/{storage.key}"]
        start = entry.header_offset  # of 30 bytes and two fields, which may be longer here than in the zip's index
        sizes = (int.from_bytes(data[start + i : start + i + 2], "little") for i in (26, 28))
        return start + 30 + sum(sizes), entry.file_size

    return _weights(path, root, data, locate)


def open_legacy(path: Path) -> Weights:
    """A file of torch < 1.6: pickles (magic number, version, machine, the value, storages' keys), then the bytes."""
    data = map_file(path)
    stream = io.BufferedReader(io.FileIO(path))
    with stream:
        if _checked(path, stream) != MAGIC:
            raise CheckpointError(f"{path}: a pickle that torch.save did not write; expected weights")
        _checked(path, stream), _checked(path, stream)
        storages: dict[str, Storage] = {}
        root, keys = _checked(path, stream, storages), _checked(path, stream)
        at = stream.tell()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != set(storages):
        raise CheckpointError(f"{path}: damaged: its list of storages is not that of its tensors")
    places = {}
    for key in keys:
        numel = int.from_bytes(data[at : at + 8], "little")
        places[key] = (at + 8, numel * storages[key].dtype.itemsize)
        at = sum(places[key])
    return _weights(path, root, data, lambda storage: places[storage.key])


def _checked(path: Path, data: bytes | io.BufferedIOBase, storages: dict[str, Storage] | None = None) -> Any:
    try:
        return build(data, storages)
    except FAULTS as error:
        raise CheckpointError(f"{path}: cut short or damaged (its pickle: {error}); expected weights") from None


def _tensors(root: Any) -> dict[str, Pending]:
    """name -> tensor: those of a `state_dict`, of the value itself, or of a TorchScript module with its submodules."""
    if isinstance(root, dict):
        for key in ("state_dict", "model"):
            if isinstance(root.get(key), dict):
                root = root[key]
        return {name: item for name, item in root.items() if isinstance(name, str) and isinstance(item, Pending)}
    found, todo, seen = {}, [("", root)], set()
    while todo:
        prefix, item = todo.pop()
        if not isinstance(item, StandIn) or not isinstance(item.state, dict) or id(item) in seen:
            continue
        seen.add(id(item))
        for name, value in item.state.items():
            if isinstance(value, Pending):
                found[f"{prefix}{name}"] = value
            else:
                todo.append((f"{prefix}{name}.", value))
    return found


def _weights(path: Path, root: Any, data: mmap.mmap, locate: Callable[[Storage], tuple[int, int]]) -> Weights:
    """Views of the storages; `locate` gives a storage's (first byte, bytes)."""
    tensors: dict[str, Tensor] = {}
    for name, (storage, offset, shape, stride) in _tensors(root).items():
        try:
            at, size = locate(storage)
            numel = size // storage.dtype.itemsize
            if at + size > len(data):
                raise CheckpointError(
                    f"{path}: cut short: {name} ends at byte {at + size} of {len(data)}; fetch the file again"
                )
            tensors[name] = view(data, at, storage.dtype, (numel,)).as_strided(shape, stride, offset)
        except CheckpointError:
            raise
        except FAULTS:
            raise CheckpointError(f"{path}: damaged: {name} does not fit its storage; expected weights") from None
    if not tensors:
        raise CheckpointError(f"{path}: holds no tensors; expected the weights of a model")
    extra = root.items() if isinstance(root, dict) else ()
    return Weights(tensors, {key: value for key, value in extra if isinstance(key, str) and isinstance(value, str)})
