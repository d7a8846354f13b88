"""The exponential moving average of the weights, which is what training exports."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """Averages of the model's trained weights, with a decay of min(decay, (1 + n) / (10 + n)) after n updates.

    on_cpu: keep the averages in the CPU's memory, whatever the model's device.
    """

    def __init__(self, model: nn.Module, decay: float, on_cpu: bool = False):
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.names = [name for name, weight in model.named_parameters() if weight.requires_grad]
        self.averages: list[Tensor] = [w.detach().to("cpu" if on_cpu else w.device, copy=True) for w in self.weights]
        self.decay, self.updates, self.on_cpu = decay, 0, on_cpu

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        weights = [weight.to("cpu") for weight in self.weights] if self.on_cpu else self.weights
        torch._foreach_lerp_(self.averages, weights, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the model has the averages as its weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for average, weight in zip(self.averages, self.weights, strict=True):
            before = average.clone()
            average.copy_(weight)
            weight.copy_(before)
