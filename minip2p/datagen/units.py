"""Made pairs on disk, in units of work: what a unit's files are called, written whole or not at all, and read back.

    DIR/run.json                    what decides the bytes of every unit
    DIR/0000012/                    all samples of prompt 12; 0000012.025-049: samples 25 to 49 of it
        prompt.json                 the prompt's row: input, edit, output, id, and what else it says
        scores.jsonl                every sample, also those of which no picture is kept
        metadata.jsonl              the candidates with the authors' keys, by direction, best first
        <seed>_0.jpg, <seed>_1.jpg  the candidates' pictures, source and edited
    DIR/0000012.tar                 the same in place of a folder, as the webdataset library reads it: members
        0000012-<seed>.source.jpg, .target.jpg, .json (the prompt's row and the scores) for each candidate, and
        __scores__/0000012.json {"prompt", "scores"}, a name that the library skips. A dot in a unit's name is "_" here.

A unit is done where it exists. While it is written it has another name, `.NAME.HOST.PID.*.part` (`part_name`).
"""

import io
import json
import os
import re
import secrets
import shutil
import socket
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FORMATS = ("folder", "webdataset")
NAME = re.compile(r"(\d{7,})(?:\.(\d{3,})-(\d{3,}))?")
PART = re.compile(r"\.(\d{7,}|run\.json|precomputed\.json)\..*\.part")
AUTHORS = ("seed", "p2p_threshold", "cfg_scale", "clip_sim_0", "clip_sim_1", "clip_sim_dir", "clip_sim_image")
"""the keys of a sample in the authors' metadata.jsonl"""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What a unit of work made."""

    name: str
    prompt: dict
    """the prompt's row: input, edit, output, id, and what else it says"""
    scores: list[dict]
    """of every sample: sample, AUTHORS, candidate (a bool)"""
    pictures: dict[int, tuple[bytes, bytes]]
    """of candidates, by seed: the files of source and edited picture"""
    picture: str = "jpg"
    """the ending of these files"""


def unit_name(prompt_id: int, samples: range | None = None) -> str:
    """"0000012", or for a part of the samples "0000012.025-049", the last one included."""
    return f"{prompt_id:07d}" + ("" if samples is None else f".{samples[0]:03d}-{samples[-1]:03d}")


def parse_name(name: str) -> tuple[int, range | None] | None:
    """The inverse of `unit_name`; None for what is no unit's name."""
    match = NAME.fullmatch(name)
    if not match:
        return None
    prompt_id, first, last = match.groups()
    return int(prompt_id), None if first is None else range(int(first), int(last) + 1)


def is_done(folder: str | Path, name: str) -> bool:
    """Whether the unit is there, as a folder or a tar."""
    folder = Path(folder)
    return (folder / name).is_dir() or (folder / f"{name}.tar").is_file()


def done_units(folder: str | Path) -> list[str]:
    """The names of all units that are done, by prompt and sample. Raises ValueError where there is no such folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; expected one that minip2p pairs wrote")
    with os.scandir(folder) as entries:
        names = {each.name.removesuffix(".tar") for each in entries if each.is_dir() or each.name.endswith(".tar")}
    found = {name: parsed for name in names if (parsed := parse_name(name))}

    def place(name: str) -> tuple[int, int]:
        prompt_id, samples = found[name]
        return prompt_id, -1 if samples is None else samples.start

    return sorted(found, key=place)


def write_unit(folder: str | Path, unit: Unit, form: str = "folder") -> bool:
    """Write a unit, all of it or nothing. False where another process was first: then its files, the same, stay.

    Raises OSError that names the unit, where the disk is full for one; nothing half written is left then.
    """
    folder = Path(folder)
    target = folder / (unit.name if form == "folder" else f"{unit.name}.tar")
    files = folder_files(unit) if form == "folder" else {target.name: tar_bytes(unit)}
    beside = folder / part_name(unit.name)
    try:
        beside.mkdir()
        for name, data in files.items():
            put(beside / name, data)
        if is_done(folder, unit.name):
            return False
        if form == "folder":
            os.rename(beside, target)
        else:
            os.replace(beside / target.name, target)
    except OSError as error:
        if is_done(folder, unit.name):  # renamed by another in between: a folder is not replaced by a rename
            return False
        raise OSError(error.errno, f"cannot be written: {error.strerror or error}".lower(), str(target)) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return True


def put(path: Path, data: bytes) -> None:
    """One file of a unit."""
    path.write_bytes(data)


def folder_files(unit: Unit) -> dict[str, bytes]:
    """The files of a unit's folder, by name."""
    best_first = sorted(unit.scores, key=lambda row: -row["clip_sim_dir"])
    chosen = [{key: row[key] for key in AUTHORS} for row in best_first if row["candidate"]]
    texts = {
        "prompt.json": to_json(unit.prompt) + "\n",
        "scores.jsonl": "".join(f"{to_json(row)}\n" for row in unit.scores),
        "metadata.jsonl": "".join(f"{to_json(row)}\n" for row in chosen),
    }
    pictures = {
        f"{seed}_{side}.{unit.picture}": data for seed, both in unit.pictures.items() for side, data in enumerate(both)
    }
    return {name: text.encode() for name, text in texts.items()} | pictures


def tar_bytes(unit: Unit) -> bytes:
    """A unit's tar: the same bytes for the same unit, so members are sorted and have neither time nor owner."""
    key = unit.name.replace(".", "_")  # webdataset takes all after the first dot for the ending
    files = {f"__scores__/{key}.json": to_json({"prompt": unit.prompt, "scores": unit.scores}).encode()}
    for row in unit.scores:
        if row["candidate"]:
            start = f"{key}-{row['seed']}"
            sides = zip(("source", "target"), unit.pictures[row["seed"]], strict=True)
            files |= {f"{start}.{side}.{unit.picture}": data for side, data in sides}
            files[f"{start}.json"] = to_json(unit.prompt | row).encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def read_unit(folder: str | Path, name: str) -> tuple[dict, list[dict]]:
    """(prompt, scores) of a unit that is done. Of the authors' own folders, which keep candidates only, these.

    Raises ValueError that names the file where it is missing or damaged.
    """
    folder = Path(folder)
    if (folder / name).is_dir():
        scores = folder / name / "scores.jsonl"
        scores = scores if scores.exists() else scores.with_name("metadata.jsonl")
        prompt, rows = _load(folder / name / "prompt.json", json.loads), _load(scores, _lines)
        own = scores.name == "scores.jsonl"
        return prompt, rows if own else [{"sample": i, **row, "candidate": True} for i, row in enumerate(rows)]
    path, key = folder / f"{name}.tar", name.replace(".", "_")
    try:
        with tarfile.open(path) as tar:
            both = json.loads(tar.extractfile(f"__scores__/{key}.json").read())
        return both["prompt"], both["scores"]
    except (tarfile.TarError, KeyError, TypeError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is damaged or no unit of minip2p pairs: {error}") from None


def read_scores(folder: str | Path) -> Iterator[tuple[str, dict, list[dict]]]:
    """(name, prompt, scores of every sample) of each unit that is done, by prompt and sample."""
    folder = Path(folder)
    for name in done_units(folder):
        yield name, *read_unit(folder, name)


def read_picture(folder: str | Path, name: str, seed: int, edited: bool = False) -> bytes:
    """The file of a candidate's picture, source or edited. Raises ValueError where there is none."""
    folder, key = Path(folder), name.replace(".", "_")
    for ending in ("jpg", "png"):
        path = folder / name / f"{seed}_{int(edited)}.{ending}"
        if path.is_file():
            return path.read_bytes()
    if (folder / f"{name}.tar").is_file():
        with tarfile.open(folder / f"{name}.tar") as tar:
            start = f"{key}-{seed}.{'target' if edited else 'source'}."
            for member in tar:
                if member.name.startswith(start):
                    return tar.extractfile(member).read()
    raise ValueError(f"{folder}, unit {name}: there is no picture of seed {seed}; pictures are kept of candidates only")


def clean(folder: Path, patience: float) -> None:
    """Remove what writers left that were killed.

    That is: of a process of this host that no longer runs, or untouched for `patience` seconds. A living process has
    such a folder for as long as it takes to write files that are made already.
    """
    with os.scandir(folder) as entries:
        parts = [Path(each.path) for each in entries if PART.fullmatch(each.name)]
    for path in parts:
        try:
            *_, name, pid, _, _ = path.name.split(".")
            dead = name == host() and not alive(int(pid))
            if dead or time.time() - path.stat().st_mtime > patience:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        except (ValueError, OSError):  # not ours, or gone by now
            pass


def part_name(name: str) -> str:
    """What is being written in place of `name` is called meanwhile: it tells by whom."""
    return f".{name}.{host()}.{os.getpid()}.{secrets.token_hex(4)}.part"


def host() -> str:
    """This machine's name, as a part of a file's name."""
    return re.sub(r"[^\w-]", "-", socket.gethostname())


def alive(pid: int) -> bool:
    """Whether a process of this number runs on this machine. Where that cannot be asked, it does."""
    if os.name == "nt":  # there, the question is a signal
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    return True


def to_json(value) -> str:
    """JSON on a line, in the letters that it is written with."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _lines(text: str) -> list:
    """A JSON value a line. Raises ValueError that tells which line is none."""
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    return rows


def _load(path: Path, parse):
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: missing") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
