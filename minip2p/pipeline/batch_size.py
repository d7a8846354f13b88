"""How many items share the denoiser's calls where nobody says: more are faster on a GPU, and take memory."""

import torch

from ..config import Config
from .core import LatentDiffusion

MOST = 8
PER_CHANNEL = 100
"""numbers that a row's call holds at its peak, per pixel and channel of its first level: 27 in Stable Diffusion's UNet
without what convolutions borrow; a CUDA graph keeps its own beside those of calls that are not recorded"""


def default_batch_size(pipe: LatentDiffusion, size: tuple[int, int], rows: int) -> int:
    """Of pictures of `size` (width, height), with so many rows each in a call: 1 on a CPU, on CUDA what fits, to 8."""
    if pipe.device.type != "cuda":
        return 1
    free = torch.cuda.mem_get_info(pipe.device)[0]
    free += torch.cuda.memory_reserved(pipe.device) - torch.cuda.memory_allocated(pipe.device)
    return fitting(free, rows * bytes_per_row(pipe.config, size, pipe.dtype.itemsize))


def fitting(free: int, item: int) -> int:
    """Items of so many bytes that fit into half of the free ones, 1 to 8; the other half is for the autoencoder."""
    return max(1, min(MOST, free // 2 // item))


def bytes_per_row(config: Config, size: tuple[int, int], itemsize: int) -> int:
    """Bytes of a row of the denoiser's call at its peak, for a picture of `size` (width, height)."""
    c = config.denoiser_config
    channels = getattr(c, "widths", [getattr(c, "width", 320)])[0]
    pixels = -(-size[0] // config.vae.factor) * -(-size[1] // config.vae.factor) // getattr(c, "patch", 1) ** 2
    return PER_CHANNEL * channels * max(1, pixels) * itemsize
