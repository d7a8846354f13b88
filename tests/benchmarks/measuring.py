"""What the benchmarks share: calls timed in turn, measurements made one by one within a time, and the table of them."""

import argparse
import gc
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import torch

Call = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure of the table, or a note of why there is none."""

    name: str
    value: float | None = None
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""
    failed: bool = False
    """an error, of which the note tells"""

    @property
    def good(self) -> bool:
        """Whether it is within its bounds. Without a figure, whether there was no error."""
        if self.value is None:
            return not self.failed
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )

    def cells(self) -> tuple[str, str, str, str]:
        """For the table: name, figure, bound, note."""
        figure = "" if self.value is None else f"{self.value:,.4g} {self.unit}".strip()
        signs = (("<=", self.at_most), (">=", self.at_least))
        bounds = [f"{sign} {bound:g}" for sign, bound in signs if bound is not None]
        missed = "" if self.good else "FAILED" if self.failed else "MISSED"
        return self.name, figure, " ".join(bounds), " ".join(filter(None, (missed, self.note)))


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A function that yields rows, by its name, and the seconds that it takes at its full size."""

    make: Callable[..., Iterable[Row]]
    seconds: float

    @property
    def name(self) -> str:
        return self.make.__name__


def wait() -> None:
    """For the GPU's work, where there is a GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def in_turn(calls: Mapping[str, Call], rounds: int) -> dict[str, float]:
    """Median seconds of each call. They run in turn, so that what else the machine does falls on all alike, and none is
    always first; once before, which is not measured, to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for round in range(rounds + 1):
        for name in (list(calls), list(reversed(calls)))[round % 2]:
            wait()
            start = time.perf_counter()
            calls[name]()
            wait()
            if round:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of two tensors, relative to the second, in the Euclidean norm."""
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    return float((a - b).norm() / b.norm())


def measure(measurements: Sequence[Measurement], subject: object, minutes: float) -> Iterator[Row]:
    """The rows of each measurement of the subject, printed as they come. What fails is a row with the error; what would
    not be ready within these minutes is left out."""
    end, threads = time.monotonic() + 60 * minutes, torch.get_num_threads()
    for each in measurements:
        began, rows = time.monotonic(), iter(())
        try:
            if began + each.seconds > end:
                rows = iter([Row(name=each.name, note=f"left out: {minutes:g} minutes are too few; see --minutes")])
            else:
                rows = iter(each.make(subject))
            for row in rows:
                print(f"  {' | '.join(filter(None, row.cells()))}", flush=True)
                yield row
        except Exception as error:  # one failure must not cost the other figures
            traceback.print_exc()
            row = Row(name=each.name, note=" ".join(f"{type(error).__name__}: {error}".split())[:200], failed=True)
            print(f"  {' | '.join(filter(None, row.cells()))}", flush=True)
            yield row
        print(f"{each.name}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
        torch.set_num_threads(threads)  # a command sets its own
        gc.collect()


def table(rows: Sequence[Row], machine: str) -> str:
    """The rows in Markdown, under a line about the machine."""
    lines = [("what", "figure", "bound", "note"), ("---",) * 4, *(row.cells() for row in rows)]
    return "\n".join([machine, "", *(f"| {' | '.join(line)} |" for line in lines)])


def machine() -> str:
    """Processor and GPU, their software, and the date."""
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line[:10] == "model name"]
        cpu = next(iter(names), cpu)
    parts = [f"{cpu}, {torch.get_num_threads()} of {os.cpu_count()} CPUs", f"torch {torch.__version__}"]
    if torch.cuda.is_available():
        asked, driver = "nvidia-smi --query-gpu=driver_version --format=csv,noheader".split(), ""
        if shutil.which(asked[0]):
            driver = subprocess.run(asked, capture_output=True, text=True).stdout.partition("\n")[0]
        parts = [f"{torch.cuda.get_device_name()}, driver {driver or 'unknown'}, CUDA {torch.version.cuda}", *parts]
    return ", ".join([*parts, date.today().isoformat()])


def options(doc: str, measurements: Sequence[Measurement], minutes: float) -> argparse.ArgumentParser:
    """The options that the scripts share."""
    names = [each.name for each in measurements]
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")
    parser.add_argument("--minutes", type=float, default=minutes, help="leave out what would end later (%(default)g)")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    return parser


def report(measurements: Sequence[Measurement], subject: object, given: argparse.Namespace) -> int:
    """Measure what the options ask for, print the table and write the file. 1 where a bound is missed, else 0."""
    chosen = [each for each in measurements if each.name in given.only]
    rows = list(measure(chosen, subject, given.minutes))
    print(f"\n{table(rows, about := machine())}")
    if given.json is not None:
        values = [{**asdict(row), "good": row.good} for row in rows]
        given.json.write_text(json.dumps({"machine": about, "rows": values}, indent=2) + "\n")
    return 0 if all(row.good for row in rows) else 1
