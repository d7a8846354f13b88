"""Edit data sets: any known layout as one sequence of pairs, and splits of it that last.

    edits = open_edits("data/pairs")        # the authors' folders, WebDataset tars, parquet, MagicBrush, a hub's name
    edits[0].source, edits[0].target, edits[0].instruction
    train, val, test = split(edits)         # lists of indices
"""

import hashlib
import io
import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike, scandir
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from PIL import Image

from .edit_sources import EditsError, EditText, Folder, MagicBrush, Stored, Tars
from .edit_tables import Table, load_table, saved_folder
from .images import decode
from .latents import is_precomputed

__all__ = ["EditPair", "EditText", "Edits", "EditsError", "Source", "Stored", "open_edits", "share_of", "split"]

KNOWN = (
    "folders with prompt.json, 1_0.jpg and 1_1.jpg (and seeds.json) as the authors', .tar of WebDataset, .parquet, or "
    "MagicBrush's edit_turns.json"
)
SPLITS = (0.9, 0.05, 0.05)
"""the authors': to train, to validate, to test"""


class Source(Protocol):
    """Where pairs lie."""

    units: np.ndarray
    """(n,) of whole numbers that never fall: the first-level entry that each item is of"""

    def __len__(self) -> int: ...

    def text(self, i: int) -> EditText:
        """Raises EditsError that names the item."""

    def files(self, i: int) -> tuple[Stored, Stored]:
        """Source and target. Raises EditsError that names the item."""


@dataclass(frozen=True, kw_only=True)
class EditPair:
    """A picture, an instruction, and the picture after it."""

    source: Image.Image
    """RGB, 8 bits, as `images.open_image` gives them"""
    target: Image.Image
    """RGB; of the source's size in every published set, but nothing holds it there"""
    instruction: str
    name: str
    input: str | None = None
    """the source's caption, where there is one"""
    output: str | None = None
    """the target's caption, where there is one"""


class Edits(Sequence[EditPair]):
    """A set of pairs. Reading one opens that one only; it pickles, forks and is read from any number of processes.

    Whatever cannot be read raises ValueError in one line that names the item.
    """

    def __init__(self, source: Source, path: str):
        self.source, self.path = source, path

    def __len__(self) -> int:
        return len(self.source)

    def __repr__(self) -> str:
        return f"Edits({self.path!r}, {len(self):,} pairs)"

    def __getitem__(self, i: int) -> EditPair:
        return self.read(i)[2]

    def read(self, i: int) -> tuple[EditText, tuple[Stored, Stored], EditPair]:
        """An item as a pair, with what it was made of."""
        text, files = self.text(i), self.files(i)
        source, target = (decode(io.BytesIO(stored.data), stored.name) for stored in files)
        told = {"instruction": text.instruction, "input": text.input, "output": text.output}
        return text, files, EditPair(source=source, target=target, name=text.name, **told)

    def text(self, i: int) -> EditText:
        """All of an item but its pictures, which are not opened."""
        return self.source.text(self._at(i))

    def texts(self) -> Iterator[EditText]:
        """Every item's text, in order."""
        return (self.source.text(i) for i in range(len(self)))

    def key(self, i: int) -> str:
        """The item's own name in its set, which stays when others come or go."""
        return self.text(i).key

    def files(self, i: int) -> tuple[Stored, Stored]:
        """Source and target as they are stored: the bytes of JPEG, PNG or WebP files, not looked into."""
        return self.source.files(self._at(i))

    @property
    def units(self) -> np.ndarray:
        """(n,): of the authors' folders the number of the prompt that each item is of; else the item's own."""
        return self.source.units

    def _at(self, i: int) -> int:
        at = operator.index(i)
        if not -len(self) <= at < len(self):
            raise IndexError(f"{self.path} has {len(self):,} pairs; there is no pair {at}")
        return at % len(self)


def open_edits(path: str | PathLike, *, layout: str | None = None, part: str | None = None) -> Edits:
    """The pairs in a folder or file, or of a set on Hugging Face's hub.

    layout: a word of LAYOUTS; None recognises it. part: of a set in several, such as "train" (which it is if there is
    one) or "dev".
    Raises EditsError where there is nothing, nothing known, or no pair; and for a broken list or tar, not yet for a
    broken item.
    """
    path = str(path)
    layout = layout or _recognised(Path(path))
    if layout not in LAYOUTS:
        raise EditsError(f"unknown layout {layout!r}; there are {', '.join(LAYOUTS)}")
    edits = Edits(LAYOUTS[layout](path, part), path)
    if not len(edits):
        raise EditsError(f"{path}: a set of no pairs")
    return edits


def _open_tars(path: str, part: str | None) -> Tars:
    return Tars(sorted(Path(path).glob("*.tar")) if Path(path).is_dir() else [Path(path)])


def _open_magicbrush(path: str, part: str | None) -> MagicBrush:
    within = Path(path) / (part or "train")
    return MagicBrush(within if within.is_dir() else Path(path))


LAYOUTS = {
    "folder": lambda path, part: Folder(Path(path)),
    "webdataset": _open_tars,
    "magicbrush": _open_magicbrush,
    "huggingface": lambda path, part: Table(load_table(path, part), path),
}
"""a layout's name -> what opens it"""


def _recognised(path: Path) -> str:
    """The layout of what lies at `path`."""
    if path.is_file():
        layout = {".tar": "webdataset", ".parquet": "huggingface"}.get(path.suffix.lower())
        if layout is None:
            raise EditsError(f"{path}: expected a folder, a .tar or a .parquet of edit pairs")
        return layout
    if not path.exists():
        if len(path.parts) == 2 and not path.is_absolute() and ".." not in path.parts:
            return "huggingface"  # OWNER/NAME
        raise EditsError(f"{path}: no such file or folder")
    if is_precomputed(path):
        raise EditsError(f"{path}: is precomputed already, latents in place of pictures; give the pairs it was made of")
    if _has_pairs(path):
        return "folder"
    if any(path.glob("*.tar")):
        return "webdataset"
    if any((path / part / "edit_turns.json").is_file() for part in (".", "train", "dev", "test")):
        return "magicbrush"
    if saved_folder(path):
        return "huggingface"
    if (path / "seeds.json").is_file():
        return "folder"
    if any(path.rglob("*.parquet")):
        return "huggingface"
    raise EditsError(f"{path}: no set of edit pairs that is known; looked for {KNOWN}")


def _has_pairs(path: Path) -> bool:
    with scandir(path) as entries:
        return any((path / entry.name / "prompt.json").is_file() for entry in entries if entry.name[0] != ".")


def split(
    edits: Edits, fractions: Sequence[float] = SPLITS, by: Literal["caption", "index"] = "caption"
) -> list[list[int]]:
    """The items' indices in as many lists as there are fractions (which add up to 1), each in order.

    by="caption": by a hash of what the item tells (`EditText.group`). Items of one caption stay together, and no item
    ever moves when others are added or filtered away; how many fall to a list is near the fraction, not equal to it.
    by="index": by the place in the set, as the authors' code does: whole prompts, in the order of seeds.json.
    Raises ValueError for other words and fractions.
    """
    bounds = _bounds(fractions)
    if by == "caption":
        of = [share_of(text.group, fractions) for text in edits.texts()]
    elif by == "index":
        units = edits.units
        count = int(units[-1]) + 1 if len(edits) else 0
        ends = [math.floor(bound * count) for bound in bounds]
        of = np.searchsorted(ends, units, side="right").tolist()
    else:
        raise ValueError(f"unknown way to split {by!r}; there are caption, index")
    lists: list[list[int]] = [[] for _ in fractions]
    for i, which in enumerate(of):
        lists[which].append(i)
    return lists


def share_of(group: str, fractions: Sequence[float] = SPLITS) -> int:
    """The list that a group falls to: decided by the text alone, the same for ever."""
    digest = hashlib.sha256(group.encode("utf-8", "surrogatepass")).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return next(which for which, bound in enumerate(_bounds(fractions)) if place < bound or bound == 1)


def _bounds(fractions: Sequence[float]) -> list[float]:
    """Where each list ends, summed from the left as the authors do; the last at 1."""
    fractions = list(fractions)
    if not fractions or not all(0 <= each <= 1 for each in fractions) or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"fractions {', '.join(map(str, fractions))}: expected numbers that add up to 1")
    bounds = np.cumsum(fractions).tolist()
    return [*bounds[:-1], 1.0]
