"""Sets of edit pairs as latents, encoded once by an autoencoder (`datagen/precompute.py` makes them).

    DIR/precomputed.json     everything that determines the content: size, resize, crops, flips, seed, hashes of the
                             autoencoder and of the data
    DIR/00000064.tar         pairs 64, 65, ... for the webdataset library, with the members
        00000064.json        the pair's text: key, instruction, group, and captions if there are any
        00000064.npy         float16 (variants, 3, c, y, x): mode of the source, mean and standard deviation of the
                             target, unscaled; variant 2 k + f is crop k, mirrored if f
        00000064.broken      in place of both, why the pair could not be read

A tar is written whole or not at all.
"""

import io
import json
import math
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..schema import Count, Pixels, Width, checked, from_dict
from .layouts.common import EditsError, EditText, read_json, read_part
from .tars import make_tar, tar_members

HEADER = "precomputed.json"
AGAIN = "remove it and run minip2p precompute again"
MAX_TEXT = 1 << 20
"""bytes of a pair's text"""


@checked
class Needed:
    """What a set says of itself in precomputed.json, as far as reading it needs to know."""

    size: Pixels
    crops: Count
    flips: bool
    vae: str
    data: str
    shape: tuple[Width, Width, Width]
    """(c, y, x) of an image's latents"""
    pairs: Count
    unit: Count


def is_precomputed(path: str | Path) -> bool:
    return (Path(path) / HEADER).is_file()


def unit_name(first: int) -> str:
    """The name of the tar whose first pair this is."""
    return f"{first:08d}"


@dataclass(frozen=True)
class Latents:
    """An open set of latents. It can be pickled, forked, and read by any number of processes."""

    path: Path
    header: dict[str, Any]
    """the content of precomputed.json"""
    instructions: list[str] = field(repr=False)
    groups: list[tuple[str, str]] = field(repr=False)
    """(group, key) of each pair, by which a set is split (`data.split`)"""
    outputs: list[str | None] = field(repr=False)
    """the target's caption, if there is one"""
    tars: list[Path] = field(repr=False)
    where: np.ndarray = field(repr=False)
    """(n, 2): for each pair the index of its tar, and the offset of its array"""

    def __len__(self) -> int:
        return len(self.instructions)

    @property
    def variants(self) -> int:
        return self.header["crops"] * (1 + self.header["flips"])

    @classmethod
    def open(cls, path: str | Path) -> "Latents":
        """Raises EditsError that names the file if the set is damaged or not complete."""
        path = Path(path)
        header = read_header(path)
        pairs, unit = header["pairs"], header["unit"]
        expected, found = -(-pairs // unit), {tar.name for tar in path.glob("*.tar")}
        if (absent := expected - len(found)) > 0:  # also of a header that claims any number of them
            raise EditsError(f"{path}: {absent:,} of {expected:,} tars are missing; run minip2p precompute again")
        tars = [path / f"{unit_name(first)}.tar" for first in range(0, pairs, unit)]
        if lacking := [tar for tar in tars if tar.name not in found]:
            raise EditsError(f"{path}: {len(lacking):,} of {expected:,} tars are missing; run minip2p precompute again")
        shape = (header["crops"] * (1 + header["flips"]), 3, *header["shape"])
        instructions, groups, outputs, where = [], [], [], []
        for number, tar in enumerate(tars):
            for text, start in _members(tar, min(unit, pairs - number * unit), shape):
                instructions.append(text["instruction"])
                groups.append((text["group"], text.get("key", f"{number} {start}")))
                outputs.append(text.get("output"))
                where.append((number, start))
        places = np.array(where, dtype=np.int64).reshape(-1, 2)
        return cls(path, header, instructions, groups, outputs, tars, places)

    def check(self, *, size: int, vae: str) -> None:
        """Raise EditsError unless the set was made for this size and by this autoencoder."""
        if self.header["size"] != size:
            was = self.header["size"]
            raise EditsError(f"{self.path} was precomputed at {was} pixels, not {size}: --set size={was}")
        if self.header["vae"] != vae:
            raise EditsError(
                f"{self.path} was precomputed by another autoencoder ({self.header['vae']}) than the model's ({vae}); "
                "precompute it with the weights from which the training starts"
            )

    def read(self, i: int, variant: int) -> Tensor:
        """(3, c, y, x) float32: mode of the source, mean and standard deviation of the target. EditsError where they
        are not finite."""
        tar, start = self.tars[self.where[i, 0]], int(self.where[i, 1])
        shape = (3, *self.header["shape"])
        size = 2 * math.prod(shape)
        data = read_part(tar, start + variant * size, size, f"latents of pair {i}")
        latents = np.frombuffer(data, np.float16).reshape(shape).astype(np.float32)
        if not np.isfinite(latents).all():
            raise EditsError(f"{tar}: the latents of pair {i} are not finite; {AGAIN}")
        return torch.from_numpy(latents)


def read_header(path: Path) -> dict[str, Any]:
    """Everything that determined the content of a set."""
    values = read_json(path / HEADER)
    names = {each.name for each in fields(Needed)}
    try:
        from_dict(Needed, {name: value for name, value in values.items() if name in names}, str(path / HEADER))
    except ValueError as error:
        raise EditsError(f"{error}; precompute the set again") from None
    return values


def tar_bytes(first: int, items: Sequence[tuple[EditText, np.ndarray] | ValueError]) -> bytes:
    """The tar of a unit. An item is (text, float16 array (variants, 3, c, y, x)), or the error of a broken pair."""
    files: dict[str, bytes] = {}
    for number, item in enumerate(items, first):
        key = f"{number:08d}"
        if isinstance(item, ValueError):
            files[f"{key}.broken"] = str(item).encode("utf-8", "surrogatepass")
            continue
        text, array = item
        names = ("key", "instruction", "group", "input", "output")
        values = {name: getattr(text, name) for name in names}
        line = json.dumps({name: value for name, value in values.items() if value is not None}, ensure_ascii=False)
        stored = io.BytesIO()
        np.save(stored, np.ascontiguousarray(array, dtype=np.float16))
        files[f"{key}.json"] = line.encode("utf-8", "surrogatepass")  # lone surrogates, if the source has them
        files[f"{key}.npy"] = stored.getvalue()
    return make_tar(files)


def _members(tar: Path, pairs: int, shape: tuple[int, ...]) -> Iterator[tuple[dict[str, str], int]]:
    """(text, offset of the array's numbers) of each pair that is not broken; `pairs` counts the broken ones too."""
    try:
        with open(tar, "rb") as file:
            texts: dict[str, dict[str, str]] = {}
            found = 0
            for name, offset, size in tar_members(tar):
                file.seek(offset)
                key, _, ending = name.partition(".")
                if ending == "json":
                    texts = {key: json.loads(file.read(min(size, MAX_TEXT)))}
                    texts[key]["instruction"] + texts[key]["group"]
                elif ending == "npy":
                    np.lib.format.read_magic(file)
                    about = np.lib.format.read_array_header_1_0(file)
                    if about != (shape, False, np.float16) or offset + size - file.tell() != 2 * math.prod(shape):
                        raise ValueError(f"{name} has the shape {about[0]}, where {HEADER} says {shape}")
                    yield texts[key], file.tell()
                found += ending in ("npy", "broken")
            if found != pairs:  # a tar that ends early, after a whole file
                raise EOFError(f"{found} pairs of {pairs}")
    except (tarfile.TarError, OSError, ValueError, KeyError, EOFError, TypeError, RecursionError) as error:
        raise EditsError(f"{tar} is damaged ({error}); {AGAIN}") from None
