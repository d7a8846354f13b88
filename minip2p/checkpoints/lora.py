"""LoRA files (Hu et al. 2022): read as diffusers, PEFT and kohya write them, merged into weights, and written.

In such a file a layer with the weight W has two small matrices, "down" (A) and "up" (B), and perhaps an alpha. Merged
it is W + weight * (alpha / rank) * up down, their eq. 3; a convolution likewise, its kernel being down's.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ..config import Config, from_dict
from ..files import parse_json
from .configs import in_file
from .files import CheckpointError, open_weights, require_finite, write_safetensors
from .loaded import Loaded
from .lora_names import HALF, Place, check_kind, few, peft_configs, scale_of, spellings
from .tables import links, unet_rows

Weight = Annotated[float, Field(ge=-1e6, le=1e6)]
"""what a file is multiplied by"""
FILES = tuple(f"{stem}.{kind}" for stem in ("pytorch_lora_weights", "adapter_model") for kind in ("safetensors", "bin"))
"""as diffusers and PEFT name them in a folder"""


@dataclass(frozen=True)
class LoRALayer:
    """The matrices of a layer as they lie in a file."""

    down: Tensor
    """(rank, in), of a convolution (rank, in, y, x)"""
    up: Tensor
    """(out, rank), perhaps (out, rank, 1, 1)"""
    scale: float

    def added(self) -> Tensor:
        """What is added to the weight, (out, in * y * x), float32."""
        return self.scale * (self.up.float().flatten(1) @ self.down.float().flatten(1))


def merge_lora(loaded: Loaded, files: Sequence[tuple[Path, float]], dtype: torch.dtype | None) -> None:
    """Merge LoRA files, each times its weight, into a checkpoint in place; it says so in its provenance.

    Sums are float32 and rounded once, to `dtype` (None: the weight's own). A weight of 0 changes no bit. Raises
    CheckpointError in one line for a file with anything that is not merged.
    """
    layers: dict[Place, list[LoRALayer]] = {}
    recorded: list[dict[str, Any]] = []
    for path, weight in files:
        weight = from_dict(Weight, weight, f"weight of {path}")
        for place, layer in read_lora(path, loaded).items():
            if weight:
                layers.setdefault(place, []).append(replace(layer, scale=weight * layer.scale))
        recorded.append({"file": path.name, "weight": weight})
    earlier = loaded.provenance.get("lora")
    loaded.provenance["lora"] = [*(earlier if isinstance(earlier, list) else []), *recorded]
    for (part, name), added in layers.items():
        base = loaded.parts[part][name]
        merged = base.float() + sum(layer.added() for layer in added).view_as(base)
        require_finite(merged, f"{name} with the LoRA merged in", loaded.path, dtype or base.dtype)
        loaded.parts[part][name] = merged.to(dtype or base.dtype)


def read_lora(path: Path, loaded: Loaded) -> dict[Place, LoRALayer]:
    """The layers of a LoRA file, or of a folder with one, for the networks of a checkpoint, which gets its notes."""
    path = Path(path).expanduser()
    if path.is_dir():
        path = next((path / name for name in FILES if (path / name).is_file()), path / FILES[0])
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such LoRA file")
    weights = open_weights(path)
    check_kind(path, weights.tensors, loaded.config)
    halves, alphas = _sorted(path, weights.tensors, loaded)
    configs = peft_configs(path, weights.metadata, weights.tensors)
    layers = {}
    for place, found in halves.items():
        (name, down), (_, up) = (found[half] for half in ("down", "up"))
        _check_shapes(path, name, down, up, loaded.parts[place[0]][place[1]])
        for tensor in (down, up):
            require_finite(tensor, name, path)
        layers[place] = LoRALayer(down, up, scale_of(name, len(down), alphas.get(place), configs))
    if whole := _whole(path, weights.metadata):
        loaded.notes.append(
            f"{path}: not all that was trained: {', '.join(whole)} learned without LoRA and is in the run's "
            "model.safetensors alone"
        )
    return layers


def _sorted(
    path: Path, tensors: Mapping[str, Tensor], loaded: Loaded
) -> tuple[dict[Place, dict[str, tuple[str, Tensor]]], dict[Place, float]]:
    """Place -> half -> (name, tensor), and place -> alpha. Raises CheckpointError for names of no layer, and layers
    that are there twice or by half."""
    places = spellings(loaded)
    halves: dict[Place, dict[str, tuple[str, Tensor]]] = {}
    alphas: dict[Place, float] = {}
    unknown = []
    for name, tensor in tensors.items():
        plain = name.replace(".processor.", ".")
        half = HALF.fullmatch(plain)
        place = places.get((half[1] if half else plain.removesuffix(".alpha")).replace(".", "_"))
        if place is None or not (half or plain.endswith(".alpha")):
            unknown.append(name)
        elif half:
            kind = "down" if half[2] in ("A", "down") else "up"
            if other := halves.setdefault(place, {}).get(kind):
                raise CheckpointError(f"{path}: {other[0]} and {name} are for one layer")
            halves[place][kind] = name, tensor
        elif tensor.numel() == 1 and float(tensor) > 0 and tensor.isfinite().all():
            alphas[place] = float(tensor)
        else:
            raise CheckpointError(f"{path}: {name} is no positive number")
    if unknown:
        c = loaded.config
        raise CheckpointError(
            f"{path}: {len(unknown)} of {len(tensors)} tensors belong to no layer of this {c.denoiser} and text "
            f"encoder: {few(unknown)}; expected layers such as {next(iter(places))}"
        )
    if single := [found for found in halves.values() if len(found) == 1]:
        (half, (name, _)), other = next(iter(single[0].items())), {"down": "up (B)", "up": "down (A)"}
        raise CheckpointError(f"{path}: {len(single)} layers lack a half: {name} is there, its {other[half]} is not")
    if lone := alphas.keys() - halves.keys():
        raise CheckpointError(f"{path}: {len(lone)} layers have an alpha and nothing else, e.g. {min(lone)[1]}")
    return halves, alphas


def _check_shapes(path: Path, name: str, down: Tensor, up: Tensor, base: Tensor) -> None:
    """Raise CheckpointError where the two halves do not make the weight of the layer (1x1 kernels may be left out)."""
    ours, a, b = (_plain_shape(tensor) for tensor in (base, down, up))
    if len(a) < 2 or len(b) != 2 or a[0] != b[1] or not a[0]:
        raise CheckpointError(f"{path}: {name}: down (A) is {a}, up (B) is {b}; expected one rank in both")
    if (b[0], *a[1:]) != ours:
        raise CheckpointError(
            f"{path}: {name} is for a layer of shape {(b[0], *a[1:])}, this model's is {ours}: it is of another base"
        )


def _plain_shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape[:2] if tensor.shape[2:] == (1, 1) else tensor.shape)


def write_lora(
    path: Path, config: Config, layers: Mapping[str, tuple[Tensor, Tensor]], whole: Sequence[str], about: dict[str, Any]
) -> None:
    """Write the LoRA of a denoiser in diffusers' layout, float32.

    layers: our name of a layer -> (down, up), up with the scale in it, so that alpha is the rank for every reader.
    whole: what was trained whole beside it and is not in the file. A denoiser that diffusers does not have keeps our
    names. about: JSON values for the header.
    """
    names = {ours: theirs for ours, theirs, _ in links(unet_rows(config.unet), 2)} if config.denoiser == "unet" else {}
    tensors = {}
    for name, halves in layers.items():
        theirs = names.get(f"{name}.weight", f"{name}.weight").removesuffix(".weight")
        for half, tensor in zip("AB", halves, strict=True):
            tensors[f"{config.denoiser}.{theirs}.lora_{half}.weight"] = tensor.float()
    about = {"whole": list(whole)} | about
    write_safetensors(path, tensors, {"format": "pt", "minip2p": json.dumps(about)})


def _whole(path: Path, metadata: Mapping[str, str]) -> list[str]:
    """What `write_lora` was told that its file lacks."""
    if "minip2p" not in metadata:
        return []
    about = parse_json(metadata["minip2p"], f"{path}: its header", CheckpointError)
    with in_file(path):
        return list(from_dict(tuple[str, ...], about.get("whole", []), "whole"))
