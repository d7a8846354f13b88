"""A step's work as a CUDA graph: thousands of kernels by one launch, which a CPU is too slow to launch one by one."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

WARM_UP = 3
"""calls with inputs of a shape before it is recorded: they compile, make plans of kernels and the optimiser's state"""
MOST = 4
"""recordings of one work, each for inputs of other shapes"""
Work = Callable[[], Any]
Record = Callable[[Work], Work]
"""records a work without doing it -> what does it again, on the same memory, and returns the same tensors"""


class Replayed:
    """work(inputs, *fixed), recorded after a few calls and replayed from then on; the results are the same.

    inputs: a named tuple of tensors. What is replayed reads copies of them at fixed places, and the tensors that it
    returns are overwritten by the next call. fixed: numbers that are part of a recording.
    """

    def __init__(self, work: Callable[..., Any], record: Record):
        self.work, self.record = work, record
        self.calls: Counter[Any] = Counter()
        self.recorded: dict[Any, tuple[Sequence[Tensor], Work]] = {}
        self.note: str | None = None
        """why it is not recorded, once that failed"""

    def __call__(self, inputs: Any = (), *fixed: float) -> Any:
        if self.note:
            return self.work(inputs, *fixed)
        key = (*fixed, *((x.shape, x.dtype) for x in inputs))
        if key not in self.recorded:
            self.calls[key] += 1
            if self.calls[key] <= WARM_UP or not self._make(key, inputs, fixed):
                return self.work(inputs, *fixed)
        static, replay = self.recorded[key]
        for mine, given in zip(static, inputs, strict=True):
            mine.copy_(given)
        return replay()

    def _make(self, key: Any, inputs: Any, fixed: Sequence[float]) -> bool:
        """Record the work for these shapes. If it cannot be, a note says why, and nothing is recorded any more."""
        static = type(inputs)(*(x.clone() for x in inputs)) if inputs else inputs
        try:
            if len(self.recorded) == MOST:
                raise RuntimeError(f"batches have more than {MOST} shapes")
            self.recorded[key] = static, self.record(partial(self.work, static, *fixed))
        except RuntimeError as error:
            reason = (str(error).splitlines() or ["unknown"])[0]
            self.note = f"steps run kernel by kernel, not as a CUDA graph: {reason}"
            self.recorded.clear()
        return self.note is None


class CudaGraphs:
    """Records on CUDA. All that it records shares memory for what is not returned, and has a stream of its own."""

    def __init__(self, device: torch.device):
        self.device, self.stream = device, torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Work) -> Work:
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()  # the memory of the calls before: a graph has its own
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            outputs = work()

        def replay() -> Any:
            graph.replay()
            return outputs

        return replay

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """Within, everything is on the stream of recordings, as the gradients' buffers must be from the first step."""
        outer = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(outer)
        with torch.cuda.stream(self.stream):
            yield
        outer.wait_stream(self.stream)
