"""The files of made pairs: a folder or a tar for every unit, which is a prompt with its samples.

DIR/0000012/                    prompt 12
    prompt.json                 the prompt's row: input, edit, output, id and any further columns
    scores.jsonl                the scores of every sample, also of those without images
    metadata.jsonl              the candidates with the keys of the authors' code, the best direction first
    <seed>_0.jpg, <seed>_1.jpg  the images of the candidates, source and edited
DIR/0000012.tar                 the same as a tar for the webdataset library, with the members
    0000012-<seed>.source.jpg, .target.jpg, .json (the prompt's row and the scores) of every candidate, and
    __scores__/0000012.json {"prompt", "scores"}, a name that the library skips. A dot in a unit's name is "_" here.
"""

import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import parse_json, read_json
from .captions import read_rows
from .layouts.common import read_part
from .tars import make_tar, tar_members

FORMATS = ("folder", "webdataset")
NAME = re.compile(r"(\d{7,})(?:\.(\d{3,})-\d{3,})?")
"""of a unit: the prompt's id; in sets that earlier versions made also the first and last of some of its samples"""
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


def unit_name(prompt_id: int) -> str:
    return f"{prompt_id:07d}"


def done_units(folder: str | Path) -> list[str]:
    """The names of all finished units, sorted by prompt and sample. Raises ValueError if there is no such folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; expected one that minip2p pairs wrote")
    with os.scandir(folder) as entries:
        names = {each.name.removesuffix(".tar") for each in entries if each.is_dir() or each.name.endswith(".tar")}
    found = filter(None, map(NAME.fullmatch, names))
    return [match[0] for match in sorted(found, key=lambda match: (int(match[1]), int(match[2] or -1), match[0]))]


def file_name(name: str, form: str) -> str:
    """Of the unit's folder or tar. Raises ValueError unless `form` is one of FORMATS."""
    if form not in FORMATS:
        raise ValueError(f"unknown format {form!r}; expected {' or '.join(FORMATS)}")
    return name if form == "folder" else f"{name}.tar"


def encode_unit(unit: PairUnit, form: str) -> bytes | dict[str, bytes]:
    """The unit's tar, or the files of its folder by name."""
    return folder_files(unit) if form == "folder" else tar_bytes(unit)


def folder_files(unit: PairUnit) -> dict[str, bytes]:
    """The files of the unit's folder by name."""
    best_first = sorted(unit.scores, key=lambda row: -row["clip_sim_dir"])
    texts = {
        "prompt.json": json_lines([unit.prompt]),
        "scores.jsonl": json_lines(unit.scores),
        "metadata.jsonl": json_lines({key: row[key] for key in AUTHORS} for row in best_first if row["candidate"]),
    }
    return texts | {
        f"{seed}_{side}.{unit.ending}": data for seed, both in unit.images.items() for side, data in enumerate(both)
    }


def tar_bytes(unit: PairUnit) -> bytes:
    """The unit's tar."""
    key = unit.name.replace(".", "_")  # webdataset takes everything after the first dot as the ending
    files = {f"__scores__/{key}.json": to_json({"prompt": unit.prompt, "scores": unit.scores}).encode()}
    for row in unit.scores:
        if row["candidate"]:
            start = f"{key}-{row['seed']}"
            sides = zip(("source", "target"), unit.images[row["seed"]], strict=True)
            files |= {f"{start}.{side}.{unit.ending}": data for side, data in sides}
            files[f"{start}.json"] = to_json(unit.prompt | row).encode()
    return make_tar(files)


def read_unit(folder: str | Path, name: str) -> tuple[dict, list[dict]]:
    """(prompt, scores) of a finished unit. Folders of the authors' code have the scores of candidates only.

    Raises ValueError that names a file which is missing or damaged.
    """
    folder = Path(folder)
    if (folder / name).is_dir():
        scores = folder / name / "scores.jsonl"
        scores = scores if scores.exists() else scores.with_name("metadata.jsonl")
        prompt, rows = read_json(folder / name / "prompt.json"), [row for _, row in read_rows(scores)]
        own = scores.name == "scores.jsonl"
        return prompt, rows if own else [{"sample": i, **row, "candidate": True} for i, row in enumerate(rows)]
    path, key = folder / f"{name}.tar", name.replace(".", "_")
    both = parse_json(_in_tar(path, f"__scores__/{key}.json") or "{}", f"{path}, its scores")
    if not {"prompt", "scores"} <= both.keys():
        raise ValueError(f"{path} has no scores; expected a tar that minip2p pairs wrote")
    return both["prompt"], both["scores"]


def read_scores(folder: str | Path) -> Iterator[tuple[str, dict, list[dict]]]:
    """(name, prompt, scores of every sample) of each finished unit, sorted by prompt and sample."""
    folder = Path(folder)
    for name in done_units(folder):
        yield name, *read_unit(folder, name)


def read_image(folder: str | Path, name: str, seed: int, edited: bool = False) -> bytes:
    """The file of a candidate's source or edited image. Raises ValueError if there is none."""
    folder, key = Path(folder), name.replace(".", "_")
    for ending in ("jpg", "png"):
        path = folder / name / f"{seed}_{int(edited)}.{ending}"
        if path.is_file():
            return path.read_bytes()
    start = f"{key}-{seed}.{'target' if edited else 'source'}."
    if (path := folder / f"{name}.tar").is_file() and (data := _in_tar(path, start)):
        return data
    raise ValueError(f"{folder}, unit {name}: no image of seed {seed}; only candidates have images")


def json_lines(rows: Iterable[Any]) -> bytes:
    """A JSON value per line, in UTF-8."""
    return "".join(f"{to_json(row)}\n" for row in rows).encode()


def to_json(value: Any) -> str:
    """JSON on one line, with letters beyond ASCII as they are."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _in_tar(path: Path, start: str) -> bytes | None:
    """The first file of a tar whose name starts so. Raises ValueError if the tar is damaged."""
    try:
        found = next((member for member in tar_members(path) if member.name.startswith(start)), None)
    except tarfile.TarError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    return found and read_part(path, found.offset, found.size, found.name)
