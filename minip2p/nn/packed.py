"""Wide layers for inference on a CPU, whose weights lie in the order in which oneDNN's kernels read them.

PyTorch's own layers put their weights in that order again at every call: where 1280 channels meet 8x8 pixels, that
takes twice as long as the convolution. Results are the same to rounding, linear layers and convolutions keep no second
copy of their weights, `state_dict` has them in PyTorch's order, and gradients flow to the input.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, linear

from .blocks import Upsample
from .variants import transposed_kernel

WIDE = 320
"""channels, in and out, of a layer that is packed; in narrower ones the order of the weights does not matter"""


class Packed(nn.Module):
    """What the layers below share: their weight is oneDNN's."""

    weight: nn.Parameter

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight.to_dense()


class PackedLinear(Packed):
    """nn.Linear: x (..., in) -> (..., out)."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), 1024)
        self.weight, self.bias = nn.Parameter(weight, requires_grad=False), layer.bias

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return linear(x, self.weight.to_dense(), self.bias)
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


class PackedConv2d(Packed):
    """nn.Conv2d: x (b, in, y, x) -> (b, out, y, x)."""

    def __init__(self, layer: nn.Conv2d):
        super().__init__()
        self.how: tuple[Any, ...] = layer.padding, layer.stride, layer.dilation, layer.groups
        size = [1, layer.in_channels, 32, 32]  # the order for some size serves all; that for none is slow
        reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
        weight = reorder(layer.weight.detach().to_mkldnn(), *self.how, size)
        self.weight, self.bias = nn.Parameter(weight, requires_grad=False), layer.bias

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            padding, stride, dilation, groups = self.how
            return torch.conv2d(x, self.weight.to_dense(), self.bias, stride, padding, dilation, groups)
        return torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *self.how, "none", [], "")


class PackedUpsample(nn.Module):
    """`Upsample.fuse`, its 4x4 transposed convolution packed: x (b, c, y, x) -> (b, c, 2y, 2x)."""

    def __init__(self, layer: Upsample):
        super().__init__()
        self.conv, self.how = layer.conv, ([1, 1], [0, 0], [2, 2], [1, 1], 1)
        size, kernel = [1, layer.conv.in_channels, 32, 32], transposed_kernel(layer.conv.weight.detach())
        fused = torch.ops.mkldnn._reorder_convolution_transpose_weight(kernel, *self.how, size)
        self.register_buffer("fused", fused, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return self.conv(interpolate(x, scale_factor=2.0, mode="nearest"))
        return torch.ops.mkldnn._convolution_transpose_pointwise(
            x, self.fused, self.conv.bias, *self.how, "none", [], ""
        )


PACKED: dict[type[nn.Module], Any] = {nn.Linear: PackedLinear, nn.Conv2d: PackedConv2d, Upsample: PackedUpsample}


def pack(network: nn.Module) -> None:
    """Replace a network's wide float32 layers on the CPU by packed ones, where PyTorch has oneDNN.

    The network is frozen (`loading.prepare`). A language model is not worth it: it reads few rows at once.
    """
    if not torch.backends.mkldnn.is_available():
        return
    for name, child in network.named_children():
        layer = child.conv if isinstance(child, Upsample) else child
        if type(child) in PACKED and isinstance(layer, nn.Linear | nn.Conv2d) and _is_wide(layer):
            setattr(network, name, PACKED[type(child)](child))
        else:
            pack(child)


def _is_wide(layer: nn.Linear | nn.Conv2d) -> bool:
    weight = layer.weight
    return min(weight.shape[:2]) >= WIDE and weight.dtype == torch.float32 and weight.device.type == "cpu"
