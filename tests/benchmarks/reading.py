"""What a debugger enters: the files of the package, and their lines, that one call of a verb runs through.

    python -m tests.benchmarks.reading [edit pair training training-on-pairs]

For an edit, a pair (both by the shipped weights), and a step of the editor's training on the tiny world and on a set of
pairs. Prints each file with its lines and how many of them were executed, and the sums. Exits with 1 where a verb needs
more than its bound (`BOUNDS`). Lines are those of the whole file, since a reader opens it; loading the weights,
importing modules and building networks do not count.
"""

import json
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from PIL import Image

import minip2p

PACKAGE = Path(minip2p.__file__).resolve().parent
BOUNDS = {"edit": (15, 1_800), "training": (20, 2_800), "training-on-pairs": (22, 2_800)}
"""verb -> files and lines, at most"""
PAGE = 120
"""lines of `pipeline/edit.py`, at most"""


@contextmanager
def traced() -> Iterator[dict[Path, set[int]]]:
    """File of the package -> the numbers of its lines that are executed within the block, in any thread."""
    seen: dict[Path, set[int]] = {}

    def enter(frame: FrameType, event: str, arg: Any) -> Callable | None:
        file = Path(frame.f_code.co_filename)
        if not file.is_relative_to(PACKAGE):
            return None
        lines = seen.setdefault(file, set())

        def follow(frame: FrameType, event: str, arg: Any) -> Callable:
            if event == "line":
                lines.add(frame.f_lineno)
            return follow

        return follow

    threading.settrace(enter)
    sys.settrace(enter)
    try:
        yield seen
    finally:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]


def edit() -> dict[Path, set[int]]:
    pipe = minip2p.load()
    with traced() as seen:
        pipe.edit(Image.new("RGB", (64, 64), "red"), "make it night", steps=2)
    return seen


def pair() -> dict[Path, set[int]]:
    pipe = minip2p.load(minip2p.shipped("text2image"))
    with traced() as seen:
        pipe.generate_pair("a red boat by the sea", "a blue boat by the sea", steps=2)
    return seen


def training() -> dict[Path, set[int]]:
    """A step on the tiny world."""
    from minip2p.tinyworld.training.stages import STAGES

    return second_step(STAGES["editor"], sources=4, edits=2)


def training_on_pairs() -> dict[Path, set[int]]:
    """A step on a set of pairs as the paper's authors store them."""
    from minip2p.training.stages import STAGES

    with tempfile.TemporaryDirectory() as folder:
        for n in range(32):
            place = Path(folder) / f"{n:07d}"
            place.mkdir()
            (place / "prompt.json").write_text(json.dumps({"input": str(n), "edit": "make it blue", "output": "x"}))
            for name, colour in (("1_0.png", "red"), ("1_1.png", "blue")):
                Image.new("RGB", (64, 64), colour).save(place / name)
        words = {"data": (folder,), "size": 64, "resize": (64, 72), "held_out": 0, "weights": ()}
        return second_step(STAGES["editor"], minip2p.shipped("editor"), **words)


def second_step(spec: Any, *init_from: Path, **words: Any) -> dict[Path, set[int]]:
    """The second step of a run: its batch, its loss, the optimiser's step, the average, a line of the log."""
    from minip2p.training.stages import start

    (config,) = spec.presets.values()
    train = replace(config.train, steps=3, batch_size=4, micro_batch=None, workers=0, log_every=1)
    config = spec.resolve(replace(config, train=train, **words), init_from)
    with tempfile.TemporaryDirectory() as out:
        logs = start(spec, config, Path(out), init_from=init_from)
        step = next(log.step for log in logs if log.step == 1)
        with traced() as seen:
            assert next(logs).step == step + 1
        logs.close()
    return seen


VERBS = {"edit": edit, "pair": pair, "training": training, "training-on-pairs": training_on_pairs}


def report(verb: str, seen: dict[Path, set[int]]) -> bool:
    """Print the table of a verb. Whether it is within its bound."""
    rows = [(file, len(file.read_text(encoding="utf-8").splitlines()), len(lines)) for file, lines in seen.items()]
    total, executed = sum(n for _, n, _ in rows), sum(n for *_, n in rows)
    files, most = BOUNDS.get(verb, (len(rows), total))
    bound = f" (at most {files} files, {most} lines)" if verb in BOUNDS else ""
    print(f"{verb}: {len(rows)} files, {total} lines, {executed} executed{bound}")
    for file, lines, run in sorted(rows):
        print(f"  {file.relative_to(PACKAGE)!s:32} {lines:4} {run:4}")
    return len(rows) <= files and total <= most


def main() -> int:
    good = [report(verb, VERBS[verb]()) for verb in sys.argv[1:] or VERBS]
    page = len((PACKAGE / "pipeline" / "edit.py").read_text(encoding="utf-8").splitlines())
    print(f"pipeline/edit.py: {page} lines (at most {PAGE})")
    return 0 if all(good) and page <= PAGE else 1


if __name__ == "__main__":
    sys.exit(main())
