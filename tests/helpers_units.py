"""Units of work that need no networks, for the tests of the engines that run them."""

import os
import random
import signal
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from minip2p.units import Result, Work

NAMES = [f"{i:04d}" for i in range(12)]
HEADER = {"steps": 2, "threads": None, "made_with": {"host": "any"}}


@dataclass
class FakeMaker:
    """Even units are folders, odd ones files. It rests in each, and can kill its process while it makes the first."""

    rest: float = 0.0
    kill_once: Path | None = None
    header: dict = None

    def __post_init__(self):
        self.header = self.header or HEADER

    def make(self, name: str) -> Result:
        time.sleep(self.rest)
        if self.kill_once and not self.kill_once.exists():
            self.kill_once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        data = random.Random(name).randbytes(3000)
        content = {"a": data, "b": data[:10]} if int(name) % 2 == 0 else data
        return Result(content, {"things": int(name)}, (f"note {name}",) if name == "0003" else ())


def work(folder: Path, names=NAMES, **how) -> Work:
    return Work(folder=folder, names=names, load=partial(FakeMaker, **how))
