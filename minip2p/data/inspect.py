"""What a set of edit pairs holds, gathered pair by pair: sizes, repeats, text lengths, how much the images differ.

Only hashes and numbers are kept of each pair, so that sets of any size can be inspected.
"""

from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
from PIL import Image

from .edits import EditPair, EditText
from .fits import LANCZOS

MAX_NAMED = 5
"""pairs of each kind of finding that are named; all are counted"""
CLIP_TOKENS = 75
"""tokens of a text that CLIP reads; its 77 include start and end"""


@dataclass
class Finding:
    """The number of pairs that something is true of, and the names of the first."""

    count: int = 0
    named: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.named) < MAX_NAMED:
            self.named.append(name)


@dataclass
class Inspection:
    """What `add` has found so far."""

    token_spans: Callable[[str], list[tuple[int, int]]]
    """(start, end) of each token in a text"""
    max_tokens: int = CLIP_TOKENS
    pairs: int = 0
    captions: int = 0
    """pairs with a caption"""
    sizes: Counter = field(default_factory=Counter)
    """(width, height) of the sources"""
    unequal: Finding = field(default_factory=Finding)
    """the two images differ in size"""
    empty: Finding = field(default_factory=Finding)
    """there is no instruction"""
    repeated: Finding = field(default_factory=Finding)
    """both image files and the instruction are those of an earlier pair"""
    reworded: Finding = field(default_factory=Finding)
    """both image files are those of an earlier pair, the instruction is not"""
    same: Finding = field(default_factory=Finding)
    """all pixels of the two images are equal"""
    cut: Finding = field(default_factory=Finding)
    """the instruction has more than `max_tokens` tokens"""
    cut_captions: Finding = field(default_factory=Finding)
    """a caption has more than `max_tokens` tokens"""
    longest: tuple[int, str, str] = (0, "", "")
    """of the longest text that is cut: its tokens, the text that is read, the text that is not"""
    words: array = field(default_factory=lambda: array("I"))
    """of each instruction"""
    tokens: array = field(default_factory=lambda: array("I"))
    """of each instruction, without start and end"""
    differences: array = field(default_factory=lambda: array("f"))
    """`difference` of each pair"""
    seen: dict[bytes, str] = field(default_factory=dict, repr=False)
    """hash of two image files, with and without their instruction -> the first pair's name"""

    def add(self, text: EditText, files: tuple[bytes, bytes], pair: EditPair) -> None:
        """One more pair: its text, its two image files, and the pair itself."""
        self.pairs += 1
        self.captions += text.input is not None or text.output is not None
        self.sizes[pair.source.size] += 1
        if pair.source.size != pair.target.size:
            sizes = " and ".join("{}x{}".format(*image.size) for image in (pair.source, pair.target))
            self.unequal.add(f"{text.name} ({sizes})")
        self._measure_text(text)
        self._find_repeats(text, files)
        self.differences.append(difference(pair.source, pair.target))
        if self.differences[-1] == 0 and pair.source.size == pair.target.size:
            self.same.add(text.name)

    def _measure_text(self, text: EditText) -> None:
        self.words.append(len(text.instruction.split()))
        self.tokens.append(self._measure(text.instruction))
        if not text.instruction:
            self.empty.add(text.name)
        if self.tokens[-1] > self.max_tokens:
            self.cut.add(text.name)
        if max(map(self._measure, (text.input or "", text.output or ""))) > self.max_tokens:
            self.cut_captions.add(text.name)

    def _measure(self, text: str) -> int:
        """Its tokens."""
        spans = self.token_spans(text)
        if len(spans) > max(self.max_tokens, self.longest[0]):
            end = spans[self.max_tokens - 1][1]
            self.longest = len(spans), text[:end], text[end:]
        return len(spans)

    def _find_repeats(self, text: EditText, files: tuple[bytes, bytes]) -> None:
        digest = blake2b(b"".join(blake2b(data).digest() for data in files), digest_size=12)
        images = digest.digest()
        digest.update(text.instruction.encode("utf-8", "surrogatepass"))
        whole = b"=" + digest.digest()
        if whole in self.seen:
            self.repeated.add(f"{text.name} (as {self.seen[whole]})")
        elif images in self.seen:
            self.reworded.add(f"{text.name} (as {self.seen[images]})")
        self.seen.setdefault(images, text.name)
        self.seen.setdefault(whole, text.name)


def difference(source: Image.Image, target: Image.Image) -> float:
    """Mean of |source - target| over pixels and colours, from 0 (equal) to 1 (black and white); a target of another
    size is resized to the source's."""
    if target.size != source.size:
        target = target.resize(source.size, LANCZOS)
    a, b = (np.asarray(image.convert("RGB"), np.int16) for image in (source, target))
    return float(np.abs(a - b).mean() / 255)
