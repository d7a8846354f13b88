"""What a run generates: its settings, its prompts, and how each sample of a prompt is generated."""

import math
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from ..data.layouts.common import NAMES, find_field
from ..data.pair_files import to_json
from ..data.tables import place, read_rows, text_of
from ..diffusion import SAMPLERS, SPACINGS
from ..evaluation.metrics import RELEASED, Thresholds
from ..schema import Count, Seed, Threads, checked

ENDINGS = {"jpg": ("JPEG", {"quality": 100}), "png": ("PNG", {})}
"""of image files, with Pillow's format and options; JPEG as in the authors' code"""


@checked
class Settings:
    """What determines the pairs, beside the models and the prompts.

    The defaults are the paper's (section 3.1.2) and, for the thresholds, those of the authors' released script.
    """

    samples: Count = 100
    """pairs for each prompt"""
    batch_pairs: Count = 8
    """pairs that are generated together"""
    share: float | tuple[float, float] = (0.1, 0.9)
    """Prompt-to-Prompt's p, the fraction of the steps in which the images share self-attention: a number, or the ends
    of a uniform draw"""
    scale: float | tuple[float, float] = (7.5, 15.0)
    """guidance scale: a number, or the ends of a uniform draw"""
    steps: Count = 100
    """of the sampler: more are slower and finer"""
    sampler: str = "euler_ancestral"
    """as for minip2p generate"""
    spacing: str = "linspace"
    """of noise levels, as for minip2p generate"""
    size: int | tuple[int, int] | None = None
    """a side or (width, height) in pixels; None: the model's own"""
    seed: Seed = 0
    """random seed of the run"""
    stop_after: Count | None = None
    """a prompt ends after the batch in which so many of its samples have passed"""
    thresholds: Thresholds = RELEASED
    """a candidate passes them"""
    independent_noise: bool = False
    """generate the two images from different noise, as a baseline for Prompt-to-Prompt; needs share 0"""
    most: Count = 8
    """candidates of a prompt, the best by direction; more than the filter keeps, so that it can be stricter"""
    picture: str = "jpg"
    """file format: jpg, as the authors' code reads it, or png, which is lossless"""
    threads: Threads | None = None
    """CPU threads, on which the rounding depends; None: PyTorch's own number, or that of the resumed run"""

    def __post_init__(self):
        for name, top, expected in (("share", 1, "from 0 to 1"), ("scale", math.inf, "0 or more")):
            low, high = ends = bounds(getattr(self, name))
            given = f"{name} {low}" if low == high else f"{name} {low},{high}"
            if not all(0 <= end <= top for end in ends):
                raise ValueError(f"{given}: expected numbers {expected}")
            if low > high:
                raise ValueError(f"{given}: expected the lower end first")
        for name, words in (("sampler", SAMPLERS), ("spacing", SPACINGS), ("picture", ENDINGS)):
            if getattr(self, name) not in words:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; there are {', '.join(words)}")
        if self.independent_noise and any(bounds(self.share)):
            raise ValueError(f"share {self.share}: images from independent noise share nothing; expected share 0")


class Plan(NamedTuple):
    """How a sample is generated."""

    seed: int
    """31 bits, as the authors'"""
    share: float
    scale: float


def sample_plan(settings: Settings, prompt_id: int, sample: int) -> Plan:
    """Drawn from a hash of (run seed, prompt id, sample). Of the settings only seed, share and scale matter."""
    digest = sha256(f"{settings.seed}/{prompt_id}/{sample}".encode()).digest()

    def uniform(ends: float | tuple[float, float], at: int) -> float:
        low, high = bounds(ends)
        u = (int.from_bytes(digest[at : at + 8], "big") >> 11) / 2**53
        return min(low + (high - low) * u, high)

    seed = int.from_bytes(digest[:4], "big") >> 1
    return Plan(seed, uniform(settings.share, 8), uniform(settings.scale, 16))


def read_prompts(path: str | Path) -> list[dict]:
    """All rows of a table, with the keys input, edit, output, id (the number of the row) and any further columns.

    Raises ValueError that names file and line.
    """
    prompts: list[dict] = []
    for number, row in read_rows(path):
        roles = ("input", "edit", "output")
        texts = {role: text_of(path, number, row, *NAMES[role]) for role in roles}
        known = {*roles, *(find_field(row, NAMES[role]) for role in roles)}
        prompt = texts | {key: value for key, value in row.items() if key not in known} | {"id": len(prompts)}
        try:
            to_json(prompt).encode()
        except (ValueError, RecursionError):  # JSON lets a row hold half of a character (a lone surrogate), or NaN
            where = place(path, number)
            raise ValueError(f"{where}: contains half a character or NaN, which JSON files cannot hold") from None
        prompts.append(prompt)
    if not prompts:
        raise ValueError(f'{path} is empty; expected lines like {{"input": "...", "edit": "...", "output": "..."}}')
    return prompts


def bounds(value: float | tuple[float, float]) -> tuple[float, float]:
    """The ends of a uniform draw; a number stands for both."""
    return (value[0], value[1]) if isinstance(value, (tuple, list)) else (value, value)
