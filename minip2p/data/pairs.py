"""A set of edit pairs as a sequence, whatever layout it has on disk (`data/edits.py` opens one)."""

import io
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from .layouts.common import EditText, EncodedImage
from .picture_files import decode, size_of


class Layout(Protocol):
    """What a layout offers: the pairs at one place, read one by one. It may also have `header(i)`, the file of the
    source (a path, or open) and its name for errors, so that its size is known without reading all of it."""

    def __len__(self) -> int: ...

    def text(self, i: int) -> EditText:
        """Raises EditsError that names the pair."""

    def files(self, i: int) -> tuple[EncodedImage, EncodedImage]:
        """Source and target. Raises EditsError that names the pair."""


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

    def pictures(self, i: int) -> tuple[Image.Image, Image.Image]:
        """Source and target, 8-bit RGB, without reading the text."""
        source, target = (decode(io.BytesIO(image.data), image.name) for image in self.files(i))
        return source, target

    def size(self, i: int) -> tuple[int, int]:
        """(width, height) of the source, by its file's header."""
        if hasattr(self.layout, "header"):
            return size_of(*self.layout.header(self._at(i)))
        image = self.files(i)[0]
        return size_of(io.BytesIO(image.data), image.name)

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
