"""What is to be made: the settings of a run, the prompts' rows, and how each sample of a prompt is painted."""

import math
from dataclasses import dataclass
from hashlib import sha256
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

from ..data.captions import NAMES, read_rows, text_of
from ..diffusion import SAMPLERS, SPACINGS
from ..evaluation.metrics import RELEASED, Thresholds
from .units import to_json

PICTURES = {"jpg": ("JPEG", {"quality": 100}), "png": ("PNG", {})}
"""endings of pictures; JPEG as the authors write it"""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides a unit, beside the models and the prompt; the defaults are the paper's and the released script's.

    Raises ValueError for values that mean nothing.
    """

    samples: int = 100
    """pairs of each prompt"""
    unit_samples: int | None = None
    """of them in a unit; all unless given"""
    batch_pairs: int = 8
    """that share the UNet's calls"""
    share: float | tuple[float, float] = (0.1, 0.9)
    """of the steps that share self-attention, Prompt-to-Prompt's p: a number, or the ends of a uniform draw"""
    scale: float | tuple[float, float] = (7.5, 15.0)
    """of the guidance: likewise"""
    steps: int = 100
    sampler: str = "euler_ancestral"
    spacing: str = "linspace"
    size: int | tuple[int, int] | None = None
    """a side in pixels or (width, height); the model's own unless given"""
    seed: int = 0
    """of the run"""
    stop_after: int | None = None
    """a prompt ends after the batch in which so many of its samples have passed"""
    thresholds: Thresholds = RELEASED
    """what a candidate passes"""
    apart: bool = False
    """paint the two pictures of a pair from different noise, nothing shared: what Prompt-to-Prompt is held against"""
    most: int = 8
    """candidates of a unit, the best by direction; more than the filter keeps, so that it can be stricter"""
    picture: str = "jpg"
    """a word of PICTURES"""
    threads: int | None = None
    """of the CPU; as PyTorch has them unless given"""

    def __post_init__(self):
        for name in ("samples", "unit_samples", "batch_pairs", "steps", "stop_after", "most", "threads"):
            _check_whole(name, getattr(self, name), optional=name in ("unit_samples", "stop_after", "threads"))
        _check_whole("seed", self.seed, least=0)
        for name, top, expected in (("share", 1, "from 0 to 1"), ("scale", math.inf, "0 or more")):
            low, high = bounds(getattr(self, name))
            if not all(isinstance(end, Real) and 0 <= end <= top and end < math.inf for end in (low, high)):
                raise ValueError(f"{name} {_told(low, high)}: expected numbers {expected}")
            if low > high:
                raise ValueError(f"{name} {_told(low, high)}: expected the lower end first")
        for name, words in (("sampler", SAMPLERS), ("spacing", SPACINGS), ("picture", PICTURES)):
            if getattr(self, name) not in words:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; there are {', '.join(words)}")
        if self.apart and any(bounds(self.share)):
            raise ValueError(f"share {_told(*bounds(self.share))}: pictures painted apart share nothing; expected 0")
        if self.stop_after and not self.whole:
            raise ValueError(
                f"stop after {self.stop_after} goes with whole prompts: units of {self.unit_samples} samples know "
                "nothing of each other; leave one of the two out"
            )

    @property
    def whole(self) -> bool:
        """Whether a unit is all samples of a prompt."""
        return self.unit_samples is None or self.unit_samples >= self.samples


class Plan(NamedTuple):
    """How a sample is painted."""

    seed: int
    """31 bits, as the authors'"""
    share: float
    scale: float


def sample_plan(settings: Settings, prompt_id: int, sample: int) -> Plan:
    """Drawn from a hash of (run seed, prompt id, sample), the same for ever; the rest of the settings has no part."""
    digest = sha256(f"{settings.seed}/{prompt_id}/{sample}".encode()).digest()

    def uniform(ends: float | tuple[float, float], at: int) -> float:
        low, high = bounds(ends)
        u = (int.from_bytes(digest[at : at + 8], "big") >> 11) / 2**53
        return min(low + (high - low) * u, high)

    seed = int.from_bytes(digest[:4], "big") >> 1
    return Plan(seed, uniform(settings.share, 8), uniform(settings.scale, 16))


def read_prompts(path: str | Path) -> list[dict]:
    """All rows of a table: input (or caption), edit, output, what else they say, and the id, a whole number.

    An id is the row's place among the rows, unless all rows bring one. Raises ValueError that names file and line.
    """
    prompts: list[dict] = []
    lines: dict[int, int] = {}
    own: bool | None = None
    """whether rows bring an id; known from the first"""
    for number, row in read_rows(path):
        where, caption = f"{path}, line {number}", next((name for name in NAMES if name in row), "")
        texts = {"input": text_of(path, number, row, *NAMES)}
        texts |= {name: text_of(path, number, row, name) for name in ("edit", "output")}
        prompt = texts | {key: value for key, value in row.items() if key not in {*texts, caption, "id"}}
        own = "id" in row if own is None else own
        if ("id" in row) != own:
            raise ValueError(f"{where}: 'id' is {'there' if 'id' in row else 'missing'}; all rows bring one, or none")
        prompt["id"] = _own_id(where, row["id"]) if own else len(prompts)
        if prompt["id"] in lines:
            raise ValueError(f"{where}: 'id' {prompt['id']} is that of line {lines[prompt['id']]} too")
        lines[prompt["id"]] = number
        try:
            to_json(prompt).encode()
        except ValueError:  # JSON lets a row hold half of a character (a lone surrogate), or NaN
            raise ValueError(f"{where}: holds half a character or a number that is none; it cannot be kept") from None
        prompts.append(prompt)
    if not prompts:
        raise ValueError(f'{path} is empty; expected lines like {{"input": "...", "edit": "...", "output": "..."}}')
    return prompts


def bounds(value: float | tuple[float, float]) -> tuple[float, float]:
    """The ends of a uniform draw; of a number, twice this number."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


def _own_id(where: str, value: Any) -> int:
    """An id that a row brings; in a table of texts (.csv) it is written in digits."""
    value = int(value) if isinstance(value, str) and value.isdecimal() else value
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError(f"{where}: 'id' is {value!r}; expected a whole number, 0 or more")
    return value


def _check_whole(name: str, value: Any, *, least: int = 1, optional: bool = False) -> None:
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name.replace('_', ' ')} {value!r}: expected a whole number, at least {least}")


def _told(low: float, high: float) -> str:
    return f"{low}" if low == high else f"{low},{high}"
