"""Sets of edit pairs in any layout as one sequence, and splits that stay the same.

edits = open_edits("data/pairs")        # the authors' folders, WebDataset tars, parquet, MagicBrush, or on the hub
edits[0].source, edits[0].target, edits[0].instruction
train, val, test = split(edits)         # lists of indices
"""

import hashlib
import io
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from os import PathLike
from pathlib import Path
from typing import Protocol

from PIL import Image

from .latents import is_precomputed
from .layouts.common import EditsError, EditText, EncodedImage
from .layouts.folder import Folder, has_pairs
from .layouts.huggingface import HuggingFaceTable, is_saved_folder, load_table
from .layouts.magicbrush import MagicBrush
from .layouts.webdataset import Tars
from .pixels import decode

__all__ = ["LAYOUTS", "EditPair", "EditText", "Edits", "EditsError", "EncodedImage", "Layout", "open_edits", "split"]

SPLITS = (0.9, 0.05, 0.05)
"""the authors': training, validation, test"""


class Layout(Protocol):
    """What a layout offers: the pairs at one place, read one by one."""

    def __len__(self) -> int: ...

    def text(self, i: int) -> EditText:
        """Raises EditsError that names the pair."""

    def files(self, i: int) -> tuple[EncodedImage, EncodedImage]:
        """Source and target. Raises EditsError that names the pair."""


def _open_tars(path: str, part: str | None) -> Layout:
    return Tars(sorted(Path(path).glob("*.tar")) if Path(path).is_dir() else [Path(path)])


def _open_magicbrush(path: str, part: str | None) -> Layout:
    folder = Path(path) / (part or "train")
    return MagicBrush(folder if folder.is_dir() else Path(path))


def _open_folder(path: str, part: str | None) -> Layout:
    return Folder(Path(path))


def _open_table(path: str, part: str | None) -> Layout:
    return HuggingFaceTable(load_table(path, part), path)


LAYOUTS: dict[str, Callable[[str, str | None], Layout]] = {
    "folder": _open_folder,
    "webdataset": _open_tars,
    "magicbrush": _open_magicbrush,
    "huggingface": _open_table,
}
"""name -> what opens the layout, from (path, part)"""


@dataclass(frozen=True, kw_only=True)
class EditPair:
    """An image, an instruction, and the edited image."""

    source: Image.Image
    """8-bit RGB, as from `images.open_image`"""
    target: Image.Image
    """8-bit RGB; of the source's size in every published set, which is not checked"""
    instruction: str
    name: str
    input: str | None = None
    """the source's caption, if there is one"""
    output: str | None = None
    """the target's caption, if there is one"""


class Edits(Sequence[EditPair]):
    """A set of pairs. Indexing reads that pair only. It pickles, forks, and is read from any number of processes.

    A pair that cannot be read raises ValueError (EditsError, ImageError) in one line that names it.
    """

    def __init__(self, layout: Layout, path: str):
        self.layout, self.path = layout, path

    def __len__(self) -> int:
        return len(self.layout)

    def __repr__(self) -> str:
        return f"Edits({self.path!r}, {len(self):,} pairs)"

    def __getitem__(self, i: int) -> EditPair:
        return self.read(i)[2]

    def read(self, i: int) -> tuple[EditText, tuple[EncodedImage, EncodedImage], EditPair]:
        """A pair, and the text and the image files that it was made of."""
        text, files = self.text(i), self.files(i)
        source, target = (decode(io.BytesIO(image.data), image.name) for image in files)
        captions = {"input": text.input, "output": text.output}
        return (
            text,
            files,
            EditPair(source=source, target=target, instruction=text.instruction, name=text.name, **captions),
        )

    def text(self, i: int) -> EditText:
        """Everything about a pair except its images, which are not opened."""
        return self.layout.text(self._at(i))

    def texts(self) -> Iterator[EditText]:
        """The text of every pair, in order."""
        return (self.layout.text(i) for i in range(len(self)))

    def key(self, i: int) -> str:
        """The pair's own name in its set, the same when pairs are added or removed."""
        return self.text(i).key

    def files(self, i: int) -> tuple[EncodedImage, EncodedImage]:
        """Source and target, not decoded."""
        return self.layout.files(self._at(i))

    def _at(self, i: int) -> int:
        at = operator.index(i)
        if not -len(self) <= at < len(self):
            raise IndexError(f"{self.path} has {len(self):,} pairs; there is no pair {at}")
        return at % len(self)


def open_edits(path: str | PathLike, *, layout: str | None = None, part: str | None = None) -> Edits:
    """The pairs in a folder or file, or in a set on Hugging Face's hub (OWNER/NAME).

    layout: a word of LAYOUTS; recognised unless given. part: of a set in several parts, e.g. "dev"; "train" unless
    given. Raises EditsError for a missing, unknown or empty set, and for a broken list or tar; a broken pair is an
    error only when it is read.
    """
    path = str(path)
    layout = layout or _recognise(Path(path))
    if layout not in LAYOUTS:
        raise EditsError(f"unknown layout {layout!r}; there are {', '.join(LAYOUTS)}")
    edits = Edits(LAYOUTS[layout](path, part), path)
    if not len(edits):
        raise EditsError(f"{path}: a set of no pairs")
    return edits


def _recognise(path: Path) -> str:
    """The layout of the set at `path`."""
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
        raise EditsError(f"{path} is precomputed: it holds latents, not images; give the pairs it was made of")
    if has_pairs(path):
        return "folder"
    if any(path.glob("*.tar")):
        return "webdataset"
    if any((path / part / "edit_turns.json").is_file() for part in (".", "train", "dev", "test")):
        return "magicbrush"
    if is_saved_folder(path):
        return "huggingface"
    if (path / "seeds.json").is_file():
        return "folder"
    if any(path.rglob("*.parquet")):
        return "huggingface"
    raise EditsError(
        f"{path}: no known set of edit pairs; looked for the authors' folders (prompt.json, 1_0.jpg, 1_1.jpg, "
        "seeds.json), WebDataset's .tar, .parquet, and MagicBrush's edit_turns.json"
    )


def split(edits: Edits, fractions: Sequence[float] = SPLITS) -> list[list[int]]:
    """The pairs' indices in one list per fraction (they add up to 1), each in order; by a hash of `EditText.group`.

    Pairs of one caption stay together, and no pair moves when others are added or removed; the lengths are near the
    fractions, not equal to them. Raises ValueError for other fractions.
    """
    _bounds(fractions)
    lists: list[list[int]] = [[] for _ in fractions]
    for i, text in enumerate(edits.texts()):
        lists[split_of(text.group, fractions)].append(i)
    return lists


def split_of(group: str, fractions: Sequence[float] = SPLITS) -> int:
    """The split of a group, by number: it depends on the text alone and never changes."""
    digest = hashlib.sha256(group.encode("utf-8", "surrogatepass")).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return next(which for which, bound in enumerate(_bounds(fractions)) if place < bound or bound == 1)


def _bounds(fractions: Sequence[float]) -> list[float]:
    """The end of each split in [0, 1]; the last is 1."""
    fractions = list(fractions)
    if not fractions or not all(0 <= each <= 1 for each in fractions) or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"fractions {', '.join(map(str, fractions))}: expected numbers that add up to 1")
    return [*accumulate(fractions[:-1]), 1.0]
