"""Other forms of the parts of blocks than Stable Diffusion 1 has, and one of its own that runs faster."""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, silu


def scale_and_shift(h: Tensor, norm: nn.Module, e: Tensor) -> Tensor:
    """Dhariwal & Nichol 2021, section 3: normalise, then scale and shift (adaptive group norm)."""
    scale, shift = e.chunk(2, dim=1)
    return norm(h) * (1 + scale) + shift


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of each pixel of (b, c, y, x)."""

    def __init__(self, channels: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x.movedim(1, -1), x.shape[1:2], self.weight, self.bias, self.eps).movedim(-1, 1)


class RMSNorm2d(nn.Module):
    """Root-mean-square norm over the channels of each pixel of (b, c, y, x) (Zhang and Sennrich 2019)."""

    def __init__(self, channels: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x.dtype)  # otherwise PyTorch warns, and takes its slow way
        return nn.functional.rms_norm(x.movedim(1, -1), x.shape[1:2], weight, self.eps).movedim(-1, 1)


class SwiGLU(nn.Module):
    """x * silu(gate), both linear in the input (Shazeer 2020)."""

    def __init__(self, width: int):
        super().__init__()
        self.into = nn.Linear(width, 8 * width)
        self.out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.into(x).chunk(2, dim=-1)
        return self.out(x * silu(gate))


class GELU(nn.Module):
    """The plain two-layer feed-forward."""

    def __init__(self, width: int):
        super().__init__()
        self.into = nn.Linear(width, 4 * width)
        self.out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(gelu(self.into(x)))


def transposed_kernel(weight: Tensor) -> Tensor:
    """The 4x4 kernel that, transposed and with stride 2, equals nearest x2 and this 3x3 convolution (o, i, 3, 3).

    Each output pixel sees every input pixel of its 3x3 window twice or once per axis, so the taps on the same
    input pixel are summed: per axis [w2, w1 + w2, w0 + w1, w0]. That is 16 products in place of 36, the same result.
    """
    sums = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], dtype=torch.float64)
    w = weight.detach().cpu().double()  # not every device has float64
    return torch.einsum("oiyx,py,qx->iopq", w, sums, sums).to(weight).contiguous()
