"""What the verbs that make many units (instructions, pairs, precompute) share: engines and progress."""

import os
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from .arguments import optional
from .printing import say

if TYPE_CHECKING:
    from ..engines import Run


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Where the work runs."""

    engine: Literal["local", "ray"] = "local"
    """local: in this process; ray: on the cluster at RAY_ADDRESS, whose machines must share the files, or else on this
    machine, with one worker per GPU, or per CPU if there is no GPU (pip install ray)"""
    workers: Annotated[int | None, optional("INT", "(default: one per GPU or CPU)")] = None
    """number of Ray workers"""
    shard: Annotated[str | None, optional("I/N", "(default: all)")] = None
    """do only part I of N, from 1/N to N/N, as in a job array; processes of torchrun divide the work in the same way"""

    def for_run(self, device: str) -> dict[str, Any]:
        """The options of `engines.run`."""
        from ..engines import parse_shard

        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers {self.workers}: expected at least 1")
        shard = parse_shard(self.shard)
        return {"engine": self.engine, "shard": shard, "workers": self.workers, "gpu": device != "cpu"}


def show_progress(run: "Run", place: Path) -> None:
    """Make the units with a progress bar, then print one line about them."""
    from tqdm import tqdm

    counts, started = Counter(), time.perf_counter()

    def in_words() -> str:
        return ", ".join(f"{n:,} {name}" for name, n in counts.items())

    with tqdm(
        total=run.total,
        initial=run.done,
        unit="unit",
        mininterval=0.1 if sys.stderr.isatty() else 10.0,  # few lines in a log
        dynamic_ncols=True,
        **({"disable": True} if int(os.environ.get("RANK", 0)) > 0 else {}),  # one bar under torchrun
    ) as bar:
        for unit in run:
            counts.update(unit.counts)
            bar.set_postfix_str(in_words(), refresh=False)
            bar.update()
            for note in unit.notes:
                say(note, error=True)
    seconds = time.perf_counter() - started
    before = f"; {run.done} of {run.total} units were finished before" if run.done else ""
    rates = "".join(f" ({n / seconds:.3g} {name}/s)" for name, n in list(counts.items())[:1])
    say(f"{place}: {in_words() or 'nothing to do'} in {seconds:.1f} s{rates}{before}")
