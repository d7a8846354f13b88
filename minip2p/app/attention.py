"""The third tab: where each word looks, as the `attention` verb draws it, at every step.

A cross-attention site gives each of its n pixels a total of 1 over the m tokens of the text,

    p = softmax(q k^T / sqrt(d)),  (b, h, n, m)

A word's map is the mean of p[..., j] over its tokens j, over heads, and over the network's sites (Hertz et al. 2022,
figure 4), at one step or over all of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..cli.attention import columns
from ..cli.figures import overlay
from ..control import Record
from ..data.contact_sheet import resized
from .jobs import Preview, compute
from .models import Models
from .uploads import read_upload

SIDE = 512
"""pixels of the longer side of what is shown"""


@dataclass(frozen=True, eq=False)
class WordMaps:
    """Where the words of a text looked."""

    image: Image.Image
    """the result"""
    words: tuple[str, ...]
    maps: np.ndarray
    """(words, 1 + steps, y, x): the mean over all steps, then each step"""

    @property
    def steps(self) -> int:
        return self.maps.shape[1] - 1

    def show(self, word: str | None, step: int = 0) -> tuple[Image.Image, float]:
        """A word's map over the image, and the map's highest probability; step 0 is the mean over all steps.

        Raises ValueError for another word or step.
        """
        if word not in self.words:
            raise ValueError(f"the word {word!r}: expected one of {', '.join(self.words)}")
        if not 0 <= step <= self.steps:
            raise ValueError(f"step {step}: expected 1 to {self.steps}, or 0 for the mean")
        values = self.maps[self.words.index(word), int(step)]
        top = float(values.max())
        return overlay(self.enlarged, values / (top or 1)), top

    @property
    def enlarged(self) -> Image.Image:
        return resized(self.image, (SIDE, SIDE))


def look(
    models: Models, text: str, picture: str | Path | None = None, *, generate: bool = False, steps: int, seed: int
) -> Iterator[Preview | WordMaps]:
    """Previews, then where the words of an instruction looked while the picture was edited, or, with `generate`, those
    of a prompt while an image was generated; with the model's own scales. Raises ValueError."""
    pipe = models.text2image if generate else models.editor
    source = None if generate else read_upload(picture)
    found = columns(pipe, text)
    mean, records = Record(), [Record(during=(i / steps, (i + 1) / steps)) for i in range(max(0, steps))]

    def work(on_step):
        how = {"steps": steps, "seed": seed, "control": [mean, *records], "on_step": on_step}
        return pipe.generate(text, **how) if generate else pipe.edit(source, text, **how)

    image = yield from compute(pipe, work)
    maps = [[record.word(tokens)[0].cpu().numpy() for record in (mean, *records)] for _, tokens in found]
    yield WordMaps(image, tuple(word for word, _ in found), np.array(maps))
