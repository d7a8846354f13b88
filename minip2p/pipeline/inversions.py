"""Inversions as files: finished ones, and the state of one that is under way."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.files import CheckpointError, Weights, open_weights, write_safetensors
from ..control.inversion import Inversion

KIND = "minip2p inversion"


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
    theirs = _object(path, weights.metadata.get("key", "{}"))
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
    names = ("prompt", "steps", "spacing", "sigmas", "scale", "method")
    words = json.dumps({name: getattr(inversion, name) for name in names})
    tensors = {"z": inversion.z} | ({} if inversion.nulls is None else {"nulls": inversion.nulls})
    write_safetensors(path, tensors, {"kind": KIND, "inversion": words} | metadata)


def _inversion(path: Path, weights: Weights) -> Inversion:
    words = _object(path, weights.metadata["inversion"])
    try:
        words["sigmas"] = tuple(words["sigmas"])
        words |= {name: tensor.clone() for name, tensor in weights.tensors.items()}  # not views of the mapped file
        return Inversion(**words)
    except (TypeError, KeyError):
        raise CheckpointError(f"{path}: an inversion of another version of minip2p; make it again") from None


def _read(path: Path) -> Weights:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    weights = open_weights(path)
    if weights.metadata.get("kind") != KIND:
        raise CheckpointError(f"{path}: not an inversion; expected a file that `invert` wrote")
    return weights


def _object(path: Path, text: str) -> dict:
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: damaged: its description cannot be read")
    return values
