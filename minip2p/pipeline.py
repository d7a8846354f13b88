"""Networks, tokenizer and schedule as one value, and what is done with it: editing."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from numbers import Integral, Real
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .config import Config
from .data.images import FITS, Fitted, Picture, fit, fit_size, from_tensor, open_image, to_tensor
from .diffusion import SAMPLERS, SPACINGS, Denoiser, Guidance, Noise, Schedule, Step, get_sampler, guided, three_way
from .models.clip import TextEncoder
from .models.unet import UNet
from .models.vae import AutoencoderKL

OUTPUTS = ("pil", "tensor", "latent")


class Progress(NamedTuple):
    """What `edit` tells `on_step` after every step of every batch."""

    done: int
    """steps so far, of all batches"""
    total: int
    items: tuple[int, ...]
    """the items of this batch, by number"""
    step: Step
    """its `.denoised` (b, c, y, x) is a preview for `Pipeline.decode`"""


@dataclass(frozen=True)
class Item:
    """One edit to be made. Raises ValueError for values that no edit can have."""

    number: int
    picture: Fitted
    instruction: str
    text_scale: float
    image_scale: float
    seed: int

    def __post_init__(self):
        if not isinstance(self.instruction, str):
            raise ValueError(f"instruction {self.instruction!r}: expected a text")
        for name, scale in (("text scale", self.text_scale), ("image scale", self.image_scale)):
            if not isinstance(scale, Real) or not 0 <= scale < math.inf:
                raise ValueError(f"{name} {scale!r}: expected a finite number, 0 or more")
        if not isinstance(self.seed, Integral) or not 0 <= self.seed < 2**64:
            raise ValueError(f"seed {self.seed!r}: expected a whole number from 0 to 2^64 - 1")


@dataclass(frozen=True, eq=False)
class Pipeline:
    """A text-conditioned latent diffusion model, ready to run; `dataclasses.replace` swaps a part.

    Networks run in the dtype of their weights; latents, guidance and the sampler's steps are float32. Texts and
    pictures go through text encoder and VAE one by one: their batch changes nothing, and little memory will do.
    """

    unet: UNet
    vae: AutoencoderKL
    text_encoder: TextEncoder
    tokenizer: Callable[[list[str]], Tensor]
    config: Config
    provenance: dict = field(default_factory=dict)
    """where the weights come from; travels with them"""
    notes: tuple[str, ...] = ()
    """what was assumed on loading, a line each"""

    def __repr__(self) -> str:
        size = sum(p.numel() for net in (self.unet, self.vae, self.text_encoder) for p in net.parameters())
        return f"Pipeline({size / 1e6:.1f} M parameters, {self.dtype}, {self.device})"

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return _dtype(self.unet)

    @property
    def parts(self) -> dict[str, nn.Module]:
        return {"unet": self.unet, "vae": self.vae, "text": self.text_encoder}

    @cached_property
    def denoiser(self) -> Denoiser:
        s = self.config.schedule
        return Denoiser(self.unet, Schedule(s.kind, s.start, s.end, s.steps), s.prediction)

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the weights as they were loaded, in whatever layout and on whatever device."""
        digest = hashlib.sha256()
        for part, module in self.parts.items():
            for name, tensor in sorted(module.state_dict().items()):
                digest.update(f"{part}.{name} {tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
        return digest.hexdigest()[:16]

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """What the UNet reads of each text, (b, m, d). "" is the null text."""
        encoder = self.text_encoder.to(self.device)
        states = {text: encoder(self.tokenizer([text]).to(self.device)) for text in dict.fromkeys(texts)}
        return torch.cat([states[text] for text in texts]).to(self.dtype)

    @torch.inference_mode()
    def encode_image(self, images: Tensor) -> Tensor:
        """Pictures (b, 3, y, x) in [0, 1] -> the image condition (b, c, y, x) float32: the mode, not scaled."""
        vae = self.vae.to(self.device)
        x = (2 * images - 1).to(self.device, _dtype(vae))
        return torch.cat([vae.encode(each).mode() for each in x.split(1)]).float()

    @torch.inference_mode()
    def decode(self, z: Tensor) -> Tensor:
        """Latents (b, c, y, x) in the diffusion model's unit -> pictures (b, 3, y, x) float32, cut to [0, 1]."""
        vae = self.vae.to(self.device)
        z = (z / self.config.vae.scaling_factor).to(self.device, _dtype(vae))
        x = torch.cat([vae.decode(each) for each in z.split(1)]).float()
        return ((x + 1) / 2).clamp(0, 1)

    @torch.inference_mode()
    def sample(
        self, branches: Guidance, seeds: Sequence[int], size: Sequence[int], *, steps: int = 100,
        sampler: str = "euler_ancestral", spacing: str = "linspace", control: Sequence[Any] = (),
        low_memory: bool = False,
    ) -> Iterator[Step]:
        """From noise to latents of `size` (y, x), one a seed, along the guided field. The last `z` is the end."""
        noise = Noise(seeds, (self.config.unet.out_channels, *size), device=self.device)
        sigmas = self.denoiser.schedule.sigmas_for(steps, spacing)
        along = guided(self.denoiser, branches, sequential=low_memory, control=control)
        yield from get_sampler(sampler)(along, noise.start(sigmas[0]), sigmas, noise=noise)

    def edit(
        self, image: Picture | Sequence[Picture], instruction: str | Sequence[str], *,
        text_scale: float | Sequence[float] | None = None, image_scale: float | Sequence[float] | None = None,
        steps: int = 100, seed: int | Sequence[int] = 0, sampler: str = "euler_ancestral",
        spacing: str = "linspace", resolution: int | None = None, fit: str = "crop", keep_size: bool = False,
        output: str = "pil", control: Sequence[Any] = (), low_memory: bool = False, batch_size: int = 1,
        on_step: Callable[[Progress], None] | None = None,
    ) -> Any:
        """The picture as the instruction says (InstructPix2Pix, section 3.2); on the CPU, the authors' seed for seed.

        Where pictures, instructions, scales or seeds are lists, they are equally long and so is the list that comes
        back; what is no list holds for every item, but a lone seed counts up from the first. Up to `batch_size` items
        of one size share the UNet's calls: that changes an item by rounding only, and a size of 1 by nothing.
        An empty instruction returns the fitted input.

        Scales: the model's own unless given. sampler, spacing: words of `diffusion.SAMPLERS`, `SPACINGS`. resolution: of
        the longer side, about (`images.fit_size`). fit: a word of `images.FITS`; keep_size undoes it. output: "pil",
        cut down to whole levels as the authors write them; "tensor" (3, y, x) in [0, 1]; "latent" (c, y, x), before
        decoding, of the fitted size. low_memory: branches one after the other, VAE and text encoder on the CPU when not
        in use. Raises ValueError in the user's words (ImageError for a picture).
        """
        self._check(steps=steps, sampler=sampler, spacing=spacing, fit=fit, output=output, batch_size=batch_size)
        own = self.config.sampling
        fitted = partial(self._fitted, resolution=own.resolution if resolution is None else resolution, how=fit)
        many, items = _items(
            picture=[fitted(each) for each in image] if _is_list(image) else fitted(image),
            instruction=instruction,
            text_scale=own.text_scale if text_scale is None else text_scale,
            image_scale=own.image_scale if image_scale is None else image_scale,
            seed=seed,
        )
        finish = partial(self._finish, output=output, keep_size=keep_size)
        results = {item.number: finish(item.picture, None) for item in items if not item.instruction.strip()}
        batches = _batches([item for item in items if item.number not in results], batch_size)
        for n, batch in enumerate(batches):
            for step in self._edit_batch(batch, steps, sampler, spacing, control, low_memory):
                if on_step is not None:
                    numbers = tuple(item.number for item in batch)
                    on_step(Progress(n * steps + step.i + 1, len(batches) * steps, numbers, step))
            results |= {item.number: finish(item.picture, z) for item, z in zip(batch, step.z, strict=True)}
            self._rest(low_memory)
        return [results[i] for i in range(len(items))] if many else results[0]

    def _edit_batch(self, batch: Sequence[Item], steps, sampler, spacing, control, low_memory) -> Iterator[Step]:
        """The sampler's steps for items of one size."""
        text, null_text = self.encode_text([item.instruction for item in batch]), self.encode_text([""])
        image = self.encode_image(torch.stack([to_tensor(item.picture.image) for item in batch]))
        self._rest(low_memory)
        text_scale = _common([item.text_scale for item in batch])
        image_scale = _common([item.image_scale for item in batch])
        return self.sample(
            three_way(text_scale, image_scale, text, null_text, image), [int(item.seed) for item in batch],
            image.shape[2:], steps=steps, sampler=sampler, spacing=spacing, control=control, low_memory=low_memory,
        )  # fmt: skip

    def _finish(self, picture: Fitted, z: Tensor | None, output: str, keep_size: bool) -> Any:
        """What is handed back of the latent `z` (c, y, x), or of the picture itself where that is None."""
        fitted = to_tensor(picture.image).to(self.device)
        if output == "latent":
            z = self.config.vae.scaling_factor * self.encode_image(fitted[None])[0] if z is None else z
            return z.clone()  # outside of inference mode: an ordinary tensor
        x = fitted if z is None else self.decode(z[None])[0].clone()
        if output == "tensor" and not keep_size:
            return x
        result = picture.image if z is None else from_tensor(x, truncate=True)
        result = picture.restore(result) if keep_size else result
        return to_tensor(result).to(self.device) if output == "tensor" else result

    def _fitted(self, picture: Picture, resolution: int, how: str) -> Fitted:
        image = open_image(picture)
        return fit(image, fit_size(*image.size, resolution, self.config.sampling.multiple), how)

    def _rest(self, low_memory: bool) -> None:
        """Put off the device what is not in use."""
        if low_memory:
            self.vae.to("cpu")
            self.text_encoder.to("cpu")

    def _check(self, *, steps: int, batch_size: int, **words: str) -> None:
        for name, n in (("steps", steps), ("batch size", batch_size)):
            if not isinstance(n, Integral) or n < 1:
                raise ValueError(f"{name} {n!r}: expected a whole number, at least 1")
        known = {"sampler": SAMPLERS, "spacing": SPACINGS, "fit": FITS, "output": OUTPUTS}
        for name, word in words.items():
            if word not in known[name]:
                raise ValueError(f"unknown {name} {word!r}; there are {', '.join(known[name])}")
        channels, latent = self.config.unet.in_channels, self.config.vae.latent_channels
        if channels != 2 * latent:
            raise ValueError(
                f"this checkpoint's UNet takes {channels} channels, an editor's {2 * latent} (noisy latent, picture): "
                "it paints from text and cannot edit. Load an InstructPix2Pix checkpoint; or minip2p convert --widen "
                "makes an editor of this one, which then has to be trained on edits"
            )


def _items(**columns: Any) -> tuple[bool, list[Item]]:
    """Whether any column is a list, and one Item a row."""
    lengths = {name: len(value) for name, value in columns.items() if _is_list(value)}
    if len(set(lengths.values())) > 1:
        raise ValueError("lists of unequal length: " + ", ".join(f"{name} has {n}" for name, n in lengths.items()))
    n = next(iter(lengths.values()), 1)
    rows = [{name: value[i] if _is_list(value) else value for name, value in columns.items()} for i in range(n)]
    items = [Item(i, **row) for i, row in enumerate(rows)]
    if not _is_list(columns["seed"]):
        items = [replace(item, seed=item.seed + item.number) for item in items]
    return bool(lengths), items


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _batches(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Items of one fitted size together, at most `size` of them."""
    groups: dict[tuple[int, int], list[Item]] = {}
    for item in items:
        groups.setdefault(item.picture.image.size, []).append(item)
    return [group[i : i + size] for group in groups.values() for i in range(0, len(group), size)]


def _common(scales: Sequence[float]) -> float | Tensor:
    """One number where all agree, so that branches of weight 0 are not run; else one an item."""
    return float(scales[0]) if len(set(scales)) == 1 else torch.tensor(scales, dtype=torch.float64)


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype
