"""The exponential moving average of the weights, which is what training leaves behind."""

import copy

import torch
from torch import nn


class EMA:
    """Keeps `module`, a copy whose weights follow the model's by a decay of min(decay, (1 + n) / (10 + n)).

    Weights that are not trained are the model's own: no copy of them is made.
    """

    def __init__(self, model: nn.Module, decay: float):
        frozen = {id(weight): weight for weight in model.parameters() if not weight.requires_grad}
        self.module = copy.deepcopy(model, frozen).requires_grad_(False).eval()
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        pairs = zip(self.module.parameters(), model.parameters(), strict=True)
        averages, weights = zip(*(pair for pair in pairs if pair[0] is not pair[1]))
        torch._foreach_lerp_(averages, weights, 1 - decay)
