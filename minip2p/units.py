"""Work at scale: a list of pure units, which any engine runs.

A unit has a name and gives a file or a folder. Its bytes depend only on the settings of the run and on its name. It is
written under a temporary name and then renamed, so a unit that exists is finished, and the same call resumes a run.

    DIR/run.json        the header: everything that determines the bytes of the units
    DIR/NAME            a finished unit
    DIR/.NAME.*.part    a unit whose process was killed while it wrote; the next run removes it
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from .files import read_json, write_content, write_json
from .schema import Threads, checked, from_dict


class Result(NamedTuple):
    """What a maker returns for one unit."""

    content: bytes | Mapping[str, bytes]
    """a file, or the files of a folder by name"""
    counts: Mapping[str, int]
    """numbers for the progress, such as {"pairs": 8, "passed": 3}"""
    notes: tuple[str, ...] = ()
    """messages for the user, one line each"""


class Finished(NamedTuple):
    """A unit that this call has written."""

    name: str
    counts: Mapping[str, int]
    notes: tuple[str, ...]


class Maker(Protocol):
    """Makes the units of a run; it holds the networks."""

    @property
    def header(self) -> dict[str, Any]:
        """Everything that determines the bytes, as JSON values, with "threads" (None: PyTorch's own number). Entries
        under "made_with" are recorded, but may differ between the processes of a run."""
        ...

    def make(self, name: str) -> Result: ...


@dataclass(frozen=True, kw_only=True)
class Work:
    """A list of units in one folder."""

    folder: Path
    names: Sequence[str]
    """of the files or folders of all units"""
    load: Callable[[], Maker]
    """loads the networks; called once in every process that makes units, so for Ray it must pickle"""
    header: str = "run.json"


class Worker:
    """Makes units in one process; it loads the networks when they are first needed."""

    def __init__(self, work: Work, directory: str = "."):
        self.work, self.directory = work, directory
        self.maker: Maker | None = None
        self.threads: int | None = None

    def open(self) -> None:
        """Load the networks and compare the run with the header in the folder."""
        if self.maker is None:
            os.chdir(self.directory)  # relative paths mean the same in every process
            maker = self.work.load()
            self.threads = open_header(self.work.folder / self.work.header, maker.header)
            self.maker = maker

    def make(self, name: str) -> Finished:
        """Make and write one unit; nothing is done where it exists."""
        self.open()
        path = self.work.folder / name
        if path.exists():  # a worker can die after its unit was written and before it could answer
            return Finished(name, {}, ())
        with cpu_threads(self.threads):
            result = self.maker.make(name)
        write_content(path, result.content)
        return Finished(name, result.counts, result.notes)


@checked
class RunThreads:
    """Of a run's header: on how many threads of the CPU its units are made."""

    threads: Threads | None


def is_complete(work: Work) -> bool:
    """Whether all units exist, whichever process made them."""
    return set(work.names) <= existing(work.folder)


def existing(folder: Path) -> set[str]:
    """The names in a folder; none if there is no such folder."""
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()


def open_header(path: Path, header: Mapping[str, Any]) -> int | None:
    """Write the header of a run, or compare it with the one that exists; the run's number of CPU threads.

    Raises ValueError that names the first setting that differs.
    """
    if not path.exists():
        values = {**header, "threads": header["threads"] or torch.get_num_threads()}
        try:
            write_json(path, values)
        except OSError:
            if not path.exists():  # else another process was faster
                raise
    there = read_json(path)
    check_same(path, there, header)
    return from_dict(RunThreads, {"threads": there.get("threads")}, str(path)).threads


def check_same(path: Path, there: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raise ValueError that names the first difference between a run's header and ours. Threads None fit any."""
    for key in [key for key in (*ours, *there) if key != "made_with"]:
        if there.get(key) != ours.get(key) and (key != "threads" or ours.get(key) is not None):
            was, now = (json.dumps(values.get(key), ensure_ascii=False) for values in (there, ours))
            raise ValueError(
                f"{path} belongs to a run with {key} {was:.60}, this one has {now:.60}: choose another --output, or "
                "the same settings"
            )


@contextmanager
def cpu_threads(n: int | None) -> Iterator[None]:
    """Use n CPU threads, on which the rounding depends; None leaves PyTorch's number."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if n is None else n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
