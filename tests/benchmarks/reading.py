"""What a debugger enters: the files of the package, and their lines, that one call of a verb runs through.

    python -m tests.benchmarks.reading [edit pair training]

For an edit, a pair (both by the shipped weights) and a step of the editor's training on the tiny world. Prints each
file with its lines and how many of them were executed, and the sums. Exits with 1 where a verb needs more than its
bound (`BOUNDS`). Lines are those of the whole file, since a reader opens it; loading the weights, importing modules and
building networks do not count.
"""

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
BOUNDS = {"edit": (15, 1_800), "training": (20, 2_800)}
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
    """The second step of a run: its batch, its loss, the optimiser's step, the average, a line of the log."""
    from minip2p.tinyworld.training.stages import STAGES
    from minip2p.training.stages import start

    spec = STAGES["editor"]
    config = spec.presets["tiny"]
    train = replace(config.train, steps=3, batch_size=4, log_every=1)
    with tempfile.TemporaryDirectory() as out:
        logs = start(spec, replace(config, train=train, sources=4, edits=2), Path(out))
        step = next(log.step for log in logs if log.step == 1)
        with traced() as seen:
            assert next(logs).step == step + 1
        logs.close()
    return seen


VERBS = {"edit": edit, "pair": pair, "training": training}


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
