"""Who has which unit in work, where several processes share a folder and nothing else.

A claim is a file DIR/.claims/NAME that only one process can create. It is touched while the unit is in work, and
removed when it is done. Claims save work and decide nothing: units are pure and are renamed into their place, so a unit
that two processes make is only made twice.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from .units import alive, host


Job, Made = TypeVar("Job"), TypeVar("Made")


def own_first(jobs: Sequence[Job], shard: tuple[int, int]) -> list[Job]:
    """Jobs i, i + n, ... of shard (i, n), then the others', from the last on: away from where the others are."""
    i, n = shard
    others = [job for at, job in enumerate(jobs) if at % n != i]
    return [*jobs[i::n], *reversed(others)]


class Claims:
    """The claims of this process in a folder of units.

    Another's claim counts for nothing once it is untouched for `patience` seconds, or at once where its process ran on
    this host and runs no longer. Hosts whose clocks are further apart than that make some units twice.
    """

    def __init__(self, folder: Path, patience: float = 600.0):
        self.folder, self.patience, self.touched = folder / ".claims", patience, 0.0

    @contextmanager
    def claimed(self, name: str) -> Iterator[bool]:
        """Whether the unit is ours, and ours it is within."""
        mine = self._take(self.folder / name)
        try:
            yield mine
        finally:
            if mine:
                (self.folder / name).unlink(missing_ok=True)
                try:
                    self.folder.rmdir()  # the last one leaves nothing behind
                except OSError:
                    pass

    def touch(self, name: str) -> None:
        """Say that the unit is still in work. May be called as often as one likes."""
        if time.monotonic() - self.touched > min(self.patience / 20, 10):
            self.touched = time.monotonic()
            try:
                os.utime(self.folder / name)
            except FileNotFoundError:  # taken for dead, after a long stop: let it be
                pass

    def holder(self, name: str) -> str:
        """Who has the unit in work, in words."""
        read = _read(self.folder / name)
        return f"process {read['pid']} on {read['host']}" if read else "another process"

    def _take(self, path: Path) -> bool:
        for _ in range(3):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(path, "x") as file:
                    json.dump({"host": host(), "pid": os.getpid(), "time": time.time()}, file)
                return True
            except FileNotFoundError:  # another has removed the empty folder just now
                continue
            except FileExistsError:
                if not self._stale(path):
                    return False
                path.unlink(missing_ok=True)
        return False

    def _stale(self, path: Path) -> bool:
        try:
            age = time.time() - path.stat().st_mtime
        except FileNotFoundError:
            return True
        read = _read(path)
        if read is None:  # killed between creating and writing it
            return age > min(self.patience, 10)
        return age > self.patience or (read["host"] == host() and not alive(read["pid"]))


def work_through(
    claims: Claims, jobs: Sequence[tuple[str, Job]], shard: tuple[int, int], is_done: Callable[[str], bool],
    make: Callable[[str, Job], Made | None], on_wait: Callable[[str], None] | None = None,
) -> Iterator[Made]:
    """Make all units, (name, job), that are not done: own ones first; what `make` hands back of each, if it made it.

    It ends when all are there: what another has in work is waited for (`on_wait` is told in words), and taken over when
    its claim has grown stale.
    """
    left = [(name, job) for name, job in own_first(jobs, shard) if not is_done(name)]
    while left:
        for name, job in left:
            if not is_done(name):
                with claims.claimed(name) as mine:
                    if mine and not is_done(name):  # done between the two looks
                        made = make(name, job)
                        if made is not None:
                            yield made
        left = [(name, job) for name, job in left if not is_done(name)]
        if left:
            if on_wait is not None:
                on_wait(f"waiting for unit {left[0][0]}, which {claims.holder(left[0][0])} has in work")
            time.sleep(min(1.0, claims.patience))


def _read(path: Path) -> dict | None:
    """What a claim says; None where it is gone, or created and not yet written."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
