"""What a set of edit pairs holds, gathered pair by pair: sizes, repeats, text lengths, how much the pictures differ.

Of a pair that has passed only hashes and numbers stay, so that sets of any size can be surveyed.
"""

from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
from PIL import Image

from .edit_sources import EditText
from .edits import EditPair
from .images import LANCZOS

NAMED = 5  # pairs of each kind of finding that are named; all are counted
Encode = Callable[[str], list[tuple[int, int]]]
"""a text -> (start, end) in it of each of its tokens"""


@dataclass
class Finding:
    """How many pairs it is true of, and the first of them by name."""

    count: int = 0
    named: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.named) < NAMED:
            self.named.append(name)


@dataclass
class Survey:
    """What `add` has seen so far."""

    encode: Encode
    room: int = 75
    """tokens that a text encoder reads of a text; CLIP's 77 hold the start and the end, too"""
    pairs: int = 0
    captions: int = 0
    """pairs with a caption of either picture"""
    sizes: Counter = field(default_factory=Counter)
    """(width, height) of the sources"""
    unequal: Finding = field(default_factory=Finding)
    """the two pictures differ in size"""
    empty: Finding = field(default_factory=Finding)
    """there is no instruction"""
    repeated: Finding = field(default_factory=Finding)
    """both pictures and the instruction are those of an earlier pair, byte for byte"""
    reworded: Finding = field(default_factory=Finding)
    """both pictures are those of an earlier pair, the instruction is another"""
    same: Finding = field(default_factory=Finding)
    """all pixels of the two pictures are equal"""
    cut: Finding = field(default_factory=Finding)
    """the instruction has more tokens than there is room"""
    longest: tuple[int, str, str] = (0, "", "")
    """of the longest that is cut: its tokens, what is read of it, what is not"""
    words: array = field(default_factory=lambda: array("I"))
    """in each instruction"""
    tokens: array = field(default_factory=lambda: array("I"))
    """in each instruction, without start and end"""
    differences: array = field(default_factory=lambda: array("f"))
    """mean of |source - target| over pixels and colours, of each pair; 0 is equal, 1 is black and white"""
    seen: dict[bytes, str] = field(default_factory=dict, repr=False)
    """hashes of pairs of pictures, and of those with their instruction -> the first pair's name"""

    def add(self, text: EditText, files: tuple[bytes, bytes], pair: EditPair) -> None:
        """One more pair: its text, its pictures as stored, and opened."""
        self.pairs += 1
        self.captions += text.input is not None or text.output is not None
        self.sizes[pair.source.size] += 1
        if pair.source.size != pair.target.size:
            sizes = " and ".join("{}x{}".format(*picture.size) for picture in (pair.source, pair.target))
            self.unequal.add(f"{text.name} ({sizes})")
        self._measure(text)
        self._repeats(text, files)
        self.differences.append(difference(pair.source, pair.target))
        if self.differences[-1] == 0 and pair.source.size == pair.target.size:
            self.same.add(text.name)

    def _measure(self, text: EditText) -> None:
        spans = self.encode(text.instruction)
        self.words.append(len(text.instruction.split()))
        self.tokens.append(len(spans))
        if not text.instruction:
            self.empty.add(text.name)
        if len(spans) > self.room:
            self.cut.add(text.name)
            if len(spans) > self.longest[0]:
                end = spans[self.room - 1][1]
                self.longest = len(spans), text.instruction[:end], text.instruction[end:]

    def _repeats(self, text: EditText, files: tuple[bytes, bytes]) -> None:
        pictures = blake2b(b"".join(blake2b(data).digest() for data in files), digest_size=12)
        bare = pictures.digest()
        pictures.update(text.instruction.encode("utf-8", "surrogatepass"))
        whole = b"=" + pictures.digest()
        if whole in self.seen:
            self.repeated.add(f"{text.name} (as {self.seen[whole]})")
        elif bare in self.seen:
            self.reworded.add(f"{text.name} (as {self.seen[bare]})")
        self.seen.setdefault(bare, text.name)
        self.seen.setdefault(whole, text.name)


def difference(source: Image.Image, target: Image.Image) -> float:
    """Mean of |source - target| over pixels and colours, 0 to 1; a target of another size is taken to the source's."""
    if target.size != source.size:
        target = target.resize(source.size, LANCZOS)
    a, b = (np.asarray(picture.convert("RGB"), np.int16) for picture in (source, target))
    return float(np.abs(a - b).mean() / 255)
