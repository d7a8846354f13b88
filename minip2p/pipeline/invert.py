"""Inversion: a real picture and its prompt -> a start from which `generate` and `generate_pair` make it again."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..control.inversion import Inversion, ddim_inversion, null_text_inversion
from ..data.fits import Fitted
from ..data.images import Picture, to_tensor
from ..diffusion import Cond, Step, guided
from ..models.denoisers import Network
from .batching import Item, Progress, Work, check, common, finite, is_list
from .core import LatentDiffusion
from .inversions import InversionState, load_state, save_state

METHODS = ("null_text", "negative_prompt", "ddim")


@dataclass(frozen=True, kw_only=True)
class InversionItem(Item):
    """One picture to invert, and how. Pictures of one size that have come equally far can share a batch."""

    picture: Fitted
    prompt: str
    scale: float
    method: str
    spacing: str
    inner: int
    learning_rate: float
    tolerance: float
    file: Path | None
    """where its state is kept"""
    state: InversionState = InversionState()

    @property
    def group(self) -> tuple:
        return self.picture.image.size, self.state.done

    @property
    def steps_to_run(self) -> int:
        up = self.steps if self.state.path is None else 0
        return up + (self.steps - self.state.done if self.method == "null_text" else 0)

    def key(self, weights: str) -> dict[str, Any]:
        """All that the inversion depends on, as JSON values. weights: the pipeline's fingerprint."""
        size, pixels = self.picture.image.size, self.picture.image.tobytes()
        key = {
            "picture": hashlib.sha256(f"{size}".encode() + pixels).hexdigest(),
            "prompt": self.prompt,
            "weights": weights,
            "method": self.method,
            "scale": float(self.scale),
            "steps": int(self.steps),
            "spacing": self.spacing,
        }
        if self.method == "null_text":
            names = ("inner", "learning_rate", "tolerance")
            key |= {name.replace("_", " "): float(getattr(self, name)) for name in names}
        return key


@torch.inference_mode(False)
def invert(
    pipe: LatentDiffusion,
    image: Picture | Sequence[Picture],
    prompt: str | Sequence[str],
    *,
    method: str = "null_text",
    scale: float | Sequence[float] | None = None,
    steps: int = 50,
    spacing: str = "linspace",
    inner: int = 10,
    learning_rate: float = 0.01,
    tolerance: float = 1.0,
    resolution: int | None = None,
    fit: str = "crop",
    batch_size: int = 1,
    checkpointing: bool = True,
    state: str | Path | Sequence[str | Path | None] | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> Inversion | list[Inversion]:
    """Where the sampler starts to make a picture again: `generate(prompt, start=...)` with the same prompt does it, and
    `generate_pair(prompt, edited_prompt, start=...)` edits the picture by Prompt-to-Prompt.

    method: "null_text" optimises a null text for each step so that guidance returns to the picture (Mokady et al.
    2022); "negative_prompt" uses the prompt as the null text (Miyake et al. 2023), as exact as DDIM inversion and in
    one pass; "ddim" keeps the null text and returns to the picture at a scale of 1. scale: the one to generate with;
    unless given the model's own, or 1 for "ddim". steps, spacing: of the sampler, the same up and down. inner,
    learning_rate, tolerance: of `control.inversion.null_text_inversion`; the defaults are the published ones, a small
    network may need a higher rate. checkpointing: less memory for more time, same result. resolution, fit: as for
    `edit`. Pictures, prompts, scales and states may be lists, as for `edit`.

    state: a file per picture that keeps what is done. A stopped run continues from it, a finished one is read back; the
    file of another picture, prompt, model or setting is refused, never overwritten. `load_inversion` reads a finished
    one. Raises ValueError for an invalid option and for a model of another kind.
    """
    check(steps=steps, inner=inner, learning_rate=learning_rate, tolerance=tolerance, batch_size=batch_size)
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; there are {', '.join(METHODS)}")
    pipe.require("text-to-image")
    usual_scale = 1.0 if method == "ddim" else pipe.config.sampling.text_scale
    work = Work(
        InversionItem,
        on_step,
        picture=pipe.fitted(image, resolution, fit),
        prompt=prompt,
        scale=usual_scale if scale is None else scale,
        seed=0,
        steps=steps,
        method=method,
        spacing=spacing,
        inner=inner,
        learning_rate=learning_rate,
        tolerance=tolerance,
        file=[_path(each) for each in state] if is_list(state) else _path(state),
    )
    work.items = _with_states(pipe, work.items)
    work.results = {item.number: item.state.inversion for item in work.items if item.state.inversion is not None}

    sigmas = tuple(pipe.denoiser.schedule.sigmas_for(steps, spacing).tolist())
    for batch in work.batches(batch_size):
        text = pipe.encode_text([item.prompt for item in batch]).clone()  # no longer an inference tensor
        states = [item.state for item in batch]

        # Up: DDIM inversion without guidance, from the picture's latent to the first noise level.
        if states[0].path is None:
            pictures = torch.stack([to_tensor(item.picture.image) for item in batch])
            z = pipe.config.vae.scaling_factor * pipe.encode_image(pictures).clone()
            path = [z.cpu()]
            with torch.no_grad():
                for step in ddim_inversion(guided(pipe.denoiser, [(1.0, Cond(text))]), z, sigmas):
                    finite(step.z, "denoiser", pipe.dtype)
                    path.append(step.z.cpu())
                    work.report(batch, Step(*step))
            states = [InversionState(path=each) for each in torch.stack(path[::-1], dim=1).unbind(0)]
            _save(pipe, batch, states)

        # Down again: a null text for each step that keeps the guided sampler on that path.
        if method == "null_text":
            with _checkpointing(pipe.unet, checkpointing):
                for step in _null_text_steps(pipe, batch, states, text, sigmas):
                    finite(step.z, "denoiser", pipe.dtype)
                    work.report(batch, Step(step.i, step.sigma, step.z, step.denoised))
                    states = [
                        InversionState(path=each.path, z=z, nulls=(*each.nulls, null))
                        for each, z, null in zip(states, step.z.cpu(), step.null.cpu(), strict=True)
                    ]
                    _save(pipe, batch, states)

        for item, each, own_text in zip(batch, states, text, strict=True):
            nulls = {"null_text": each.nulls, "negative_prompt": (own_text.float().cpu(),), "ddim": ()}[method]
            work.results[item.number] = Inversion(
                z=_known(each.path)[0].clone(),
                prompt=item.prompt,
                steps=int(steps),
                spacing=spacing,
                sigmas=sigmas,
                nulls=torch.stack(nulls) if nulls else None,
                scale=float(item.scale),
                method=method,
            )
        _save(pipe, batch, [InversionState(inversion=work.results[item.number]) for item in batch])
    return work.in_order()


def _null_text_steps(pipe: LatentDiffusion, batch, states: Sequence[InversionState], text: Tensor, sigmas) -> Iterator:
    """Null-text inversion from where the states are; gradients are taken of float32 null texts."""

    def denoise(z: Tensor, sigma: float, text_: Tensor) -> Tensor:
        return pipe.denoiser(z, sigma, Cond(text_.to(text.dtype)))

    first, z = states[0].done, None
    path = torch.stack([_known(each.path) for each in states], dim=1).to(pipe.device)
    null = pipe.encode_text([""]).clone().float().expand(len(batch), -1, -1)
    if first:
        null = torch.stack([each.nulls[-1] for each in states]).to(pipe.device)
        z = torch.stack([_known(each.z) for each in states]).to(pipe.device)
    return null_text_inversion(
        denoise,
        path.unbind(0),
        text,
        null,
        sigmas,
        scale=common([item.scale for item in batch]),
        inner=batch[0].inner,
        learning_rate=batch[0].learning_rate,
        tolerance=batch[0].tolerance,
        first=first,
        z=z,
    )


def _known(x: Tensor | None) -> Tensor:
    """A tensor of a state that has come this far."""
    assert x is not None
    return x


@contextmanager
def _checkpointing(unet: Network, on: bool) -> Iterator[None]:
    before, unet.checkpointing = unet.checkpointing, on
    try:
        yield
    finally:
        unet.checkpointing = before


def _with_states(pipe: LatentDiffusion, items: Sequence[InversionItem]) -> list[InversionItem]:
    """The items with what their state files hold. Raises ValueError where two share a file."""
    files = [item.file.absolute() for item in items if item.file is not None]
    if len(set(files)) < len(files):
        raise ValueError(f"{len(files)} pictures for {len(set(files))} state files: give a list with one each")
    return [
        item if item.file is None else replace(item, state=load_state(item.file, item.key(pipe.fingerprint)))
        for item in items
    ]


def _save(pipe: LatentDiffusion, items: Sequence[InversionItem], states: Sequence[InversionState]) -> None:
    for item, state in zip(items, states, strict=True):
        if item.file is not None:
            save_state(item.file, state, item.key(pipe.fingerprint))


def _path(state: Any) -> Path | None:
    if state is not None and not isinstance(state, (str, Path)):
        raise ValueError(f"state {state!r}: expected the path of a file")
    return None if state is None else Path(state)
