"""Instructions on disk: blocks of captions that are done, joined into one file once all are. For `prompts.jsonl`:

    prompts.jsonl.parts/        while there is work: run.json, and 000012.jsonl for each block that is done
    prompts.jsonl               what was accepted, a line each, in the captions' order; it is there once all is done
    prompts.refused.jsonl       captions that gave fewer instructions than were asked for, and why
    prompts.run.json            the settings, and what came of them in numbers

All files are written under another name and renamed: killed at any moment, a run loses the blocks in work.
"""

import json
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..checkpoints.mapped import read_json, replace_file
from ..data.captions import distinct
from .claims import Claims, own_first
from .units import to_json
from .write import Settings, Written, cut, write_block

if TYPE_CHECKING:
    from ..pipeline.writer import Writer


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A run in numbers."""

    captions: int
    """that were worked on"""
    duplicates: int
    """that were not, since an earlier caption says the same"""
    without: int
    """captions that gave no instruction"""
    accepted: int
    """instructions"""
    attempts: int
    """completions that were sampled"""
    refused: dict[str, int]
    """reason -> how many completions, or captions before any, fell to it; the commonest first"""

    @property
    def rate(self) -> float:
        """Of the attempts, how many were accepted; NaN without any."""
        return self.accepted / self.attempts if self.attempts else math.nan


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a call has come."""

    done: int
    """captions, those of earlier calls and other processes included"""
    total: int
    accepted: int = 0
    """instructions, of this call"""
    attempts: int = 0
    """likewise"""
    waiting: str = ""
    """for whom, in words"""

    def further(self, captions: Sequence[str], made: list[Written]) -> "Progress":
        """After a block, made by this call unless `made` is empty."""
        return replace(
            self, done=self.done + len(captions), accepted=self.accepted + sum(len(each.lines) for each in made),
            attempts=self.attempts + sum(each.attempts for each in made),
        )  # fmt: skip


@dataclass(frozen=True)
class Places:
    """Where a run's files are."""

    output: Path

    @property
    def parts(self) -> Path:
        return self.output.with_name(f"{self.output.name}.parts")

    @property
    def refused(self) -> Path:
        return self.output.with_name(f"{self.output.stem}.refused.jsonl")

    @property
    def run(self) -> Path:
        return self.output.with_name(f"{self.output.stem}.run.json")

    def part(self, block: int) -> Path:
        return self.parts / f"{block:06d}.jsonl"


def write(
    writer: "Writer", captions: Sequence[str], output: str | Path, settings: Settings = Settings(), *,
    shard: tuple[int, int] = (0, 1), patience: float = 600.0, show: Callable[[Progress], None] = lambda _: None,
) -> Summary:
    """Write `output` and what goes beside it, or what of it is not done yet: after a stop, the same call goes on.

    Any number of processes may work on one output. shard (i, n), i from 0: blocks i, i + n, ... first, then what the
    others left. It ends when all is done: what another has in work is waited for, and taken over when its claim has
    grown stale (`claims.Claims`, `patience` in seconds).

    Raises ValueError where the files there are another run's, OSError that names a file that cannot be written.
    """
    if Path(output).suffix.lower() != ".jsonl":
        raise ValueError(f"output {output}: expected a name that ends in .jsonl")
    at, blocks = Places(Path(output)), cut(distinct(captions), settings)
    run = run_settings(writer, captions, settings)
    if finished(at, run):
        return _tidy(at)
    claims = Claims(at.parts, patience)
    settings = _enter(at, run, settings, claims)
    run |= {"threads": settings.threads}
    left = own_first(range(len(blocks)), shard)
    progress = Progress(done=0, total=sum(map(len, blocks)))
    while left and not at.output.exists():
        for block in left:
            made = _one(writer, blocks[block], settings, at, block, claims)
            if at.part(block).exists():
                progress = progress.further(blocks[block], made)
                show(progress)
        left = [block for block in left if not at.part(block).exists()]
        if left:
            name = at.part(left[0]).name
            show(replace(progress, waiting=f"waiting for {name}, which {claims.holder(name)} has in work"))
            time.sleep(min(1.0, patience))
    show(replace(progress, done=progress.total))
    return _joined(at, run, [len(block) for block in blocks], len(captions), claims)


def _one(
    writer: "Writer", captions: Sequence[str], settings: Settings, at: Places, block: int, claims: Claims
) -> list[Written]:
    """A block that was made and kept here; nothing where it is there, or in work elsewhere."""
    part = at.part(block)
    if part.exists():
        return []
    with claims.claimed(part.name) as mine:
        if not mine or part.exists() or at.output.exists():  # done between the two looks, or even joined
            return []
        made = write_block(writer, captions, settings, lambda: claims.touch(part.name))
        _put(part, map(asdict, made))
    return made


def run_settings(writer: "Writer", captions: Sequence[str], settings: Settings) -> dict[str, Any]:
    """All that decides the bytes of a run, as JSON has it. Rounding depends on device, dtype and the CPU's threads."""
    words = sorted(set(settings.refuse))
    return {
        "captions": _digest(list(captions)), "writer": writer.fingerprint, "device": writer.device.type,
        "dtype": str(writer.dtype).removeprefix("torch."), **asdict(settings),
        "refuse": _digest(words) if words else None,
    }  # fmt: skip


def finished(at: Places, run: dict[str, Any]) -> bool:
    """Whether the output is there, of this very run. Raises ValueError where it is another's."""
    if not at.output.exists():
        return False
    if not at.run.exists():
        raise ValueError(f"{at.output} exists, and no {at.run.name} that says of what; choose another output")
    _check_same(at.output, read_json(at.run).get("settings"), run)
    return True


def _enter(at: Places, run: dict[str, Any], settings: Settings, claims: Claims) -> Settings:
    """Begin a run, or go on with the one that is there; the settings, with the run's number of threads."""
    stored = at.parts / "run.json"
    while not stored.exists():  # whoever comes first decides
        with claims.claimed(stored.name) as mine:
            if mine and not stored.exists():
                _put(stored, [run | {"threads": settings.threads or torch.get_num_threads()}])
        time.sleep(0 if mine else 0.1)
    there = read_json(stored)
    _check_same(at.parts, there, run)
    return replace(settings, threads=there["threads"])


def _check_same(path: Path, there: Any, run: dict[str, Any]) -> None:
    """Raises ValueError that names the first difference. Threads that are not said are those that are there."""
    there = there if isinstance(there, dict) else {}
    ours = run | {"threads": run["threads"] or there.get("threads")}
    other = next((name for name in {**ours, **there} if there.get(name) != ours.get(name)), None)
    if other is None:
        return
    was, now = json.dumps(there.get(other)), json.dumps(ours.get(other))
    said = {"captions": "of other captions", "writer": "of another writer", "refuse": "with other words to refuse"}
    what = said.get(other, f"with {other.replace('_', ' ')} {was}, not {now}")
    raise ValueError(f"{path} is of a run {what}; give the same as then, choose another output, or remove {path}")


def _joined(at: Places, run: dict[str, Any], sizes: list[int], given: int, claims: Claims) -> Summary:
    """The files of a run whose blocks are all done, made here or by another. The output comes last."""
    while not at.output.exists():
        with claims.claimed("join") as mine:
            if mine and not at.output.exists():
                _join(at, run, sizes, given)
        time.sleep(0 if mine else 0.1)
    return _tidy(at)


def _join(at: Places, run: dict[str, Any], sizes: list[int], given: int) -> None:
    count = Counter(captions=0, without=0, accepted=0, attempts=0)
    reasons: Counter[str] = Counter()
    short: list[dict[str, Any]] = []

    def lines() -> Iterator[dict[str, Any]]:
        for each in _read_parts(at, sizes):
            n = len(each.lines)
            count.update(captions=1, without=not n, accepted=n, attempts=each.attempts)
            reasons.update(each.reasons)
            if n < run["per_caption"]:
                short.append({"input": each.input, "accepted": n, "attempts": each.attempts, "reasons": each.reasons})
            yield from each.lines

    whole = {path: at.parts / f"joined.{path.name}" for path in (at.refused, at.run, at.output)}
    _put(whole[at.output], lines())
    common = dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
    summary = Summary(**count, duplicates=given - count["captions"], refused=common)
    _put(whole[at.refused], short)
    _put(whole[at.run], [{"settings": run, "summary": asdict(summary)}])
    for path, joined in whole.items():  # all is written by now, among the parts: a stop leaves nothing elsewhere
        os.replace(joined, path)


def _read_parts(at: Places, sizes: list[int]) -> Iterator[Written]:
    for i, size in enumerate(sizes):
        try:
            made = [Written(**json.loads(line)) for line in at.part(i).read_text(encoding="utf-8").split("\n")[:-1]]
        except (ValueError, TypeError):
            made = []
        if len(made) != size:
            raise ValueError(f"{at.part(i)} is damaged; remove it, and the same call makes it again")
        yield from made


def _tidy(at: Places) -> Summary:
    """Of a finished run: the summary, and no parts."""
    shutil.rmtree(at.parts, ignore_errors=True)
    return Summary(**read_json(at.run)["summary"])


def _put(path: Path, rows: Iterable[Any]) -> None:
    """A JSON value a line, all of them or no file."""

    def put(temporary: Path) -> None:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{to_json(row)}\n" for row in rows)

    replace_file(path, put)


def _digest(texts: Sequence[str]) -> str:
    return sha256(json.dumps(texts).encode()).hexdigest()
