"""The denoisers by name: networks (z, t, text, control) -> prediction, with the shapes of `UNet`."""

from collections.abc import Callable

from ..config import Config
from ..nn.blocks import pick
from .dit import DiT
from .unet import UNet

Network = UNet | DiT
"""for type hints; a denoiser of your own is a module with the same methods"""
DENOISERS: dict[str, Callable[..., Network]] = {"unet": UNet, "dit": DiT}
"""`config.denoiser` -> the class, which is called with `config.denoiser_config`. It has `forward`; `checkpointing`, a
flag that training sets; and `map_sizes(size)`, which controls of attention need."""


def build_denoiser(config: Config) -> Network:
    """A denoiser with random weights. Raises ValueError for a word that is not in `DENOISERS`."""
    return pick(DENOISERS, config.denoiser, "denoiser")(config.denoiser_config)
