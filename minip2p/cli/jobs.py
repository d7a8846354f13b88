"""What `minip2p edit` is given (a file, a folder, a glob or a table) as a list of jobs."""

import glob
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..data.picture_files import ENDINGS, is_picture_name, size_of
from ..data.pixels import ImageError
from .metadata import FORMATS, check_outputs, read_if_ours
from .printing import note, say

FIELDS = ("input", "edit", "output", "mask", "seed", "text_scale", "image_scale")
"""of a table's lines"""
EXAMPLE = '{"input": "photo.jpg", "edit": "make it night"}'
NAMED = 10
"""skipped files that are named, at most"""
NOT_PORTABLE = re.compile(r'[<>:"|?*\\\x00-\x1f]|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)|[. ]$', re.IGNORECASE)
"""in the parts of a name: what Windows cannot have, or takes for a drive, a folder or a device"""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One image to edit."""

    input: Path
    output: Path
    turns: tuple[str, ...]
    """the instructions, one after the other"""
    mask: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    """of a table's line: seed, text_scale, image_scale"""
    size: tuple[int, int] = (0, 0)
    """of the input: width, height"""
    made: dict | None = None
    """the metadata of the output that is there already"""


def plan(
    given: str,
    edit: Sequence[str],
    output: str,
    *,
    mask: str | None = None,
    overwrite: bool = False,
    skip_broken: bool = False,
) -> list[Job]:
    """The jobs. Raises ValueError for inputs and masks that are no pictures, unless they are to be skipped, for a table
    that cannot be read, and for outputs that cannot be written."""
    for name, path in (("input", given), ("output", output), ("mask", mask)):
        if path == "":
            raise ValueError(f"--{name} is empty; expected a path")
    source, target, turns = Path(given), Path(output), tuple(edit)
    many = source.is_dir() or not source.exists() and glob.has_magic(given)
    if source.suffix.lower() == ".jsonl" and source.is_file():
        jobs = _table(source, turns, target, mask)
    elif not turns:
        raise ValueError('missing --edit "an instruction"; only the lines of a table (.jsonl) may have their own')
    elif many:
        base, inputs = _find(given, target)
        jobs = [
            Job(input=base / path, output=target / output_name(path), turns=turns, mask=_mask_of(path, mask))
            for path in inputs
        ]
    else:
        target = target / output_name(Path(source.name)) if target.is_dir() else target
        jobs = [Job(input=source, output=target, turns=turns, mask=_mask_of(Path(source.name), mask))]
    is_name = target.is_file() or not target.exists() and target.suffix.lower() in FORMATS
    if is_name and (many or jobs[0].output != target):
        raise ValueError(f"output {target}: several images need a folder, not a file")
    if clash := [each for each, n in Counter(job.output for job in jobs).items() if n > 1]:
        raise ValueError(f"output {clash[0]} is named for several images; choose other names")
    jobs = _check_inputs(jobs, skip_broken)
    inputs = {path.resolve() for job in jobs for path in (job.input, job.mask) if path is not None}
    for job in jobs:
        if job.output.resolve() in inputs:
            raise ValueError(f"output {job.output} is an input; choose another place, so that nothing is lost")
    made = check_outputs(*(job.output for job in jobs), overwrite=overwrite)
    return [replace(job, made=each) for job, each in zip(jobs, made)]


def output_name(path: Path) -> Path:
    """The name of an input's result: a.png stays, a.jpg becomes a.jpg.png. It depends on the input's name alone, and no
    two inputs have one."""
    stays = path.suffix.lower() == ".png" and not is_picture_name(path.stem)
    return path if stays else path.with_name(f"{path.name}.png")


def _mask_of(path: Path, mask: str | None) -> Path | None:
    """The mask of an input whose name, relative to where inputs are, is `path`: the file, or that in a folder."""
    return Path(mask, path.with_suffix(".png")) if mask is not None and Path(mask).is_dir() else mask and Path(mask)


def _find(given: str, target: Path) -> tuple[Path, list[Path]]:
    """A folder, and the pictures in it or below that are in `given`, a folder or a pattern."""
    if Path(given).is_dir():
        base, found = Path(given), list(Path(given).iterdir())
    else:
        base, *rest = Path(), *Path(given).parts
        while (base / rest[0]).exists():  # so far it is a name, also with a [
            base /= rest.pop(0)
        found = [base / path for path in glob.glob(str(Path(*rest)), root_dir=base, recursive=True)]
    pictures = [path for path in found if path.is_file() and is_picture_name(path)]
    results = {path for path in pictures if target.resolve() in path.resolve().parents and read_if_ours(path)}
    _name_skipped("are no picture files", set(found) - set(pictures))
    _name_skipped("lie in the output folder and were made by minip2p", results)
    if not (inputs := sorted(set(pictures) - results)):
        what = "no images in this folder" if base == Path(given) else "no image matches" if found else "no file matches"
        raise ValueError(f"input {given}: {what}; their names end in {', '.join(ENDINGS)}")
    return base, [path.relative_to(base) for path in inputs]


def _name_skipped(why: str, paths: Iterable[Path]) -> None:
    names = sorted(f"{path.name}/" if path.is_dir() else path.name for path in paths)
    if names:
        more = ", ..." if len(names) > NAMED else ""
        note(f"skipped {len(names)} that {why}: {', '.join(names[:NAMED])}{more}")


def _check_inputs(jobs: list[Job], skip_broken: bool) -> list[Job]:
    """The jobs whose inputs and masks are pictures, as far as their headers say."""
    good, broken = [], []
    for job in jobs:
        try:
            if job.mask is not None:
                size_of(job.mask, str(job.mask))
            good.append(replace(job, size=size_of(job.input, str(job.input))))
        except ImageError as error:
            broken.append(str(error))
    if broken and (not skip_broken or not good):
        if len(jobs) == 1:
            raise ImageError(broken[0])
        hint = "" if skip_broken else "; mend them, or leave out what is broken by --skip-broken"
        raise ImageError(f"{broken[0]}; {len(broken)} of {len(jobs)} are broken{hint}")
    for reason in broken:
        say(f"minip2p: skipped: {reason}", error=True)
    return good


def _table(table: Path, turns: tuple[str, ...], target: Path, mask: str | None) -> list[Job]:
    from ..data.tables import read_rows, text_of
    from ..pipeline.batching import check

    jobs = []
    for number, row in read_rows(table):
        row = ({"edit": turns[0] if len(turns) == 1 else list(turns)} if turns else {}) | row
        path, edits = table.parent / text_of(table, number, row, "input"), row.get("edit")
        rows = [{"edit": text} for text in edits] if isinstance(edits, list) and edits else [row]
        texts = tuple(text_of(table, number, each, "edit") for each in rows)
        named = text_of(table, number, row, "output") if "output" in row else None
        own = table.parent / text_of(table, number, row, "mask") if "mask" in row else _mask_of(Path(path.name), mask)
        settings = {name: value for name, value in row.items() if name not in ("input", "edit", "output", "mask")}
        try:
            if unknown := settings.keys() - set(FIELDS):
                raise ValueError(f"unknown name {min(unknown)!r}; there are {', '.join(FIELDS)}")
            check(**settings)
            if named is not None:
                _check_inside(target, named)
        except ValueError as error:
            raise ValueError(f"{table}, line {number}: {error}") from None
        output = _row_name(path, row) if named is None else named
        jobs.append(Job(input=path, output=target / output, turns=texts, mask=own, settings=settings))
    if not jobs:
        raise ValueError(f"{table} is empty; expected lines like {EXAMPLE}")
    return jobs


def _row_name(path: Path, row: dict) -> str:
    """The name of a line's result: its input's, and a hash of the whole line, whatever else is in the table."""
    digest = hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()
    return f"{path.name}-{digest[:8]}.png"


def _check_inside(folder: Path, name: str) -> None:
    """Raise ValueError for an output outside of the folder, or with a name that not all systems can have."""
    parts = [part for part in name.split("/") if part != "."]
    wrong = not all(parts) or any(NOT_PORTABLE.search(part) for part in parts)  # also ".."
    if wrong or not (folder / name).resolve().is_relative_to(folder.resolve()):  # by a link
        raise ValueError(f"output {name!r}: expected a name inside of the output folder, such as night/photo.png")
