"""Instructions on disk: a file for every block of captions, which are joined when all of them exist.

    prompts.jsonl.parts/        during the work: run.json, and 000012.jsonl for every finished block
    prompts.jsonl               one accepted instruction per line, in the order of the captions
    prompts.refused.jsonl       captions with fewer instructions than requested, and the reasons
    prompts.run.json            settings and statistics

The last three are written when all blocks exist, by the process that finds them complete, with the same bytes by any.
"""

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..data.captions import distinct
from ..data.pair_files import json_lines
from ..data.tables import read_rows
from ..engines import Run, run
from ..files import FolderInUse, lock_folder, read_json, remove_unfinished, write_file
from ..pipeline import LanguageModel
from ..schema import from_dict
from ..units import Finished, Result, Work, check_same, is_complete
from .instructions import CaptionResult, Settings, blocks, complete_block


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The statistics of a run."""

    captions: int
    """without duplicates"""
    duplicates: int
    """captions that say the same as an earlier one"""
    without: int
    """captions without any instruction"""
    accepted: int
    """instructions"""
    attempts: int
    """completions that were sampled"""
    refused: dict[str, int]
    """reason -> rejected completions (or captions, before any attempt), the most common first"""

    @property
    def rate(self) -> float:
        """Accepted instructions per completion; NaN without completions."""
        return self.accepted / self.attempts if self.attempts else math.nan


class Paths:
    """The files of a run. Raises ValueError unless the output ends in .jsonl."""

    def __init__(self, output: str | Path):
        self.output = Path(output)
        if self.output.suffix.lower() != ".jsonl":
            raise ValueError(f"output {output}: expected a name that ends in .jsonl")
        self.parts = self.output.with_name(f"{self.output.name}.parts")
        self.refused = self.output.with_name(f"{self.output.stem}.refused.jsonl")
        self.run = self.output.with_name(f"{self.output.stem}.run.json")

    def foreign(self) -> Path | None:
        """What would be written over and is of no run, where `output` does not exist."""
        try:
            ours = self.parts.exists() or read_json(self.run).keys() >= {"settings", "summary"}
        except ValueError:
            ours = False
        return None if ours else next((path for path in (self.run, self.refused) if path.exists()), None)

    def clean(self) -> None:
        """Remove the parts of a finished run, and what killed processes left."""
        shutil.rmtree(self.parts, ignore_errors=True)
        remove_unfinished(self.output.parent, {path.name for path in (self.refused, self.run, self.output)})


@dataclass(frozen=True, kw_only=True)
class InstructionMaker:
    """Makes the file of a block: a CaptionResult per line."""

    language_model: LanguageModel
    captions: Sequence[str]
    """all of the run, with duplicates"""
    settings: Settings

    @cached_property
    def blocks(self) -> list[Sequence[str]]:
        return blocks(distinct(self.captions), self.settings)

    @property
    def header(self) -> dict[str, Any]:
        return {
            "captions": sha256(json.dumps(list(self.captions)).encode()).hexdigest(),
            "language_model": self.language_model.fingerprint,
            "device": self.language_model.device.type,
            "dtype": str(self.language_model.dtype).removeprefix("torch."),
            **asdict(self.settings),
        }

    def make(self, name: str) -> Result:
        block = self.blocks[int(name.removesuffix(".jsonl"))]
        results = complete_block(self.language_model, block, self.settings)
        accepted, attempts = sum(len(each.lines) for each in results), sum(each.attempts for each in results)
        counts = {"captions": len(block), "completions": attempts, "instructions": accepted}
        return Result(json_lines(map(asdict, results)), counts)


def make(
    captions: Sequence[str], settings: Settings, output: str | Path, load: Callable[[], InstructionMaker], **engine: Any
) -> Run:
    """Make the blocks that do not exist yet; when all of them exist, join them to `output`.

    engine: options of `engines.run`. Raises ValueError if files of another run are there.
    """
    paths, sizes = Paths(output), [len(block) for block in blocks(distinct(captions), settings)]
    names = [f"{i:06d}.jsonl" for i in range(len(sizes))]
    work = Work(folder=paths.parts, names=names, load=load)
    if paths.output.exists():
        if not paths.run.exists():
            raise ValueError(f"{paths.output} exists without {paths.run.name}; choose another output")
        settings = read_json(paths.run).get("settings")
        check_same(paths.run, settings if isinstance(settings, dict) else {}, load().header)
        paths.clean()
        return Run(total=len(names), done=len(names), units=iter(()))
    if (other := paths.foreign()) is not None:
        raise ValueError(f"{other} is a file that minip2p did not make; choose another --output")
    opened = run(work, **engine)

    def making() -> Iterator[Finished]:
        yield from opened
        with ExitStack() as stack:
            try:
                stack.enter_context(lock_folder(paths.parts))
            except FolderInUse:  # by another shard: the last one joins them
                return
            if is_complete(work):
                _join(paths, dict(zip(names, sizes, strict=True)), len(captions))

    return replace(opened, units=making())


def write(
    language_model: LanguageModel, captions: Sequence[str], output: str | Path, settings: Settings = Settings()
) -> Summary:
    """All of `make` in this process, with a progress bar."""
    load = partial(InstructionMaker, language_model=language_model, captions=captions, settings=settings)
    made = make(captions, settings, output, load)
    for _ in tqdm(made, "instructions", total=made.total, initial=made.done, unit="unit", leave=False):
        pass
    return read_summary(output)


def read_summary(output: str | Path) -> Summary | None:
    """The statistics of a finished run; None while it is not finished."""
    paths = Paths(output)
    if not paths.output.exists():
        return None
    return from_dict(Summary, read_json(paths.run).get("summary"), f"{paths.run}, summary")


def _join(paths: Paths, sizes: dict[str, int], given: int) -> None:
    """Write the output and what goes beside it, then remove the parts. The output comes last."""
    try:
        results = [each for name, size in sizes.items() for each in _read_part(paths.parts / name, size)]
        settings = read_json(paths.parts / "run.json")
    except ValueError:
        if paths.output.exists():  # another process has joined them
            return
        raise
    reasons = Counter(reason for each in results for reason in each.reasons)
    lines = [line for each in results for line in each.lines]
    summary = Summary(
        captions=len(results),
        duplicates=given - len(results),
        without=sum(not each.lines for each in results),
        accepted=len(lines),
        attempts=sum(each.attempts for each in results),
        refused=dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
    )
    short = [
        {"input": each.input, "accepted": len(each.lines), "attempts": each.attempts, "reasons": each.reasons}
        for each in results
        if len(each.lines) < settings["per_caption"]
    ]
    about = [{"settings": settings, "summary": asdict(summary)}]
    for path, rows in ((paths.run, about), (paths.refused, short), (paths.output, lines)):
        write_file(path, json_lines(rows))
    paths.clean()


def _read_part(path: Path, size: int) -> list[CaptionResult]:
    try:
        results = [from_dict(CaptionResult, row) for _, row in read_rows(path)]
    except ValueError:
        results = []
    if len(results) != size:
        raise ValueError(f"{path} is damaged; remove it, and the same call makes it again")
    return results
