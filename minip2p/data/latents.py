"""Sets of edit pairs as latents, encoded once by an autoencoder (`datagen/precompute.py` makes them).

    DIR/precomputed.json     everything that determines the content: size, resize, crops, flips, seed, hashes of the
                             autoencoder and of the data
    DIR/00000064.tar         pairs 64, 65, ... for the webdataset library, with the members
        00000064.json        the pair's text: instruction, group, and captions if there are any
        00000064.npy         float16 (variants, 3, c, y, x): mode of the source, mean and standard deviation of the
                             target, unscaled; variant 2 k + f is crop k, mirrored if f
        00000064.broken      in place of both, why the pair could not be read

A tar is written whole or not at all.
"""

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .layouts.common import EditsError, EditText, read_json, read_part
from .tars import make_tar, tar_members

HEADER = "precomputed.json"
NEEDED = ("size", "crops", "flips", "vae", "data", "shape", "pairs", "unit")


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
    groups: list[str] = field(repr=False)
    """for each pair; pairs of one group stay together in a split (`EditText.group`)"""
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
        tars = [path / f"{unit_name(first)}.tar" for first in range(0, header["pairs"], header["unit"])]
        if absent := [tar for tar in tars if not tar.is_file()]:
            raise EditsError(f"{path}: {len(absent)} of {len(tars)} tars are missing; run minip2p precompute again")
        instructions, groups, where = [], [], []
        for number, tar in enumerate(tars):
            for text, start in _members(tar, min(header["unit"], header["pairs"] - number * header["unit"])):
                instructions.append(text["instruction"])
                groups.append(text["group"])
                where.append((number, start))
        return cls(path, header, instructions, groups, tars, np.array(where, dtype=np.int64).reshape(-1, 2))

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
        """(3, c, y, x) float32: mode of the source, mean and standard deviation of the target."""
        tar, start = self.tars[self.where[i, 0]], int(self.where[i, 1])
        shape = (3, *self.header["shape"])
        size = 2 * int(np.prod(shape))
        data = read_part(tar, start + variant * size, size, f"latents of pair {i}")
        return torch.from_numpy(np.frombuffer(data, np.float16).reshape(shape).astype(np.float32))


def read_header(path: Path) -> dict[str, Any]:
    """Everything that determined the content of a set."""
    values = read_json(path / HEADER)
    if missing := [name for name in NEEDED if name not in values]:
        raise EditsError(f"{path / HEADER} lacks {missing[0]!r}; precompute the set again")
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
        values = {"instruction": text.instruction, "group": text.group, "input": text.input, "output": text.output}
        line = json.dumps({name: value for name, value in values.items() if value is not None}, ensure_ascii=False)
        stored = io.BytesIO()
        np.save(stored, np.ascontiguousarray(array, dtype=np.float16))
        files[f"{key}.json"] = line.encode("utf-8", "surrogatepass")  # lone surrogates, if the source has them
        files[f"{key}.npy"] = stored.getvalue()
    return make_tar(files)


def _members(tar: Path, pairs: int) -> Iterator[tuple[dict[str, str], int]]:
    """(text, offset of the array's numbers) of each pair that is not broken; `pairs` counts the broken ones too."""
    try:
        with open(tar, "rb") as file:
            text: dict[str, str] = {}
            found = 0
            for name, offset, size in tar_members(tar):
                file.seek(offset)
                if name.endswith(".json"):
                    text = json.loads(file.read(size))
                    text["instruction"], text["group"]
                elif name.endswith(".npy"):
                    np.lib.format.read_magic(file)
                    np.lib.format.read_array_header_1_0(file)
                    yield text, file.tell()
                found += name.endswith((".npy", ".broken"))
            if found != pairs:  # a tar that ends early, after a whole file
                raise EOFError(f"{found} pairs of {pairs}")
    except (tarfile.TarError, OSError, ValueError, KeyError, EOFError, TypeError) as error:
        raise EditsError(f"{tar} is damaged ({error}); remove it and run minip2p precompute again") from None
