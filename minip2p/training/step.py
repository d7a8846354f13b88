"""One step of the optimiser: the gradients of its micro-batches, added up; the update of the weights; their average."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .config import TrainConfig
from .graphs import CudaGraphs, Replayed
from .precision import ComputeWeights
from .ranks import Ranks


class Loss(nn.Module):
    """A stage's loss as the forward pass of its module, as DistributedDataParallel needs it."""

    def __init__(self, stage: Any, module: nn.Module):
        super().__init__()
        self.stage, self.module = stage, module

    def forward(self, inputs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return self.stage.loss(self.module, inputs)


class Steps:
    """How the steps of a run are computed, by its settings `c` (`plan`): in which precision, compiled, as graphs."""

    def __init__(self, stage: Any, model: nn.Module, optimizer: torch.optim.Optimizer, c: TrainConfig, ranks: Ranks):
        """model: the weights that `optimizer` updates, as they are to start from; on the device."""
        self.stage, self.optimizer, self.c, self.ranks = stage, optimizer, c, ranks
        alone = ranks.world == 1 and not ranks.shard  # else the gradients are exchanged where they are computed
        self.half = ComputeWeights(model) if c.precision == "bf16" and alone else None
        module = self.half.module if self.half else model
        if c.compile:
            for network in (*module.children(), *getattr(stage, "compiled", ())):
                network.compile()
        self.loss = ranks.wrap_ddp(Loss(stage, module))
        self.record = CudaGraphs(ranks.device) if c.graph else None
        self.gradients, self.apply, self.replayed = self._gradients, self._apply, []
        if self.record:
            self.gradients, self.apply = (Replayed(work, self.record) for work in (self._gradients, self._apply))
            self.replayed = [self.gradients, self.apply]
        self.noted: set[str] = set()
        for group in optimizer.param_groups:  # those of a resumed run are as it had them
            rate = torch.zeros((), device=ranks.device) if self.record else 0.0
            group |= {"lr": rate, "capturable": self.record is not None}

    def around(self) -> contextlib.AbstractContextManager:
        """Where to run all of a step."""
        return self.record.around() if self.record else contextlib.nullcontext()

    def inputs(self, batch: Any) -> Any:
        """What the loss takes of a batch; of a stage without such a step, the batch."""
        return self.stage.inputs(batch) if hasattr(self.stage, "inputs") else batch

    def backward(self, inputs: Any, weight: float, last: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss of a micro-batch and its figures, to be read before the next call; adds `weight` times its
        gradient to those of the weights. last: of the step."""
        with self.ranks.accumulate(self.loss, last):
            return self.gradients(inputs, weight)

    def update(self, rate: float) -> None:
        """A step of the optimiser at this learning rate; the gradients are zero again."""
        for group in self.optimizer.param_groups:
            if self.record:
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        self.apply()

    def notes(self) -> list[str]:
        """Why there are no graphs, where they failed since the last call."""
        found = {each.note for each in self.replayed if each.note} - self.noted
        self.noted |= found
        return sorted(found)

    def _gradients(self, inputs: Any, weight: float) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self.c.precision == "bf16"):
            loss, figures = self.loss(inputs)
        (loss * weight).backward()
        return loss.detach(), {name: figure.detach() for name, figure in figures.items()}

    def _apply(self, none: tuple[()] = ()) -> None:
        self.optimizer.step()
        if self.half:
            self.half.refresh()
        self.optimizer.zero_grad(set_to_none=self.record is None)  # what is recorded adds to the same memory


class EMA:
    """What training exports: averages of the model's trained weights, with a decay of min(decay, (1 + n) / (10 + n))
    after n updates.

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

    @contextlib.contextmanager
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
