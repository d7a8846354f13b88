"""The denoiser as sampling calls it where Python is too slow for it: compiled, and on CUDA replayed as a graph.

A GPU waits while Python launches the thousand kernels of a UNet one by one. A CUDA graph keeps the launches of a call
and repeats all of them at once. Kernels and numbers are the same, so results are those of the network itself bit for
bit; a compiled network has other kernels, which round otherwise.

Both take calls without gradients, and without control or with Share's, which only permutes q and k. Other calls, which
may look at every attention, run the network as it is; so do all where recording or compiling fails, after one warning.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..control.share import SelfAttentionInjection

MOST_GRAPHS = 8
"""shapes that are kept; the one that was used least recently is given up"""
WARM_UP = 3
"""calls before recording, in which CUDA's libraries choose kernels and take their memory"""
COMPILING = (
    "the denoiser is compiled at its first step, about {} for Stable Diffusion's, and again for another size; "
    "PyTorch keeps what it compiled (TORCHINDUCTOR_CACHE_DIR), so that the next process waits less"
)
Call = Callable[..., Tensor]
"""(x, t, text, control=()) -> prediction, as a network of `models.denoisers`"""
Replay = Callable[[], Any]
"""() -> None: computes the recorded output anew, from what the recorded inputs hold by then"""
Record = Callable[[Callable[[], Tensor]], tuple[Tensor, Replay]]
"""a call without arguments -> (its output, its replay)"""


class SpeedWarning(UserWarning):
    """Something that was asked for speed cannot be had here."""


def fast(network: nn.Module, *, graphs: bool, compile: bool) -> Call:
    """The network as sampling calls it; itself where there is nothing to gain.

    Raises ValueError where this machine cannot compile.
    """
    device = next(network.parameters()).device
    call: Call = network
    if compile:
        check_compiler(device)
        call = Compiled(network)
    return Graphed(call, network, CUDARecorder(device)) if graphs and device.type == "cuda" else call


def is_fixed(control: Sequence[Any]) -> bool:
    """Whether a call with this control runs the same kernels every time, on other numbers."""
    plain = not torch.is_grad_enabled() and not torch.is_autocast_enabled()  # whose copies of weights may grow old
    return plain and all(type(each) is SelfAttentionInjection for each in control)


# CUDA graphs


class CUDARecorder:
    """Records what a call launches on a CUDA device. All its graphs share their memory: only one runs at a time, and
    whoever replays one copies the output before the next."""

    def __init__(self, device: torch.device):
        self.device = device
        self.pool: Any = None

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Tensor, Replay]:
        with torch.cuda.device(self.device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    run()
            torch.cuda.current_stream().wait_stream(stream)
            self.pool = self.pool or torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            # thread_local: what other threads do, e.g. those that page-lock memory for a data loader, is no error
            with torch.cuda.graph(graph, pool=self.pool, stream=stream, capture_error_mode="thread_local"):
                output = run()
            return output, graph.replay


class Recorded(NamedTuple):
    """A call: replaying it reads these inputs and writes this output."""

    inputs: tuple[Tensor, ...]
    output: Tensor
    replay: Replay


class Graphed:
    """`call`, recorded once for each shape of its inputs: (rows, size, tokens), with or without Share.

    network: whose weights the records read. record: makes a record; None once that has failed.
    """

    def __init__(self, call: Call, network: nn.Module, record: Record | None):
        self.call, self.network, self.record = call, network, record
        self.kept: OrderedDict[Hashable, Recorded] = OrderedDict()

    def __call__(self, x: Tensor, t: Tensor, text: Tensor, control: Sequence[Any] = ()) -> Tensor:
        weight = next(self.network.parameters())
        if self.record is None or not is_fixed(control) or x.device != weight.device:
            return self.call(x, t, text, control=control)
        inputs = (x, t, text, *(each.on(x.device) for each in control))
        pixels = tuple(each.pixels for each in control)
        # a record reads the weights where they were: it is of no use once they are elsewhere
        key = pixels, weight.data_ptr(), *((each.shape, each.dtype) for each in inputs)
        if key not in self.kept:
            try:
                self.kept[key] = self._recorded(inputs, pixels)
            except RuntimeError as error:  # of CUDA, which may lack memory for it
                result = self.call(x, t, text, control=control)  # raises the network's own errors
                self.record = None
                self.kept.clear()
                warnings.warn(f"no CUDA graphs: {_in_one_line(error)}; sampling is slower", SpeedWarning, stacklevel=2)
                return result
        self.kept.move_to_end(key)
        kept = self.kept[key]
        for own, given in zip(kept.inputs, inputs, strict=True):
            own.copy_(given)
        kept.replay()
        return kept.output.clone()

    def __getstate__(self) -> dict[str, Any]:
        """Without records, which belong to this process' GPU."""
        return vars(self) | {"kept": OrderedDict()}

    def _recorded(self, inputs: Sequence[Tensor], pixels: Sequence[int | None]) -> Recorded:
        assert self.record is not None
        while len(self.kept) >= MOST_GRAPHS:
            self.kept.popitem(last=False)
        with torch.inference_mode(False), torch.no_grad():
            own = tuple(each.clone() for each in inputs)
            control = tuple(SelfAttentionInjection(rows, most) for rows, most in zip(own[3:], pixels, strict=True))
            call = self.call
            return Recorded(own, *self.record(lambda: call(*own[:3], control=control)))


# Compilation


class Compiled:
    """`network`, compiled by PyTorch's inductor at the first call of each shape; on a CPU with the weights as constants
    in the layout that its kernels read fastest, beside those of the network: twice the memory."""

    def __init__(self, network: nn.Module, backend: str = "inductor"):
        self.network = network
        self.compiled: Call | None = torch.compile(network, backend=backend)

    def __call__(self, x: Tensor, t: Tensor, text: Tensor, control: Sequence[Any] = ()) -> Tensor:
        if self.compiled is None or not is_fixed(control):
            return self.network(x, t, text, control=control)
        try:
            with _weights_as_constants(x.device):
                return self.compiled(x, t, text, control=control)
        except RuntimeError as error:  # of the compiler
            result = self.network(x, t, text, control=control)  # raises the network's own errors
            self.compiled = None
            warnings.warn(f"not compiled: {_in_one_line(error)}; sampling is slower", SpeedWarning, stacklevel=2)
            return result


def _weights_as_constants(device: torch.device) -> AbstractContextManager:
    if device.type != "cpu":
        return nullcontext()
    from torch._inductor import config

    return config.patch(freezing=True)  # as an option of torch.compile it comes too late, after tracing


def check_compiler(device: torch.device) -> None:
    """Raise ValueError where PyTorch cannot compile for this device."""
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            raise ValueError(f"compile: PyTorch finds no Triton for {device}; install it, or leave compile out")
    elif device.type == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler

        try:
            get_cpp_compiler()
        except RuntimeError:
            raise ValueError(
                "compile: there is no C++ compiler; install g++, name one by CXX, or leave compile out"
            ) from None
    else:
        raise ValueError(f"compile on {device}: it is for CPUs and CUDA GPUs; leave it out")


def compiling(device: torch.device) -> str:
    """What compiling costs, as a note."""
    return COMPILING.format("70 s" if device.type == "cuda" else "2 minutes")


def _in_one_line(error: Exception) -> str:
    """The start of its message; Dynamo's own only announces the message of the compiler."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])
