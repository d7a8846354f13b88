"""A progress bar for a training."""

import sys
from collections.abc import Iterator

from tqdm import tqdm

from .loop import Log

SHOWN = ("loss", "items_per_s", "held_out_loss", "psnr", "correct", "accuracy", "all_correct", "valid", "consistent")
"""the figures that the progress bar shows"""


def show_progress(logs: Iterator[Log], steps: int, name: str, quiet: bool = False) -> None:
    """Run a training to its end, with a progress bar on stderr unless quiet."""
    shown: dict[str, str] = {}
    silenced = {"disable": True} if quiet else {}  # otherwise TQDM_DISABLE decides
    with tqdm(total=steps, desc=name, unit="step", dynamic_ncols=True, **silenced) as bar:
        for log in logs:
            if not log.figures:
                bar.initial = bar.n = log.step  # the speed counts this run's steps alone
            bar.update(log.step - bar.n)
            for line in log.messages:
                bar.write(line, file=sys.stderr)
            shown |= {name: f"{log.figures[name]:.4g}" for name in SHOWN if name in log.figures}
            bar.set_postfix(shown)
