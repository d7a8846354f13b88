"""Group norm in channels-last memory: exact for any size and any mean, in time and memory like PyTorch's."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

KEEPS_LAYOUT = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 15)
"""whether PyTorch's own kernel for CUDA answers in the memory layout of its input"""


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """x (b, c, y, x) of any float dtype; computed in float32, or in x's own float64."""
    if x.dtype == torch.float64 or (x.is_cuda and (KEEPS_LAYOUT or torch.is_grad_enabled())):
        return torch.nn.functional.group_norm(x, groups, weight, bias, eps)
    if x.is_cuda:
        return without_gradients(x, weight, bias, groups, eps)
    return GroupNormFunction.apply(x.float(), weight.float(), bias.float(), groups, eps).to(x.dtype)


def without_gradients(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """Group norm by reductions that are exact by themselves, as CUDA's are: x is read three times and written once.

    Moments are float32, and so is what is done with them; no float32 copy of a half-precision x is made.
    """
    b, c, height, width = x.shape
    items = x.permute(0, 2, 3, 1).view(b, height * width, groups, c // groups)
    mean = items.mean((1, 3), dtype=torch.float32)
    variance = torch.var(items, (1, 3), correction=0, out=torch.empty_like(mean))
    scale = (variance + eps).rsqrt()[..., None] * weight.view(groups, -1)
    shift = torch.addcmul(bias.view(groups, -1), mean[..., None], scale, value=-1)
    return torch.addcmul(shift.view(b, c, 1, 1), x, scale.view(b, c, 1, 1), out=torch.empty_like(x))


def moments(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance (b, groups) of float32 x (b, c, y, x) in channels-last memory, to float32's rounding.

    The pixels are dealt to columns, short enough for plain sums. PyTorch's batch statistics give each column's moments
    with the mean taken off first; those of a group are put together from its columns' (Chan et al. 1979).
    """
    b, c, height, width = x.shape
    pixels = height * width
    columns = max(1, min(pixels // 1024, 8192 // c))
    while pixels % columns:
        columns -= 1
    if pixels // columns > 4096:
        columns = width
    items = x.permute(0, 2, 3, 1).view(b, pixels // columns, columns * c, 1, 1)
    means, variances = zip(*(torch.batch_norm_update_stats(item, None, None, 0.0) for item in items))
    mean, variance = (torch.stack(each).view(b, columns, groups, c // groups) for each in (means, variances))
    between, mean = torch.var_mean(mean, (1, 3), correction=0)
    return mean, variance.mean((1, 3)) + between


class GroupNormFunction(torch.autograd.Function):
    """Group norm from exact moments, forwards and backwards, without a change of layout."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        mean, variance = moments(x, groups)
        deviation = (variance + eps).rsqrt()
        scale = deviation[..., None] * weight.view(groups, -1)
        shift = bias.view(groups, -1) - mean[..., None] * scale
        ctx.groups = groups
        ctx.save_for_backward(x, weight, mean, deviation)
        return torch.addcmul(shift.view(len(x), -1, 1, 1), x, scale.view(len(x), -1, 1, 1))

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        x, weight, mean, deviation = ctx.saved_tensors
        b, c, height, width = x.shape
        gradient, wanted = gradient.contiguous(memory_format=torch.channels_last), list(ctx.needs_input_grad[:3])
        sizes = b, c, height * width, ctx.groups
        back = torch.ops.aten.native_group_norm_backward(gradient, x, mean, deviation, weight, *sizes, wanted)
        return *back, None, None
