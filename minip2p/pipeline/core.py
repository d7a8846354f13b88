"""A latent diffusion model as one value: from pictures and texts to latents and back, and sampling between."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..config import HOW_TO_GET, Config, kind_of
from ..control import Control
from ..control.run import bind
from ..data.fits import Fitted
from ..data.images import Picture, fit, fit_size, from_tensor, open_image, to_tensor
from ..diffusion import Denoiser, Guidance, Noise, Step, get_sampler, guided, make_schedule
from ..models.denoisers import Network
from ..models.text_encoder import TextEncoder
from ..models.vae import AutoencoderKL
from ..text.bpe import BPE
from .batching import check, finite, is_list
from .fingerprint import fingerprint
from .graphs import fast


@dataclass(frozen=True, eq=False)
class LatentDiffusion:
    """A text-conditioned latent diffusion model, ready to run; `dataclasses.replace` swaps a part.

    Networks run in the dtype of their weights; latents, guidance and the sampler's steps are float32. Text encoder and
    VAE take one item at a time: results do not depend on the batch, and memory stays small.
    """

    unet: Network
    """the denoiser: a UNet or any other of `models.denoisers.DENOISERS`"""
    vae: AutoencoderKL
    text_encoder: TextEncoder
    tokenizer: Callable[[list[str]], Tensor]
    config: Config
    provenance: dict = field(default_factory=dict)
    """where the weights come from; saved with them"""
    notes: tuple[str, ...] = ()
    """what was assumed on loading, a line each"""
    graphs: bool = True
    """on CUDA, replay the denoiser's calls as CUDA graphs: the same results in less time"""
    compile: bool = False
    """compile the denoiser at its first call, for many pictures"""
    kind: str = field(init=False)
    """"editor", "text-to-image", "inpainting", "depth", "upscaler" or "denoiser with N inputs" (`config.kind_of`)"""
    denoiser: Denoiser = field(init=False, repr=False)
    """the network as a function of latents and noise levels"""

    def __post_init__(self):
        c = self.config
        c.check_together()
        object.__setattr__(self, "kind", kind_of(c))
        network = fast(self.unet, graphs=self.graphs, compile=self.compile)
        object.__setattr__(self, "denoiser", Denoiser(network, make_schedule(c.schedule), c.schedule.prediction))

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.unet.parameters()).dtype

    @property
    def parts(self) -> dict[str, nn.Module]:
        return {self.config.denoiser: self.unet, "vae": self.vae, "text": self.text_encoder}

    def require(self, kind: str) -> None:
        """Raise ValueError unless the model is of this kind."""
        if self.kind != kind:
            inputs = self.config.denoiser_config.in_channels
            given = f"this model is of kind {self.kind!r} (its denoiser has {inputs} input channels)"
            raise ValueError(f"{given}, and {kind!r} is needed: {HOW_TO_GET[kind]}")

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the weights as they were loaded, whatever the layout and the device."""
        return fingerprint(self.parts)

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """The text encoder's states, (b, m, d). "" is the null text."""
        encoder = self.text_encoder.to(self.device)
        if isinstance(self.tokenizer, BPE):
            self.tokenizer.warn(texts)
        states = {text: encoder(self.tokenizer([text]).to(self.device)) for text in dict.fromkeys(texts)}
        return finite(torch.cat([states[text] for text in texts]).to(self.dtype), "text encoder")

    @torch.inference_mode()
    def encode_image(self, images: Tensor) -> Tensor:
        """Pictures (b, 3, y, x) in [0, 1] -> the image condition (b, c, y, x) float32: the mode, not scaled."""
        vae = self.vae.to(self.device)
        x = (2 * images - 1).to(self.device, next(vae.parameters()).dtype)
        return finite(torch.cat([vae.encode(each).mean for each in x.split(1)]), "autoencoder's encoder").float()

    @torch.inference_mode()
    def decode(self, z: Tensor) -> Tensor:
        """Scaled latents (b, c, y, x) -> pictures (b, 3, y, x) float32, clipped to [0, 1]."""
        vae = self.vae.to(self.device)
        z = (z / self.config.vae.scaling_factor).to(self.device, next(vae.parameters()).dtype)
        x = finite(torch.cat([vae.decode(each) for each in z.split(1)]), "autoencoder's decoder").float()
        return ((x + 1) / 2).clamp(0, 1)

    @torch.inference_mode()
    def sample(
        self,
        branches: Guidance | Callable[[float], Guidance],
        seeds: Sequence[int],
        size: tuple[int, int],
        *,
        steps: int = 100,
        sampler: str = "euler_ancestral",
        sampler_options: Mapping[str, Any] | None = None,
        spacing: str = "linspace",
        skip: int = 0,
        z0: Tensor | None = None,
        start: Tensor | None = None,
        control: Sequence[Control] = (),
        prompts: Sequence[str] = (),
        sources: Sequence[int] | None = None,
        low_memory: bool = False,
    ) -> Iterator[Step]:
        """From noise to latents of `size` (y, x), one per seed, along the guided field. The last `z` is the sample.

        skip: how many steps to leave out at the start. z0 (b, c, y, x): latents to which the initial noise is added.
        start (b, c, y, x): latents at the first noise level, in place of noise. prompts, sources: the items as
        controls see them (`control.Run`).
        """
        options = sampler_options or {}
        noise = Noise(seeds, (self.config.vae.latent_channels, *size), device=self.device)
        sigmas = self.denoiser.schedule.sigmas_for(steps, spacing)[skip:]
        if control:
            control = bind(control, self, sigmas, size, prompts or [""] * len(seeds), sources)
        denoised_at = guided(self.denoiser, branches, sequential=low_memory, control=control)
        for each in control:
            denoised_at = each.wrap(denoised_at)
        z = noise.start(sigmas[0]) if start is None else start
        z = z if z0 is None else z0 + z
        for step in get_sampler(sampler, options)(denoised_at, z, sigmas, noise=noise, **options):
            yield step
        finite(step.z, "denoiser", self.dtype)  # once: looking at numbers waits for the GPU

    def fitted(self, picture: Picture | Sequence[Picture], resolution: int | None = None, how: str = "crop") -> Any:
        """A picture at the size at which it is edited (`Fitted`), or a list of them. resolution: else the model's."""
        if is_list(picture):
            return [self.fitted(each, resolution, how) for each in picture]
        own = self.config.sampling
        image = open_image(cast(Picture, picture))
        resolution = own.resolution if resolution is None else resolution
        check(resolution=resolution)
        return fit(image, fit_size(*image.size, resolution, own.multiple), how)

    def finish(self, z: Tensor, output: str, original: Fitted | None = None) -> Any:
        """Latents (c, y, x) as the output asked for; with `original`, pixels at its size before it was fitted."""
        if output == "latent":
            return z.clone()  # outside of inference mode: an ordinary tensor
        x = self.decode(z[None])[0].clone()
        if output == "tensor" and original is None:
            return x
        image = from_tensor(x, truncate=True)
        image = image if original is None else original.restore(image)
        return to_tensor(image).to(self.device) if output == "tensor" else image

    def offload(self, low_memory: bool) -> None:
        """Move VAE and text encoder to the CPU until they are needed again."""
        if low_memory:
            self.vae.to("cpu")
            self.text_encoder.to("cpu")
