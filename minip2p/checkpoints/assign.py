"""Giving a network its weights, and widening a denoiser's input (InstructPix2Pix, section 3.2)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .files import CheckpointError, require_finite


class SkipInit(TorchFunctionMode):
    """Within, `torch.nn.init` leaves tensors as they are."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


@contextmanager
def on_meta() -> Iterator[None]:
    """Modules that are built within have shapes and no weights, for `assign`.

    Random weights are skipped: on "meta", normal_ first imports torch._dynamo, which takes 2 seconds.
    """
    with torch.device("meta"), SkipInit():
        yield


def assign(
    module: nn.Module,
    tensors: dict[str, Tensor],
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    source: str | Path,
    names: dict[str, str] | None = None,
) -> None:
    """Give a module that was built on "meta" its weights, one by one, so that one at a time exists twice.

    `dtype=None` keeps the file's. A weight that needs no conversion stays a view of the mapped file. Strict: raises one
    CheckpointError that names `source`, missing and unknown tensors and differing shapes, or a tensor that is not
    finite; `names` maps our names to the file's, for that message.
    """
    wanted = dict(module.named_parameters()) | dict(_kept_buffers(module))
    _check(wanted, tensors, source, names or {})
    for name, old in wanted.items():
        owner, _, leaf = name.rpartition(".")
        owner = module.get_submodule(owner)
        require_finite(tensors[name], (names or {}).get(name, name), source, dtype)
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
    types = [
        f"{called(name)} is {tensors[name].dtype}"
        for name in wanted
        if name in tensors and tensors[name].is_floating_point() != wanted[name].is_floating_point()
    ]
    shapes = [
        f"{called(name)} is {tuple(tensors[name].shape)}, in the network {tuple(wanted[name].shape)}"
        for name in wanted
        if name in tensors and tensors[name].shape != wanted[name].shape
    ]
    faults = [
        f"{len(items)} {what}: {', '.join(items[:3])}{', …' if len(items) > 3 else ''}"
        for what, items in (
            ("missing", missing),
            ("unknown to the network", extra),
            ("of another shape", shapes),
            ("of another type", types),
        )
        if items
    ]
    if faults:
        raise CheckpointError(f"{source}: its weights do not fit the network: {'; '.join(faults)}")


def widen(tensors: dict[str, Tensor], in_channels: int = 8) -> dict[str, Tensor]:
    """A denoiser's tensors (our names) with `in_channels` inputs: the new ones have weight zero, the bias is unchanged.

    The output does not depend on the new channels. The other tensors are shared, not copied. Raises ValueError unless
    the inputs double: a denoiser that has others beside the noisy latent (depth, a mask) cannot be made an editor so.
    """
    weight = tensors["conv_in.weight"]
    if 2 * weight.shape[1] != in_channels:
        raise ValueError(
            f"the denoiser has {weight.shape[1]} input channels; expected half of {in_channels} to widen it"
        )
    wide = torch.zeros(weight.shape[0], in_channels, *weight.shape[2:], dtype=weight.dtype, device=weight.device)
    wide[:, : weight.shape[1]] = weight.detach()
    return tensors | {"conv_in.weight": wide}
