"""The files of made pairs: a folder for every unit, which is a prompt with its samples.

DIR/0000012/                    prompt 12
    prompt.json                 the prompt's row: input, edit, output, id and any further columns
    scores.jsonl                the scores of every sample, also of those without images
    metadata.jsonl              the candidates with the keys of the authors' code, the best direction first
    <seed>_0.jpg, <seed>_1.jpg  the images of the candidates, source and edited
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import read_json
from .layouts.common import read_file
from .tables import read_rows

NAME = re.compile(r"\d{7,}")
"""of a unit: the prompt's id"""
AUTHORS = ("seed", "p2p_threshold", "cfg_scale", "clip_sim_0", "clip_sim_1", "clip_sim_dir", "clip_sim_image")
"""the keys of a sample in the authors' metadata.jsonl"""


@dataclass(frozen=True, kw_only=True)
class PairUnit:
    """The samples of a prompt."""

    name: str
    prompt: dict
    """the prompt's row: input, edit, output, id and any further columns"""
    scores: list[dict]
    """for every sample: sample, AUTHORS, candidate (a bool)"""
    images: dict[int, tuple[bytes, bytes]]
    """for every candidate, by seed: the files of the source and the edited image"""
    ending: str = "jpg"
    """of these files"""

    @property
    def files(self) -> dict[str, bytes]:
        """The files of the unit's folder by name."""
        best_first = sorted(self.scores, key=lambda row: -row["clip_sim_dir"])
        texts = {
            "prompt.json": json_lines([self.prompt]),
            "scores.jsonl": json_lines(self.scores),
            "metadata.jsonl": json_lines({key: row[key] for key in AUTHORS} for row in best_first if row["candidate"]),
        }
        return texts | {
            f"{seed}_{side}.{self.ending}": data for seed, both in self.images.items() for side, data in enumerate(both)
        }


def unit_name(prompt_id: int) -> str:
    """The name of a prompt's folder."""
    return f"{prompt_id:07d}"


def done_units(folder: str | Path) -> list[str]:
    """The names of all finished units, sorted by prompt. Raises ValueError if there is no such folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; expected one that minip2p pairs wrote")
    with os.scandir(folder) as entries:
        return sorted((each.name for each in entries if NAME.fullmatch(each.name) and each.is_dir()), key=int)


def read_unit(folder: str | Path, name: str) -> tuple[dict, list[dict]]:
    """(prompt, scores) of a finished unit. Folders of the authors' code have the scores of candidates only, and none
    where no sample was a candidate.

    Raises ValueError that names a file which is missing or damaged.
    """
    unit = Path(folder) / name
    prompt, scores, metadata = read_json(unit / "prompt.json"), unit / "scores.jsonl", unit / "metadata.jsonl"
    if scores.exists():
        return prompt, [row for _, row in read_rows(scores)]
    rows = [row for _, row in read_rows(metadata)] if metadata.exists() else []
    return prompt, [{"sample": i, **row, "candidate": True} for i, row in enumerate(rows)]


def read_scores(folder: str | Path) -> Iterator[tuple[str, dict, list[dict]]]:
    """(name, prompt, scores of every sample) of each finished unit, sorted by prompt."""
    for name in done_units(folder):
        yield name, *read_unit(folder, name)


def all_samples(folder: str | Path) -> list[tuple[str, list[str]]]:
    """(unit, seeds) of every sample, whatever the CLIP filter keeps.

    Raises ValueError where no scores say which samples there were, and where some have no images since pairs were
    refused while they were made.
    """
    found, missing = [], 0
    for name, _, scores in read_scores(folder):
        if not (Path(folder) / name / "scores.jsonl").exists():
            raise ValueError(f"{folder}: its filter cannot be undone: unit {name} has no scores.jsonl of all samples")
        found.append((name, [str(row["seed"]) for row in scores if row["candidate"]]))
        missing += sum(not row["candidate"] for row in scores)
    if not found:
        raise ValueError(f"{folder}: its filter cannot be undone: no unit that minip2p pairs made is in it")
    if missing:
        raise ValueError(
            f"{folder}: its filter cannot be undone: {missing} samples have no images; make the pairs with --image -1 "
            "--caption -1 --direction -1 and --most as high as --samples, then run minip2p filter"
        )
    return found


def read_image(folder: str | Path, name: str, seed: int, edited: bool = False) -> bytes:
    """The file of a candidate's source or edited image. Raises ValueError if there is none."""
    for ending in ("jpg", "png"):
        path = Path(folder) / name / f"{seed}_{int(edited)}.{ending}"
        if path.is_file():
            return read_file(path)
    raise ValueError(f"{folder}, unit {name}: no image of seed {seed}; only candidates have images")


def json_lines(rows: Iterable[Any]) -> bytes:
    """A JSON value per line, in UTF-8."""
    return "".join(f"{to_json(row)}\n" for row in rows).encode()


def to_json(value: Any) -> str:
    """JSON on one line, with letters beyond ASCII as they are."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
