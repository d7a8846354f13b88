"""One computation at a time, with previews, that stops when nobody wants its result any more."""

import time
import warnings
from collections.abc import Callable, Generator
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any, NamedTuple, TypeVar

from PIL import Image

from ..data.images import from_tensor
from ..pipeline import Pipeline, Progress

T = TypeVar("T")
BUSY = Lock()
"""held while a computation runs: two at once would take twice the memory, and each more than twice the time"""
PREVIEWS = 8
"""of a run; each costs a call of the decoder"""
INTERVAL = 0.5
"""seconds, after which progress is shown without a preview"""


class Preview(NamedTuple):
    """How far a computation is."""

    done: int
    total: int
    images: list[Image.Image]
    """the denoised prediction, D(z, sigma), decoded: what the image would be if the rest of the noise were just taken
    away; empty between previews"""
    note: str = ""
    """what the user may not expect, e.g. that a text was cut; the last ones have it"""


class _Stopped(Exception):
    """Raised in the sampler's loop when the result is not wanted any more."""


def compute(
    pipe: Pipeline, work: Callable[[Callable[[Progress], None]], T], images: int = 1
) -> Generator[Preview, None, T]:
    """Previews while `work(on_step)` runs in a thread; the generator returns its result, or raises its error.

    To close the generator stops the computation before its next step; it is closed when that has ended.
    images: how many of a batch a preview shows.
    """
    news: SimpleQueue[Any] = SimpleQueue()
    unwanted = Event()

    def run() -> None:
        try:
            with BUSY, warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                result = work(_reporting(pipe, news, unwanted, images))
            ours = [str(each.message) for each in caught if each.category.__module__.startswith("minip2p.")]
            news.put((result, None, list(dict.fromkeys(ours))))
        except _Stopped:
            pass
        except BaseException as error:
            news.put((None, error, []))

    thread = Thread(target=run, daemon=True)
    thread.start()
    try:
        while isinstance(each := news.get(), Preview):
            yield each
    finally:
        unwanted.set()
        thread.join()
    result, error, notes = each
    if error is not None:
        raise error
    for note in notes:
        yield Preview(1, 1, [], note)
    return result


def _reporting(pipe: Pipeline, news: SimpleQueue, unwanted: Event, images: int) -> Callable[[Progress], None]:
    """The `on_step` that sends previews and stops what is unwanted."""
    last = 0.0

    def on_step(progress: Progress) -> None:
        nonlocal last
        if unwanted.is_set():
            raise _Stopped
        shown = progress.done % max(1, progress.total // PREVIEWS) == 0
        if shown or time.monotonic() - last > INTERVAL:
            decoded = pipe.decode(progress.step.denoised[:images]) if shown else ()
            news.put(Preview(progress.done, progress.total, [from_tensor(x, truncate=True) for x in decoded]))
            last = time.monotonic()

    return on_step
