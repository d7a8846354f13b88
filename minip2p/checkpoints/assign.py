"""Giving a network its weights."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from .mapped import CheckpointError


def assign(
    module: nn.Module,
    tensors: dict[str, Tensor],
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    source: str | Path,
    names: dict[str, str] | None = None,
) -> None:
    """Give a module, built on "meta", its weights one by one: each is converted, put and let go before the next.

    `dtype=None` keeps the file's. A weight that needs no change stays a view of the mapped file. Strict: raises one
    CheckpointError that names `source`, and what is missing, what is too much and which shapes differ; `names` are the
    file's names of ours.
    """
    wanted = dict(module.named_parameters()) | dict(_kept_buffers(module))
    _check(wanted, tensors, source, names or {})
    for name, old in wanted.items():
        owner, _, leaf = name.rpartition(".")
        owner = module.get_submodule(owner)
        new = tensors[name].detach().to(device=device, dtype=dtype if old.is_floating_point() else None)
        new = new if new.is_contiguous() else new.contiguous()
        if leaf in owner._parameters:
            owner._parameters[leaf] = nn.Parameter(new, requires_grad=old.requires_grad)
        else:
            owner._buffers[leaf] = new


def _kept_buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    saved = module.state_dict().keys()
    return ((name, buffer) for name, buffer in module.named_buffers() if name in saved)


def _check(wanted: dict[str, Tensor], tensors: dict[str, Tensor], source: str | Path, names: dict[str, str]) -> None:
    """Raise one CheckpointError where names or shapes differ, naming both sides."""

    def called(name: str) -> str:
        return name if names.get(name, name) == name else f"{name} (in the file {names[name]})"

    missing = [called(name) for name in wanted if name not in tensors]
    extra = [called(name) for name in tensors if name not in wanted]
    shapes = [
        f"{called(name)} is {tuple(tensors[name].shape)}, in the network {tuple(wanted[name].shape)}"
        for name in wanted
        if name in tensors and tensors[name].shape != wanted[name].shape
    ]
    faults = [
        f"{len(items)} {what}: {', '.join(items[:3])}{', …' if len(items) > 3 else ''}"
        for what, items in (("missing", missing), ("unknown to the network", extra), ("of another shape", shapes))
        if items
    ]
    if faults:
        raise CheckpointError(f"{source}: its weights do not fit the network: {'; '.join(faults)}")
