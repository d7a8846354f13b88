"""Requests to stop: SIGTERM, as job schedulers send it, and Ctrl-C."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Stopped(Exception):
    """A run has stopped as requested, with its state on disk. `status` is the exit status of the command."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.status = 128 + number


class Stops:
    """Whether this process was asked to stop, and by which signal."""

    def __init__(self):
        self.asked, self.number = False, signal.SIGTERM

    def ask(self, number: int, frame) -> None:
        """A second Ctrl-C stops at once."""
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked, self.number = True, signal.Signals(number)


@contextmanager
def catch_signals() -> Iterator[Stops]:
    """Within, these signals are only noted. In a thread other than the main one they act as usual."""
    stops, before = Stops(), {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, stops.ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stops
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
