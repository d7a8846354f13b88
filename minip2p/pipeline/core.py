"""The Pipeline itself: from pictures and texts to latents and back, and the sampler's run between."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..config import Config
from ..control import Control, Run
from ..data.images import Fitted, Picture, fit, fit_size, from_tensor, open_image, to_tensor
from ..diffusion import Denoiser, Guidance, Noise, Schedule, Step, get_sampler, guided
from ..models.clip import TextEncoder
from ..models.unet import UNet
from ..models.vae import AutoencoderKL
from .edit import edit
from .generate import generate, sdedit
from .invert import invert
from .pair import generate_pair


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
        return fingerprint(self.parts)

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
        self, branches: Guidance | Callable[[float], Guidance], seeds: Sequence[int], size: Sequence[int], *,
        steps: int = 100, sampler: str = "euler_ancestral", spacing: str = "linspace", skip: int = 0,
        z0: Tensor | None = None, start: Tensor | None = None, control: Sequence[Control] = (),
        prompts: Sequence[str] = (), sources: Sequence[int] | None = None, low_memory: bool = False,
    ) -> Iterator[Step]:
        """From noise to latents of `size` (y, x), one a seed, along the guided field. The last `z` is the end.

        skip: leave out the first so many steps. z0 (b, c, y, x): latents that the start's noise is added to. start
        (b, c, y, x): latents at the first noise level, in place of noise. prompts, sources: what a control may know of
        the items (`control.Run`).
        """
        noise = Noise(seeds, (self.config.unet.out_channels, *size), device=self.device)
        sigmas = self.denoiser.schedule.sigmas_for(steps, spacing)[skip:]
        run = Run(
            sigmas=tuple(sigmas.tolist()), size=tuple(size), tokenizer=self.tokenizer,
            prompts=tuple(prompts) or ("",) * len(seeds), sources=tuple(sources or range(len(seeds))),
        )  # fmt: skip
        control = [each.over(run) for each in control]
        along = guided(self.denoiser, branches, sequential=low_memory, control=control)
        for each in control:
            along = each.around(along)
        z = noise.start(sigmas[0]) if start is None else start
        yield from get_sampler(sampler)(along, z if z0 is None else z0 + z, sigmas, noise=noise)

    edit = edit
    generate = generate
    sdedit = sdedit
    generate_pair = generate_pair
    invert = invert

    def fitted(self, picture: Picture, resolution: int | None = None, how: str = "crop") -> Fitted:
        """A picture brought to the size at which it is edited; the model's own resolution unless given."""
        own = self.config.sampling
        image = open_image(picture)
        resolution = own.resolution if resolution is None else resolution
        return fit(image, fit_size(*image.size, resolution, own.multiple), how)

    def finish(self, z: Tensor, output: str) -> Any:
        """What is handed back of latents (c, y, x): a picture, its tensor, or themselves."""
        if output == "latent":
            return z.clone()  # outside of inference mode: an ordinary tensor
        x = self.decode(z[None])[0].clone()
        return x if output == "tensor" else from_tensor(x, truncate=True)

    def finish_fitted(self, picture: Fitted, z: Tensor | None, output: str, keep_size: bool) -> Any:
        """The same of a picture that was fitted; without `z` (c, y, x), of that picture itself."""
        if z is None and output == "latent":
            z = self.config.vae.scaling_factor * self.encode_image(to_tensor(picture.image)[None])[0]
        if z is not None and (output == "latent" or not keep_size):
            return self.finish(z, output)
        result = picture.image if z is None else self.finish(z, "pil")
        result = picture.restore(result) if keep_size else result
        return to_tensor(result).to(self.device) if output == "tensor" else result

    def rest(self, low_memory: bool) -> None:
        """Put off the device what is not in use."""
        if low_memory:
            self.vae.to("cpu")
            self.text_encoder.to("cpu")


def fingerprint(parts: Mapping[str, nn.Module]) -> str:
    """16 hexadecimal digits of the weights of networks, by name, in whatever dtype, layout and on whatever device."""
    digest = hashlib.sha256()
    for part, module in parts.items():
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f"{part}.{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype
