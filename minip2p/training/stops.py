"""Being asked to stop: SIGTERM, as schedulers send it, and Ctrl-C."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Stopped(Exception):
    """A run that was asked to stop has, with its state on disk. The command exits as the signal would have it."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.status = 128 + number


class Stops:
    """Whether this process was asked, and by which signal."""

    signal = signal.SIGTERM

    def __init__(self):
        self.asked = False

    def ask(self, number: int, frame) -> None:
        """A second Ctrl-C does not wait."""
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked, self.signal = True, signal.Signals(number)


@contextmanager
def stopping() -> Iterator[Stops]:
    """Within, these signals are only noted. In a thread, where no handlers can be set, they act as before."""
    stops, before = Stops(), {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, stops.ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stops
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
