"""Inversion: a real picture and what it shows -> a start from which `generate` and `generate_pair` paint it."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..control.inversion import Inversion, ddim_inversion, null_text_inversion
from ..data.images import Fitted, Picture, to_tensor
from ..diffusion import Cond, Step
from .generate import check_paints
from .inversions import Kept, load_kept, save_kept
from .items import (
    Item, Progress, as_items, batches, check_counts, check_scale, check_text, check_words, common, is_list,
)  # fmt: skip

if TYPE_CHECKING:
    from .core import Pipeline

METHODS = ("null_text", "negative_prompt", "ddim")


@dataclass(frozen=True, kw_only=True)
class Picked(Item):
    """One picture to be inverted. Raises ValueError for values that none can have."""

    picture: Fitted
    prompt: str
    scale: float
    state: Path | None

    def __post_init__(self):
        check_text("prompt", self.prompt)
        check_scale("scale", self.scale)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class How:
    """What holds for all pictures of a call."""

    method: str
    steps: int
    spacing: str
    inner: int
    learning_rate: float
    tolerance: float
    checkpointing: bool

    def __post_init__(self):
        check_counts(steps=self.steps, inner=self.inner)
        check_words(spacing=self.spacing)
        if self.method not in METHODS:
            raise ValueError(f"unknown method {self.method!r}; there are {', '.join(METHODS)}")
        for name in ("learning_rate", "tolerance"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < math.inf:
                raise ValueError(f"{name.replace('_', ' ')} {value!r}: expected a finite number above 0")

    def key(self, pipe: "Pipeline", item: Picked) -> dict:
        """All that an inversion depends on, in JSON's types: what its state file is known by."""
        size, pixels = item.picture.image.size, item.picture.image.tobytes()
        key = {
            "picture": hashlib.sha256(f"{size}".encode() + pixels).hexdigest(), "prompt": item.prompt,
            "weights": pipe.fingerprint, "method": self.method, "scale": float(item.scale), "steps": int(self.steps),
            "spacing": self.spacing,
        }  # fmt: skip
        if self.method == "null_text":
            names = ("inner", "learning_rate", "tolerance")
            key |= {name.replace("_", " "): float(getattr(self, name)) for name in names}
        return key


@torch.inference_mode(False)
def invert(
    pipe: "Pipeline", image: Picture | Sequence[Picture], prompt: str | Sequence[str], *, method: str = "null_text",
    scale: float | Sequence[float] | None = None, steps: int = 50, spacing: str = "linspace", inner: int = 10,
    learning_rate: float = 0.01, tolerance: float = 1.0, resolution: int | None = None, fit: str = "crop",
    batch_size: int = 1, checkpointing: bool = True, state: str | Path | Sequence[str | Path | None] | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> Inversion | list[Inversion]:
    """Where the sampler has to begin to paint a picture: `generate(prompt, start=...)` does it with the prompt that is
    given here, `generate_pair(prompt, edited_prompt, start=...)` edits the picture by Prompt-to-Prompt.

    method: "null_text" finds a null text for each step under which guidance comes back to the picture (Mokady et al.
    2022; gradients of the null text only); "negative_prompt" takes the prompt for the null text (Miyake et al. 2023),
    exact as far as DDIM inversion is, in one pass; "ddim" leaves the null text as it is, and comes back at a scale of
    1. scale: the one to paint with; unless given the model's own, or 1 for "ddim". steps, spacing: of the sampler, the
    same up and down. inner, learning_rate, tolerance: of null-text inversion, as of
    `control.inversion.null_text_inversion`; the defaults are the published ones, a small network may need a higher
    rate. checkpointing: less memory for more time in its backward passes; the result is the same. resolution, fit: as
    of `edit`.

    Where pictures, prompts, scales or states are lists, they are equally long and so is the list that comes back. Up to
    `batch_size` pictures of one size share the UNet's calls: that changes an item by rounding only.

    state: a file, one a picture, that keeps what is done. A run that was stopped goes on from there, a finished one is
    read back; a file of another picture, prompt, weights or settings is refused, never overwritten.
    `pipeline.load_inversion` reads a finished one. Raises ValueError in the user's words.
    """
    how = How(
        method=method, steps=steps, spacing=spacing, inner=inner, learning_rate=learning_rate, tolerance=tolerance,
        checkpointing=checkpointing,
    )  # fmt: skip
    check_counts(batch_size=batch_size)
    check_words(fit=fit)
    check_paints(pipe)
    usual = 1.0 if method == "ddim" else pipe.config.sampling.text_scale
    fitted = partial(pipe.fitted, resolution=resolution, how=fit)
    many, items = as_items(
        Picked, picture=[fitted(each) for each in image] if is_list(image) else fitted(image), prompt=prompt,
        scale=usual if scale is None else scale, seed=0,
        state=[_path(each) for each in state] if is_list(state) else _path(state),
    )  # fmt: skip
    _check_states(items)
    kept = {i.number: Kept() if i.state is None else load_kept(i.state, how.key(pipe, i)) for i in items}
    results = {number: each.inversion for number, each in kept.items() if each.inversion is not None}
    left = [item for item in items if item.number not in results]
    groups = batches(left, batch_size, lambda item: (item.picture.image.size, kept[item.number].done))
    tell = _Teller(on_step, sum(_calls(how, kept[group[0].number]) for group in groups))
    for group in groups:
        inverted = _invert(pipe, group, how, [kept[item.number] for item in group], partial(tell, group))
        results |= {item.number: each for item, each in zip(group, inverted, strict=True)}
    return [results[i] for i in range(len(items))] if many else results[0]


def _invert(
    pipe: "Pipeline", items: Sequence[Picked], how: How, kept: Sequence[Kept], tell: Callable[[Step], None]
) -> list[Inversion]:
    """The inversions of pictures of one size that have come equally far."""
    sigmas = tuple(pipe.denoiser.schedule.sigmas_for(how.steps, how.spacing).tolist())
    text = pipe.encode_text([item.prompt for item in items]).clone()  # no longer an inference tensor
    keep = partial(_keep, pipe, items, how)
    if kept[0].path is None:
        kept = [Kept(path=path) for path in _climb(pipe, items, text, sigmas, tell)]
        if how.method == "null_text":
            keep(kept)
    if how.method == "null_text":
        for kept in _null_texts(pipe, items, text, sigmas, how, kept, tell):
            if kept[0].done < how.steps:
                keep(kept)
    nulls = {
        "ddim": lambda i: None,
        "negative_prompt": lambda i: text[i : i + 1].float().cpu(),
        "null_text": lambda i: torch.stack(kept[i].nulls),
    }[how.method]
    same = {"steps": int(how.steps), "spacing": how.spacing, "sigmas": sigmas, "method": how.method}
    kept = [
        Kept(inversion=Inversion(
            z=kept[i].path[0].clone(), prompt=item.prompt, scale=float(item.scale), nulls=nulls(i), **same
        ))
        for i, item in enumerate(items)
    ]  # fmt: skip
    keep(kept)
    return [each.inversion for each in kept]


def _climb(pipe: "Pipeline", items: Sequence[Picked], text: Tensor, sigmas, tell) -> Iterator[Tensor]:
    """Each picture's latents at each of `sigmas`, (n + 1, c, y, x) on the CPU, by DDIM inversion."""
    pictures = torch.stack([to_tensor(item.picture.image) for item in items])
    z = pipe.config.vae.scaling_factor * pipe.encode_image(pictures).clone()
    path = [z.cpu()]
    with torch.no_grad():
        for step in ddim_inversion(lambda z, sigma: pipe.denoiser(z, sigma, Cond(text)), z, sigmas):
            path.append(step.z.cpu())
            tell(Step(*step))
    return torch.stack(path[::-1], dim=1).unbind(0)


def _null_texts(
    pipe: "Pipeline", items: Sequence[Picked], text: Tensor, sigmas, how: How, kept: Sequence[Kept], tell
) -> Iterator[list[Kept]]:
    """What is kept of each picture after each further step."""
    if kept[0].done:
        null = torch.stack([each.nulls[-1] for each in kept]).to(pipe.device)
        z = torch.stack([each.z for each in kept]).to(pipe.device)
    else:
        null, z = pipe.encode_text([""]).clone().float().expand(len(items), -1, -1), None
    path = torch.stack([each.path for each in kept], dim=1).to(pipe.device)
    found = null_text_inversion(
        lambda z, sigma, text_: pipe.denoiser(z, sigma, Cond(text_.to(text.dtype))), path, text, null, sigmas,
        scale=common([item.scale for item in items]), inner=how.inner, learning_rate=how.learning_rate,
        tolerance=how.tolerance, first=kept[0].done, z=z,
    )  # fmt: skip
    with _checkpointing(pipe.unet, how.checkpointing):
        for step in found:
            kept = [
                Kept(path=each.path, z=z, nulls=(*each.nulls, null))
                for each, z, null in zip(kept, step.z.cpu(), step.null.cpu(), strict=True)
            ]
            tell(Step(step.i, step.sigma, step.z, step.denoised))
            yield kept


@contextmanager
def _checkpointing(unet, on: bool) -> Iterator[None]:
    before, unet.checkpointing = unet.checkpointing, on
    try:
        yield
    finally:
        unet.checkpointing = before


def _keep(pipe: "Pipeline", items: Sequence[Picked], how: How, kept: Sequence[Kept]) -> None:
    for item, each in zip(items, kept, strict=True):
        if item.state is not None:
            save_kept(item.state, each, how.key(pipe, item))


def _calls(how: How, kept: Kept) -> int:
    """The steps that are left."""
    climb = how.steps if kept.path is None else 0
    return climb + (how.steps - kept.done if how.method == "null_text" else 0)


class _Teller:
    """Counts the steps of all batches for `on_step`."""

    def __init__(self, on_step: Callable[[Progress], None] | None, total: int):
        self.on_step, self.total, self.done = on_step, total, 0

    def __call__(self, items: Sequence[Item], step: Step) -> None:
        self.done += 1
        if self.on_step is not None:
            self.on_step(Progress(self.done, self.total, tuple(item.number for item in items), step))


def _path(state: str | Path | None) -> Path | None:
    if state is not None and not isinstance(state, (str, Path)):
        raise ValueError(f"state {state!r}: expected the path of a file")
    return None if state is None else Path(state)


def _check_states(items: Sequence[Picked]) -> None:
    given = [item.state.absolute() for item in items if item.state is not None]
    if len(set(given)) < len(given):
        raise ValueError(f"{len(given)} pictures for {len(set(given))} state files: give a list with one each")
