"""Which numbers training computes with: float32, or bfloat16 with float32 master weights (Micikevicius et al. 2018)."""

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..models.gaussian import DiagonalGaussian
from ..nn.lora import LoRA

PRODUCTS = (nn.Linear, nn.Conv2d, LoRA)
"""layers whose weights autocast reads in bfloat16"""


def computes_in_half(precision: str, device: torch.device) -> bool:
    """Whether a word of `TrainConfig.precision` means bfloat16: "auto" does on GPUs that compute in it.

    Not on CPUs with AVX512-BF16: a step of the tiny denoisers takes 0.9 to 1.05 of float32's time there.
    """
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16"


class ComputeWeights:
    """A copy of a model to compute with, under autocast: it shares the model's float32 weights, but for those of
    products, which it has in bfloat16, cast once an optimiser step. Autocast would cast them in every forward pass.

    Losses and gradients are autocast's own, bit for bit. Gradients add up in float32 in the model's weights, which
    alone are optimised, averaged and saved.
    """

    def __init__(self, model: nn.Module):
        cast = in_products_only(model)
        self.weights = [weight for weight in model.parameters() if id(weight) in cast]
        self.halves = [nn.Parameter(w.detach().bfloat16(), w.requires_grad) for w in self.weights]
        kept: dict[int, Any] = {id(x): x for x in (*model.parameters(), *model.buffers())}
        kept |= {id(w): half for w, half in zip(self.weights, self.halves, strict=True)}
        self.module = copy.deepcopy(model, kept)
        for weight, half in zip(self.weights, self.halves, strict=True):
            if half.requires_grad:
                half.register_post_accumulate_grad_hook(partial(hand_over, weight))

    @torch.no_grad()
    def refresh(self) -> None:
        """Cast the weights anew, after a step of the optimiser."""
        trained = [(half, w) for half, w in zip(self.halves, self.weights, strict=True) if w.requires_grad]
        torch._foreach_copy_([half for half, _ in trained], [weight for _, weight in trained])


def hand_over(weight: Tensor, half: Tensor) -> None:
    """Add the gradient of a weight's bfloat16 copy to the weight's own, and free it."""
    assert half.grad is not None
    weight.grad = half.grad.to(weight.dtype) if weight.grad is None else weight.grad.add_(half.grad)
    half.grad = None


def in_products_only(model: nn.Module) -> set[int]:
    """The ids of the float32 weights of `PRODUCTS` that no other layer shares, such as an embedding."""
    owned = [(module, w) for module in model.modules() for w in module.parameters(recurse=False)]
    others = {id(w) for module, w in owned if not isinstance(module, PRODUCTS)}
    return {id(w) for _, w in owned if w.dtype == torch.float32} - others


class Float32(nn.Module):
    """A layer in float32, whatever is around it."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.layer(x.float())


class HalfEncoder(nn.Module):
    """The encoder of an autoencoder in bfloat16; its last two layers, which give the moments, stay in float32."""

    def __init__(self, vae: nn.Module):
        super().__init__()
        self.encoder = ComputeWeights(vae.encoder).module
        self.encoder.conv_out = Float32(vae.encoder.conv_out)
        self.quant = vae.quant

    def encode(self, x: Tensor) -> DiagonalGaussian:
        """As the autoencoder's own: x (b, 3, y, x) in [-1, 1] -> float32 moments."""
        with torch.autocast(x.device.type, torch.bfloat16):
            features = self.encoder(x)
        mean, logvar = self.quant(features).chunk(2, dim=1)
        return DiagonalGaussian(mean, logvar.clamp(-30, 20))
