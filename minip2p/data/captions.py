"""Captions, and triplets of caption, instruction and edited caption: their tables, and their text for a language model.

The prompt is `caption\\n##\\n`, the completion `edit\\n%%\\noutput\\nEND`, as in the paper.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .layouts.common import NAMES
from .tables import read_rows, text_of

ASK, BETWEEN, STOP = "\n##\n", "\n%%\n", "\nEND"


class Refused(ValueError):
    """A completion that is not a valid instruction; the message is the rule that it breaks."""


@dataclass(frozen=True, kw_only=True)
class Triplet:
    """A caption, an instruction, and the edited caption."""

    input: str
    edit: str
    output: str


def prompt_text(caption: str) -> str:
    """The prompt of a language model."""
    return caption + ASK


def completion_text(edit: str, output: str) -> str:
    """The completion that a language model learns."""
    return f"{edit}{BETWEEN}{output}{STOP}"


def parse_completion(caption: str, completion: str) -> tuple[str, str]:
    """(instruction, edited caption) of a completion, with or without its STOP. Raises Refused.

    The authors' rules: exactly two parts, and an edited caption that differs from the caption. Ours: neither part is
    empty or has several lines.
    """
    parts = completion.split(STOP)[0].split(BETWEEN)
    if len(parts) != 2:
        raise Refused(f"{len(parts)} parts in place of 2")
    edit, output = (part.strip() for part in parts)
    if not edit or not output:
        raise Refused("an empty part")
    if any(len(part.splitlines()) > 1 for part in (edit, output)):
        raise Refused("a part of several lines")
    if bare(output) == bare(caption):
        raise Refused("nothing changes")
    return edit, output


def bare(text: str) -> str:
    """A caption without what makes no difference: in lower case, without `.!?` and spaces at both ends."""
    return text.lower().strip().strip(".!? ").strip()


def one_line(text: str) -> str:
    """The lines of a text joined by spaces."""
    return " ".join(line for line in map(str.strip, text.splitlines()) if line)


def distinct(captions: Iterable[str]) -> list[str]:
    """The captions without those that are equal to an earlier one (as `bare` compares them)."""
    first: dict[str, str] = {}
    for caption in captions:
        first.setdefault(bare(caption), caption)
    return list(first.values())


def read_captions(path: str | Path) -> list[str]:
    """All captions of a table, each on one line. Raises ValueError that names file and line, or if there are none."""
    captions = [one_line(text_of(path, number, row, *NAMES["input"])) for number, row in read_rows(path)]
    if not captions:
        raise ValueError(f"{path} is empty; expected one text per line")
    return captions


def read_triplets(path: str | Path) -> list[Triplet]:
    """All triplets of a table: `input`, `edit`, `output`, or others of the NAMES; each on one line.

    Raises ValueError that names file and line, or if there are none.
    """
    triplets = [
        Triplet(**{role: one_line(text_of(path, number, row, *NAMES[role])) for role in ("input", "edit", "output")})
        for number, row in read_rows(path)
    ]
    if not triplets:
        raise ValueError(f'{path} is empty; expected lines like {{"input": "...", "edit": "...", "output": "..."}}')
    return triplets
