"""What `--input` and `--output` name: a file, a folder, a glob or a table, as a list of jobs."""

import glob
import json
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from .files import check_writable
from .recipe import FORMATS, check_format

PICTURES = (*FORMATS, ".gif", ".ppm", ".pgm")  # what is taken from a folder
KINDS = {"input": str, "edit": str, "output": str, "seed": int, "text_scale": float, "image_scale": float}
LEAST = {"steps": 1, "resolution": 1, "number": 1, "inner": 1}  # of all else 0
MOST = 2**64  # a seed has 64 bits; of all else there is less


@dataclass(frozen=True, kw_only=True)
class Job:
    """One picture to be edited."""

    input: Path
    output: Path
    instruction: str
    settings: dict = field(default_factory=dict)
    """what a table's line says beside that: seed, text_scale, image_scale"""


def plan(given: str, instruction: str | None, output: str) -> list[Job]:
    """The jobs, each checked: pictures can be read, outputs written, none in the place of another.

    Raises ValueError (ImageError for a picture), naming a table's line.
    """
    source, target = Path(given), Path(output)
    if source.suffix.lower() in (".jsonl", ".ndjson") and source.is_file():
        jobs = _table(source, instruction, target)
    else:
        if instruction is None:
            raise ValueError('missing --edit "an instruction"; only the lines of a table (.jsonl) may bring their own')
        jobs = _pictures(given, instruction, target)
    jobs = _apart(jobs)
    inputs = {job.input.resolve() for job in jobs}
    for job in jobs:
        check_writable(job.output)
        if job.output.resolve() in inputs:
            raise ValueError(f"output {job.output} is an input; choose another place, so that nothing is lost")
    return jobs


def _pictures(given: str, instruction: str, target: Path) -> list[Job]:
    source = Path(given)
    if source.is_dir():
        inputs = sorted(path for path in source.iterdir() if path.suffix.lower() in PICTURES and path.is_file())
        if not inputs:
            raise ValueError(f"input {given}: no pictures in this folder ({', '.join(PICTURES)})")
    elif not source.exists() and glob.has_magic(given):
        inputs = sorted(path for path in map(Path, glob.glob(given, recursive=True)) if path.is_file())
        if not inputs:
            raise ValueError(f"input {given}: no file matches")
    else:
        inputs = [source]
    for path in inputs:
        _check_readable(path)
    if inputs == [source] and not target.is_dir():
        check_format(target)
        return [Job(input=source, output=target, instruction=instruction)]
    _check_folder(target)
    return [Job(input=path, output=target / f"{path.stem}.png", instruction=instruction) for path in inputs]


def _check_folder(target: Path) -> None:
    if target.is_file() or (not target.exists() and target.suffix.lower() in FORMATS):
        raise ValueError(f"output {target}: several pictures need a folder, not a file")


def _table(table: Path, instruction: str | None, target: Path) -> list[Job]:
    _check_folder(target)
    try:
        lines = table.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise ValueError(f"{table} is not a text in UTF-8") from None
    jobs = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                jobs.append(_row(line, table.parent, instruction, target))
            except ValueError as error:
                raise ValueError(f"{table}, line {number}: {error}") from None
    if not jobs:
        raise ValueError(f'{table} is empty; expected lines like {{"input": "photo.jpg", "edit": "make it night"}}')
    return jobs


def _row(line: str, folder: Path, instruction: str | None, target: Path) -> Job:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(row, dict):
        raise ValueError('expected an object like {"input": "photo.jpg", "edit": "make it night"}')
    if unknown := sorted(set(row) - set(KINDS)):
        raise ValueError(f"unknown name {unknown[0]!r}; there are {', '.join(KINDS)}")
    row = {"edit": instruction} | row
    for name in ("input", "edit"):
        if row.get(name) is None:
            raise ValueError(f"{name!r} is missing")
    for name, value in row.items():
        _check_value(name, value)
    path = folder / row.pop("input")
    output = row.pop("output", None)
    job = Job(input=path, output=target / (output or f"{path.stem}.png"), instruction=row.pop("edit"), settings=row)
    check_format(job.output)
    _check_readable(path)
    return job


def _check_value(name: str, value) -> None:
    fits = isinstance(value, (int, float) if KINDS[name] is float else KINDS[name]) and not isinstance(value, bool)
    if not fits:
        expected = {str: "a text", int: "a whole number", float: "a number"}[KINDS[name]]
        raise ValueError(f"{name!r} is {json.dumps(value)}; expected {expected}")
    if KINDS[name] is not str:
        check_number(name, value)


def check_number(name: str, value: float | None) -> None:
    """Raises ValueError for a number out of its range. None, the model's own, is fine."""
    least = LEAST.get(name, 0)
    if value is not None and not least <= value < MOST:
        raise ValueError(f"{name.replace('_', ' ')} {value}: expected a number of at least {least}, below 2^64")


def _apart(jobs: list[Job]) -> list[Job]:
    """Outputs that would fall together are numbered: photo-1.png, photo-2.png."""
    count, number = Counter(job.output for job in jobs), Counter()
    for i, job in enumerate(jobs):
        if count[job.output] > 1:
            number[job.output] += 1
            jobs[i] = replace(job, output=job.output.with_stem(f"{job.output.stem}-{number[job.output]}"))
    if clash := [output for output, n in Counter(job.output for job in jobs).items() if n > 1]:
        raise ValueError(f"output {clash[0]} is named for several pictures; choose other names")
    return jobs


def _check_readable(path: Path) -> None:
    from ..data.images import open_image  # here: it waits for torch, and help should not

    open_image(path)
