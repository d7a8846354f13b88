"""Sets of edit pairs as latents, encoded once by an autoencoder (`datagen/precompute.py` makes them).

    DIR/precomputed.json     everything that determines the content: size, resize, crops, flips, seed, hashes of the
                             autoencoder, of the text encoder with its tokenizer, and of the data
    DIR/00000064.tar         pairs 64, 65, ... for the webdataset library, with the members
        00000064.json        the pair's text: key, instruction, group, and captions if there are any
        00000064.npy         float16 (variants, 3, c, y, x): mode of the source, mean and standard deviation of the
                             target, unscaled; variant 2 k + f is crop k, mirrored if f
        00000064.text.npy    float16 (m, d): the text encoder's states of the instruction, unless an earlier pair of
                             this tar has the same; in no tar if the text encoder is to be trained
        00000064.broken      in place of all, why the pair could not be read

A tar is written whole or not at all.
"""

import io
import json
import math
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..schema import Count, Size, Width, checked, from_dict
from .layouts.common import EditsError, EditText, read_json, read_part
from .sizes import sides
from .tars import make_tar, tar_members

HEADER = "precomputed.json"
AGAIN = "remove it and run minip2p precompute again"
MAX_TEXT = 1 << 20
"""bytes of a pair's text"""


@checked
class Needed:
    """What a set says of itself in precomputed.json, as far as reading it needs to know."""

    size: Size
    crops: Count
    flips: bool
    vae: str
    data: str
    shape: tuple[Width, Width, Width]
    """(c, y, x) of an image's latents"""
    pairs: Count
    unit: Count
    text: str | None = None
    """what gave the states of the texts, where there are any (`pipeline.fingerprint.text_fingerprint`)"""
    text_shape: tuple[Width, Width] | None = None
    """(m, d)"""

    def __post_init__(self):
        if (self.text is None) != (self.text_shape is None):
            raise ValueError("text_shape: expected with text, and not without it")


def is_precomputed(path: str | Path) -> bool:
    """Whether a path is a set that `minip2p precompute` wrote."""
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
    """(n, 3): for each pair the index of its tar, the offset of its array, and of its text's states (-1 for none)"""

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
        states = tuple(header.get("text_shape") or ())
        instructions, groups, outputs, where = [], [], [], []
        for number, tar in enumerate(tars):
            for text, *starts in _members(tar, min(unit, pairs - number * unit), shape, states):
                instructions.append(text["instruction"])
                groups.append((text["group"], text.get("key", f"{number} {starts[0]}")))
                outputs.append(text.get("output"))
                where.append((number, *starts))
        places = np.array(where, dtype=np.int64).reshape(-1, 3)
        return cls(path, header, instructions, groups, outputs, tars, places)

    def check(self, *, size: int | tuple[int, int], vae: str) -> None:
        """Raise EditsError unless the set was made for this size and by this autoencoder."""
        if (was := sides(self.header["size"])) != sides(size):
            was, now = (str(x) if x == y else f"{x},{y}" for x, y in (was, sides(size)))
            raise EditsError(f"{self.path} was precomputed at {was} pixels, not {now}: --set size={was}")
        if self.header["vae"] != vae:
            raise EditsError(
                f"{self.path} was precomputed by another autoencoder ({self.header['vae']}) than the model's ({vae}); "
                "precompute it with the weights from which the training starts"
            )

    def read(self, i: int, variant: int) -> Tensor:
        """(3, c, y, x) float32: mode of the source, mean and standard deviation of the target. EditsError where they
        are not finite."""
        shape = (3, *self.header["shape"])
        start = int(self.where[i, 1]) + variant * 2 * math.prod(shape)
        return self._numbers(i, start, shape, "latents").float()

    def read_states(self, i: int) -> Tensor:
        """(m, d) float16: the text encoder's states of pair i's instruction. EditsError where they are not finite."""
        return self._numbers(i, int(self.where[i, 2]), tuple(self.header["text_shape"]), "text")

    def _numbers(self, i: int, start: int, shape: tuple[int, ...], what: str) -> Tensor:
        tar = self.tars[self.where[i, 0]]
        numbers = np.frombuffer(read_part(tar, start, 2 * math.prod(shape), f"{what} of pair {i}"), np.float16)
        if not np.isfinite(numbers).all():
            raise EditsError(f"{tar}: the {what} of pair {i} are not finite; {AGAIN}")
        return torch.from_numpy(numbers.reshape(shape).copy())


def read_header(path: Path) -> dict[str, Any]:
    """Everything that determined the content of a set."""
    values = read_json(path / HEADER)
    names = {each.name for each in fields(Needed)}
    try:
        from_dict(Needed, {name: value for name, value in values.items() if name in names}, str(path / HEADER))
    except ValueError as error:
        raise EditsError(f"{error}; precompute the set again") from None
    return values


def tar_bytes(
    first: int,
    items: Sequence[tuple[EditText, np.ndarray] | ValueError],
    states: Mapping[str, np.ndarray] | None = None,
) -> bytes:
    """The tar of a unit. An item is (text, float16 array (variants, 3, c, y, x)), or the error of a broken pair.

    states: instruction -> float16 (m, d).
    """
    files: dict[str, bytes] = {}
    left = dict(states or {})
    for number, item in enumerate(items, first):
        key = f"{number:08d}"
        if isinstance(item, ValueError):
            files[f"{key}.broken"] = str(item).encode("utf-8", "surrogatepass")
            continue
        text, array = item
        names = ("key", "instruction", "group", "input", "output")
        values = {name: getattr(text, name) for name in names}
        line = json.dumps({name: value for name, value in values.items() if value is not None}, ensure_ascii=False)
        files[f"{key}.json"] = line.encode("utf-8", "surrogatepass")  # lone surrogates, if the source has them
        if text.instruction in left:
            files[f"{key}.text.npy"] = _npy(left.pop(text.instruction))
        files[f"{key}.npy"] = _npy(array)
    return make_tar(files)


def _npy(array: np.ndarray) -> bytes:
    stored = io.BytesIO()
    np.save(stored, np.ascontiguousarray(array, dtype=np.float16))
    return stored.getvalue()


def _members(
    tar: Path, pairs: int, shape: tuple[int, ...], states: tuple[int, ...]
) -> Iterator[tuple[dict[str, str], int, int]]:
    """(text, offset of the array's numbers, of those of its text's states) of each pair that is not broken; -1 where
    `states`, their shape, is empty. `pairs` counts the broken ones too."""
    try:
        with open(tar, "rb") as file:
            texts: dict[str, dict[str, str]] = {}
            encoded: dict[str, int] = {}
            items: list[tuple[dict[str, str], int]] = []
            found = 0
            for name, offset, size in tar_members(tar):
                file.seek(offset)
                key, _, ending = name.partition(".")
                if ending == "json":
                    texts = {key: json.loads(file.read(min(size, MAX_TEXT)))}
                    texts[key]["instruction"] + texts[key]["group"]
                elif ending == "text.npy":
                    encoded[texts[key]["instruction"]] = _numbers_start(file, name, states, offset + size)
                elif ending == "npy":
                    items.append((texts[key], _numbers_start(file, name, shape, offset + size)))
                found += ending in ("npy", "broken")
            if found != pairs:  # a tar that ends early, after a whole file
                raise EOFError(f"{found} pairs of {pairs}")
            yield from ((text, start, encoded[text["instruction"]] if states else -1) for text, start in items)
    except (tarfile.TarError, OSError, ValueError, KeyError, EOFError, TypeError, RecursionError) as error:
        raise EditsError(f"{tar} is damaged ({error}); {AGAIN}") from None


def _numbers_start(file: BinaryIO, name: str, shape: tuple[int, ...], end: int) -> int:
    """Where the numbers of an array begin in a file that is at its head. ValueError for another shape."""
    np.lib.format.read_magic(file)
    about = np.lib.format.read_array_header_1_0(file)
    if about != (shape, False, np.float16) or end - file.tell() != 2 * math.prod(shape):
        raise ValueError(f"{name} has the shape {about[0]}, where {HEADER} says {shape}")
    return file.tell()
