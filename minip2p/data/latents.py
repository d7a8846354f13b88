"""Precomputed sets: what an autoencoder makes of every pair, so that training need not.

    DIR/precomputed.json     what decides the content: size, resize, crops, flips, seed, the autoencoder's and the data's marks
    DIR/00000064.tar         pairs 64, 65, ... as the webdataset library reads them, members
        00000064.json        the pair's text: instruction, group, and captions where there are any
        00000064.broken      in place of both, why the pair could not be read, if it could not
        00000064.npy         float16 (variants, 3, c, y, x): the source's mode, the target's mean and standard deviation,
                             in the autoencoder's own unit; variant 2 k + f is crop k, mirrored if f

A tar is there whole or not at all.
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

from .edit_sources import EditsError, EditText

HEADER = "precomputed.json"


def is_precomputed(path: str | Path) -> bool:
    return (Path(path) / HEADER).is_file()


def unit_name(first: int) -> str:
    """Of the tar whose first pair this is."""
    return f"{first:08d}"


@dataclass(frozen=True)
class Latents:
    """A precomputed set, open. It pickles, forks and is read from any number of processes."""

    path: Path
    told: dict[str, Any]
    """what precomputed.json says"""
    instructions: list[str] = field(repr=False)
    groups: list[str] = field(repr=False)
    """of each pair what must not come apart in a split (`EditText.group`)"""
    tars: list[Path] = field(repr=False)
    where: np.ndarray = field(repr=False)
    """(n, 2): each pair's tar, and where in it its array begins"""

    def __len__(self) -> int:
        return len(self.instructions)

    @property
    def variants(self) -> int:
        return self.told["crops"] * (1 + self.told["flips"])

    @classmethod
    def open(cls, path: str | Path) -> "Latents":
        """Raises EditsError that names the file where the set is not whole or damaged."""
        path = Path(path)
        told = read_header(path)
        tars = [path / f"{unit_name(first)}.tar" for first in range(0, told["pairs"], told["unit"])]
        if absent := [tar for tar in tars if not tar.is_file()]:
            raise EditsError(f"{path}: {len(absent)} of {len(tars)} tars are not there yet; run minip2p precompute again")
        instructions, groups, where = [], [], []
        for number, tar in enumerate(tars):
            for text, start in _members(tar, min(told["unit"], told["pairs"] - number * told["unit"])):
                instructions.append(text["instruction"])
                groups.append(text["group"])
                where.append((number, start))
        return cls(path, told, instructions, groups, tars, np.array(where, dtype=np.int64).reshape(-1, 2))

    def check(self, *, size: int, vae: str) -> None:
        """Raise ValueError unless it was made for this size and autoencoder."""
        if self.told["size"] != size:
            raise EditsError(f"{self.path} was precomputed at {self.told['size']} pixels, not {size}: --set size={self.told['size']}")
        if self.told["vae"] != vae:
            raise EditsError(
                f"{self.path} was precomputed by another autoencoder ({self.told['vae']}) than the model's ({vae}); "
                "precompute it with the weights that the training starts from"
            )

    def read(self, i: int, variant: int) -> Tensor:
        """(3, c, y, x) float32: the source's mode, the target's mean and standard deviation."""
        tar, start = self.tars[self.where[i, 0]], int(self.where[i, 1])
        shape = (3, *self.told["shape"])
        size = 2 * int(np.prod(shape))
        try:
            with open(tar, "rb") as file:
                file.seek(start + variant * size)
                data = file.read(size)
        except OSError as error:
            raise EditsError(f"{tar}: {(error.strerror or str(error)).lower()}") from None
        if len(data) < size:
            raise EditsError(f"{tar}: cut short since it was opened, in the latents of pair {i}")
        return torch.from_numpy(np.frombuffer(data, np.float16).reshape(shape).astype(np.float32))


def read_header(path: Path) -> dict[str, Any]:
    """What decided a set's content."""
    try:
        told = json.loads((path / HEADER).read_text(encoding="utf-8"))
        return told | {name: told[name] for name in ("size", "crops", "flips", "vae", "data", "shape", "pairs", "unit")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EditsError(f"{path / HEADER} is damaged ({error}); precompute the set again") from None


def tar_bytes(first: int, items: Sequence[tuple[EditText, np.ndarray] | ValueError]) -> bytes:
    """A unit's tar: the same bytes for the same pairs. Arrays (variants, 3, c, y, x) float16; or why there is none."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, item in enumerate(items, first):
            if isinstance(item, ValueError):
                _add(tar, f"{number:08d}.broken", str(item).encode("utf-8", "surrogatepass"))
                continue
            text, array = item
            told = {"instruction": text.instruction, "group": text.group, "input": text.input, "output": text.output}
            stored = io.BytesIO()
            np.save(stored, np.ascontiguousarray(array, dtype=np.float16))
            words = json.dumps({k: v for k, v in told.items() if v is not None}, ensure_ascii=False)
            _add(tar, f"{number:08d}.json", words.encode("utf-8", "surrogatepass"))  # as its source may have it
            _add(tar, f"{number:08d}.npy", stored.getvalue())
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _members(tar: Path, pairs: int) -> Iterator[tuple[dict[str, str], int]]:
    """(text, where its array's numbers begin) of each of so many pairs that is not broken."""
    try:
        with tarfile.open(tar, "r:") as file:
            text: dict[str, str] = {}
            found = 0
            while (member := file.next()) is not None:
                file.members.clear()  # which tarfile keeps, heads and all
                if member.name.endswith(".json"):
                    text = json.loads(file.extractfile(member).read())
                    text["instruction"], text["group"]
                elif member.name.endswith(".npy"):
                    head = file.extractfile(member)
                    np.lib.format.read_magic(head)
                    np.lib.format.read_array_header_1_0(head)
                    found += 1
                    yield text, member.offset_data + head.tell()
                elif member.name.endswith(".broken"):
                    found += 1
            if found != pairs:  # a tar that ends early, after a whole file
                raise EOFError(f"{found} pairs of {pairs}")
    except (tarfile.TarError, OSError, ValueError, KeyError, EOFError, AttributeError) as error:
        raise EditsError(f"{tar} is damaged ({error}); remove it and run minip2p precompute again") from None
