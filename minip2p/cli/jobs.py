"""What `minip2p edit` is given (a file, a folder, a glob or a table) as a list of jobs."""

import glob
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .metadata import FORMATS, check_output

INPUT_ENDINGS = (*FORMATS, ".bmp", ".gif", ".ppm", ".pgm")
"""of the images in a folder"""
FIELDS = ("input", "edit", "output", "seed", "text_scale", "image_scale")
"""of a table's lines"""
EXAMPLE = '{"input": "photo.jpg", "edit": "make it night"}'


@dataclass(frozen=True, kw_only=True)
class Job:
    """One image to edit."""

    input: Path
    output: Path
    instruction: str
    settings: dict[str, Any] = field(default_factory=dict)
    """of a table's line: seed, text_scale, image_scale"""


def plan(given: str, instruction: str | None, output: str) -> list[Job]:
    """The jobs. Raises ValueError for a table that cannot be read, and for outputs that cannot be written."""
    source, target = Path(given), Path(output)
    if source.suffix.lower() == ".jsonl" and source.is_file():
        _check_folder(target)
        jobs = _table(source, instruction, target)
    elif instruction is None:
        raise ValueError('missing --edit "an instruction"; only the lines of a table (.jsonl) may have their own')
    else:
        inputs = _find(given)
        single = inputs == [source] and not target.is_dir()
        if not single:
            _check_folder(target)
        outputs = [target if single else target / f"{path.stem}.png" for path in inputs]
        jobs = [Job(input=path, output=out, instruction=instruction) for path, out in zip(inputs, outputs)]
    jobs = _number_equal_outputs(jobs)
    inputs = {job.input.resolve() for job in jobs}
    for job in jobs:
        check_output(job.output)
        if job.output.resolve() in inputs:
            raise ValueError(f"output {job.output} is an input; choose another place, so that nothing is lost")
    return jobs


def _find(given: str) -> list[Path]:
    """The images in a folder, those that match a glob, or the one file."""
    source = Path(given)
    if source.is_dir():
        inputs = sorted(path for path in source.iterdir() if path.suffix.lower() in INPUT_ENDINGS and path.is_file())
        if not inputs:
            raise ValueError(f"input {given}: no images in this folder ({', '.join(INPUT_ENDINGS)})")
        return inputs
    if not source.exists() and glob.has_magic(given):
        inputs = sorted(path for path in map(Path, glob.glob(given, recursive=True)) if path.is_file())
        if not inputs:
            raise ValueError(f"input {given}: no file matches")
        return inputs
    return [source]


def _check_folder(target: Path) -> None:
    if target.is_file() or (not target.exists() and target.suffix.lower() in FORMATS):
        raise ValueError(f"output {target}: several images need a folder, not a file")


def _table(table: Path, instruction: str | None, target: Path) -> list[Job]:
    from ..data.captions import read_rows, text_of
    from ..pipeline.batching import check

    jobs = []
    for number, row in read_rows(table):
        row = ({} if instruction is None else {"edit": instruction}) | row
        path, text = table.parent / text_of(table, number, row, "input"), text_of(table, number, row, "edit")
        output = text_of(table, number, row, "output") if "output" in row else f"{path.stem}.png"
        settings = {name: value for name, value in row.items() if name not in ("input", "edit", "output")}
        try:
            if unknown := settings.keys() - set(FIELDS):
                raise ValueError(f"unknown name {min(unknown)!r}; there are {', '.join(FIELDS)}")
            check(**settings)
        except ValueError as error:
            raise ValueError(f"{table}, line {number}: {error}") from None
        jobs.append(Job(input=path, output=target / output, instruction=text, settings=settings))
    if not jobs:
        raise ValueError(f"{table} is empty; expected lines like {EXAMPLE}")
    return jobs


def _number_equal_outputs(jobs: list[Job]) -> list[Job]:
    """Jobs with different outputs: photo-1.png, photo-2.png where there were several photo.png."""
    count, number = Counter(job.output for job in jobs), Counter()
    for i, job in enumerate(jobs):
        if count[job.output] > 1:
            number[job.output] += 1
            jobs[i] = replace(job, output=job.output.with_stem(f"{job.output.stem}-{number[job.output]}"))
    if clash := [output for output, n in Counter(job.output for job in jobs).items() if n > 1]:
        raise ValueError(f"output {clash[0]} is named for several images; choose other names")
    return jobs
