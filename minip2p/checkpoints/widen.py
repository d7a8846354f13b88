"""More inputs for a trained denoiser (InstructPix2Pix, section 3.2)."""

import torch
from torch import Tensor


def widen(tensors: dict[str, Tensor], in_channels: int = 8) -> dict[str, Tensor]:
    """A UNet's tensors (our names) with `in_channels` inputs: the old first, the new with weight zero, the bias kept.

    The output equals the old one's, whatever the new inputs are. The other tensors are shared, not copied.
    """
    weight = tensors["conv_in.weight"]
    if weight.shape[1] >= in_channels:
        raise ValueError(f"the UNet has {weight.shape[1]} input channels already; widening to {in_channels} adds none")
    wide = torch.zeros(weight.shape[0], in_channels, *weight.shape[2:], dtype=weight.dtype, device=weight.device)
    wide[:, : weight.shape[1]] = weight.detach()
    return tensors | {"conv_in.weight": wide}
