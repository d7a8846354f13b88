"""Inversions as files: finished ones, and the state of one that is under way."""

import json
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.files import CheckpointError, Weights, open_weights, write_safetensors
from ..control.inversion import Inversion
from ..files import parse_json
from ..schema import AtLeast0, Name, SamplingSteps, checked, from_dict

KIND = "minip2p inversion"


@checked
class InversionWords:
    """What the header of an inversion's file says."""

    prompt: str
    steps: SamplingSteps
    spacing: Name
    sigmas: tuple[AtLeast0, ...]
    scale: float | None = None
    method: Name = "ddim"

    def __post_init__(self):
        if len(self.sigmas) != self.steps + 1 or list(self.sigmas) != sorted(self.sigmas, reverse=True):
            raise ValueError(f"sigmas of {len(self.sigmas)} levels: expected {self.steps + 1} that fall")


@dataclass(frozen=True, kw_only=True)
class InversionState:
    """How far the inversion of one picture has come. Tensors are on the CPU."""

    path: Tensor | None = None
    """once DDIM inversion is done: the latents at each noise level, falling, (n + 1, c, y, x)"""
    z: Tensor | None = None
    """the latents (c, y, x) after the last step for which a null text was found"""
    nulls: tuple[Tensor, ...] = ()
    """the null texts (m, d) found so far"""
    inversion: Inversion | None = None
    """the finished inversion"""

    @property
    def done(self) -> int:
        return len(self.nulls)


def save_inversion(inversion: Inversion, path: str | Path) -> None:
    """Write an inversion as one safetensors file, atomically."""
    _write(Path(path), inversion, {})


def load_inversion(path: str | Path) -> Inversion:
    """Read an inversion that `save_inversion` or `invert(state=...)` wrote.

    Raises ValueError in one line for any other file and for an inversion that is not finished.
    """
    weights = _read(Path(path))
    if "inversion" not in weights.metadata:
        raise ValueError(f"{path}: this inversion is not finished; run it again with this file as its state")
    return _inversion(Path(path), weights)


def save_state(path: Path, state: InversionState, key: dict) -> None:
    """Write the state, under the key that says which inversion it is of."""
    if state.inversion is not None:
        return _write(path, state.inversion, {"key": json.dumps(key)})
    assert state.path is not None  # there is nothing to write before
    tensors = {"path": state.path}
    if state.z is not None:
        tensors |= {"z": state.z, "nulls": torch.stack(state.nulls)}
    write_safetensors(path, tensors, {"kind": KIND, "key": json.dumps(key)})


def load_state(path: Path, key: dict) -> InversionState:
    """The state in a file, an empty one if there is no file. Raises ValueError for the file of another inversion."""
    if not path.exists():
        return InversionState()
    weights = _read(path)
    theirs = parse_json(weights.metadata.get("key", "{}"), str(path), CheckpointError)
    if theirs != key:
        differ = [name for name in key if theirs.get(name) != key[name]]
        shown = ", ".join(
            f"{name} {theirs[name]!r}, not {key[name]!r}"
            if name in theirs and name not in ("picture", "weights")
            else f"another {name}"
            for name in differ
        )
        raise ValueError(f"{path} holds another inversion ({shown}); give another state file, or remove this one")
    if "inversion" in weights.metadata:
        return InversionState(inversion=_inversion(path, weights))
    tensors = {name: tensor.clone() for name, tensor in weights.tensors.items()}
    if "path" not in tensors or ("z" in tensors) != ("nulls" in tensors):
        raise CheckpointError(f"{path}: damaged: an inversion that lacks some of its tensors")
    return InversionState(path=tensors["path"], z=tensors.get("z"), nulls=tuple(tensors.get("nulls", ())))


def _write(path: Path, inversion: Inversion, metadata: dict[str, str]) -> None:
    words = json.dumps({each.name: getattr(inversion, each.name) for each in fields(InversionWords)})
    tensors = {"z": inversion.z} | ({} if inversion.nulls is None else {"nulls": inversion.nulls})
    write_safetensors(path, tensors, {"kind": KIND, "inversion": words} | metadata)


def _inversion(path: Path, weights: Weights) -> Inversion:
    words = from_dict(InversionWords, parse_json(weights.metadata["inversion"], str(path)), str(path))
    tensors = {name: tensor.clone() for name, tensor in weights.tensors.items()}  # not views of the mapped file
    z, nulls = tensors.get("z"), tensors.get("nulls")
    if z is None or z.ndim != 3 or (nulls is not None and (nulls.ndim != 3 or len(nulls) not in (1, words.steps))):
        raise CheckpointError(f"{path}: damaged: an inversion that lacks some of its tensors")
    return Inversion(z=z, nulls=nulls, **vars(words))


def _read(path: Path) -> Weights:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    weights = open_weights(path)
    if weights.metadata.get("kind") != KIND:
        raise CheckpointError(f"{path}: not an inversion; expected a file that `invert` wrote")
    return weights
