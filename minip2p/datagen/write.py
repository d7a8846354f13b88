"""Instructions at scale: captions -> caption, instruction and edited caption, by a language model (section 3.1.1).

Captions are worked on in blocks. A block is a pure function of (writer, settings, its captions): an attempt's seed is a
hash of (run seed, caption, attempt), and batches are cut at the same places within the block. So a block has the same
bytes whoever makes it, and after whatever. `blocks.py` keeps them on disk; without any file:

    for written in instructions(minip2p.load_writer(), ["a red cat in a meadow"], Settings(seed=1)):
        print(written.lines, written.reasons)
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import sha256
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import torch

from ..data.captions import STOP, Refused, bare, distinct, parse_completion, prompt_text
from ..text.generate import Completion, Sampling

if TYPE_CHECKING:
    from ..pipeline.writer import Writer


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the lines, beside writer and captions; the sampling is the paper's. Raises ValueError."""

    temperature: float = 0.7
    top_p: float = 1.0
    frequency_penalty: float = 0.1
    max_tokens: int = 256
    """of a completion"""
    retries: int = 3
    """of a completion that is refused"""
    per_caption: int = 1
    """instructions of a caption, each another"""
    batch_size: int = 16
    """completions that are sampled together"""
    block: int = 64
    """captions that are finished, and kept, together"""
    seed: int = 0
    """of the run"""
    refuse: tuple[str, ...] = ()
    """words and phrases that neither a caption nor what is made of it may hold"""
    threads: int | None = None
    """of the CPU; as PyTorch has them unless given"""

    def __post_init__(self):
        least = {"max_tokens": 1, "per_caption": 1, "batch_size": 1, "block": 1, "retries": 0, "seed": 0}
        least |= {} if self.threads is None else {"threads": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
                raise ValueError(f"{name.replace('_', ' ')} {value!r}: expected a whole number, at least {low}")
        ranges = {"temperature": (0, math.inf), "top_p": (0, 1), "frequency_penalty": (-2, 2)}
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not isinstance(value, Real) or not low <= value <= high or value == math.inf:
                raise ValueError(f"{name.replace('_', ' ')} {value!r}: expected a number from {low} to {high}")
        if self.top_p == 0:
            raise ValueError("top p 0: expected more than 0; for the likeliest tokens give temperature 0")


@dataclass(frozen=True, kw_only=True)
class Written:
    """What came of a caption."""

    input: str
    lines: list[dict[str, Any]] = field(default_factory=list)
    """input, edit, output; writer, seed, attempt"""
    attempts: int = 0
    """completions that were sampled"""
    reasons: list[str] = field(default_factory=list)
    """why each was refused that was, or, without any attempt, the caption itself"""


def attempt_seed(seed: int, caption: str, attempt: int) -> int:
    """53 bits (which any reader of JSON keeps) that an attempt is sampled with, the same for ever."""
    return int.from_bytes(sha256(json.dumps([seed, caption, attempt]).encode()).digest()[:8], "big") >> 11


def instructions(writer: "Writer", captions: Sequence[str], settings: Settings = Settings()) -> Iterator[Written]:
    """What the writer makes of each caption, in their order, without those that an earlier one tells already."""
    for block in cut(distinct(captions), settings):
        yield from write_block(writer, block, settings)


def cut(captions: Sequence[str], settings: Settings) -> list[Sequence[str]]:
    """The blocks: captions that are worked on together."""
    return [captions[at : at + settings.block] for at in range(0, len(captions), settings.block)]


def write_block(
    writer: "Writer", captions: Sequence[str], settings: Settings, on_text: Callable[[], None] = lambda: None
) -> list[Written]:
    """What comes of each caption: all are asked, then those again whose completions were refused. Writes no file.

    on_text is called after each completion.
    """
    made = [Written(input=caption, reasons=_unfit(writer, caption, settings)) for caption in captions]
    wanted = [0 if each.reasons else settings.per_caption for each in made]
    for _ in range(1 + settings.retries):
        asked, attempts = [], [each.attempts for each in made]
        for i, each in enumerate(made):
            for attempt in range(attempts[i], attempts[i] + wanted[i] - len(each.lines)):
                asked.append((i, attempt, attempt_seed(settings.seed, each.input, attempt)))
        texts = _complete(writer, [(made[i].input, seed) for i, _, seed in asked], settings, on_text)
        for (i, attempt, seed), completion in zip(asked, texts, strict=True):
            provenance = {"writer": writer.fingerprint, "seed": seed, "attempt": attempt}
            made[i] = _taken(made[i], completion, settings, provenance)
    return made


def _complete(
    writer: "Writer", asked: list[tuple[str, int]], settings: Settings, on_text: Callable[[], None]
) -> list[Completion]:
    """Completions of (caption, seed)s."""
    sampling = Sampling(
        temperature=settings.temperature, top_p=settings.top_p, frequency_penalty=settings.frequency_penalty,
        max_tokens=max(1, min(settings.max_tokens, writer.config.max_length - room(writer, settings))), stop=(STOP,),
    )  # fmt: skip
    prompts, seeds = [prompt_text(caption) for caption, _ in asked], [seed for _, seed in asked]
    found = {}
    with cpu_threads(settings.threads):
        for i, completion in writer.completions(prompts, sampling, seeds=seeds, batch_size=settings.batch_size):
            found[i] = completion
            on_text()
    return [found[i] for i in range(len(asked))]


@contextmanager
def cpu_threads(n: int | None) -> Iterator[None]:
    """So many threads of the CPU within."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if n is None else n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _taken(written: Written, completion: Completion, settings: Settings, provenance: dict[str, Any]) -> Written:
    """With a completion more: it goes to the lines, or what is against it to the reasons."""
    now = {"attempts": written.attempts + 1}
    try:
        edit, output = parse_completion(written.input, completion.text)
        if completion.reason == "length":  # beyond the paper's rules: who knows how its last sentence goes on
            raise Refused("cut off at the most tokens")
        if word := forbidden(edit, settings) or forbidden(output, settings):
            raise Refused(f'"{word}" is a word to refuse')
        if bare(edit) in (bare(line["edit"]) for line in written.lines):
            raise Refused("the same instruction again")
    except Refused as refused:
        return replace(written, **now, reasons=[*written.reasons, str(refused)])
    line = {"input": written.input, "edit": edit, "output": output, **provenance}
    return replace(written, **now, lines=[*written.lines, line])


def _unfit(writer: "Writer", caption: str, settings: Settings) -> list[str]:
    """Why a caption is not worth an attempt; nothing where it is."""
    if len(caption.strip().splitlines()) != 1:
        return ["a caption that is not one line"]
    if word := forbidden(caption, settings):
        return [f'"{word}" is a word to refuse']
    if writer.tokens(prompt_text(caption)) > room(writer, settings):
        return [f"too long: the writer answers captions of {room(writer, settings)} tokens at most"]
    return []


def room(writer: "Writer", settings: Settings) -> int:
    """The tokens of the longest question that can be answered: an answer tells the whole caption again."""
    return min(settings.max_tokens, writer.config.max_length // 2)


def forbidden(text: str, settings: Settings) -> str | None:
    """The first of the words and phrases to refuse that stands in the text by itself, in whatever letters."""
    found = settings.refuse and _pattern(settings.refuse).search(text)
    return " ".join(found[0].lower().split()) if found else None


@lru_cache(maxsize=4)
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    each = (r"\s+".join(map(re.escape, word.split())) for word in sorted(words, key=len, reverse=True))
    return re.compile(rf"(?<!\w)(?:{'|'.join(each)})(?!\w)", re.IGNORECASE)
