"""CLIP's text tower (Radford et al. 2021), which conditions denoisers."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from ..config import TextConfig, VisionConfig
from ..nn.attention import Attention


def quick_gelu(x: Tensor) -> Tensor:
    """OpenAI's approximation of gelu."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATION: dict[str, Callable[[Tensor], Tensor]] = {"quick_gelu": quick_gelu, "gelu": gelu}


class Layer(nn.Module):
    """Pre-norm attention and feed-forward, each with a residual."""

    def __init__(self, config: TextConfig | VisionConfig, causal: bool, eps: float = 1e-5):
        super().__init__()
        self.norm_1 = nn.LayerNorm(config.width, eps)
        self.attention = Attention(config.width, config.heads, bias=True, causal=causal)
        self.norm_2 = nn.LayerNorm(config.width, eps)
        self.linear_1 = nn.Linear(config.width, config.feed_forward)
        self.linear_2 = nn.Linear(config.feed_forward, config.width)
        self.activation = ACTIVATION[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_1(x))
        return x + self.linear_2(self.activation(self.linear_1(self.norm_2(x))))


class TextEncoder(nn.Module):
    """Tokens (b, m) -> states (b, m, width): what a denoiser's cross-attention reads. Causal; padding is not masked."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config
        self.token = nn.Embedding(config.vocab_size, config.width)
        self.position = nn.Embedding(config.max_length, config.width)
        self.layers = nn.ModuleList(Layer(config, causal=True) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.projection = nn.Linear(config.width, config.projection, bias=False) if config.projection else None

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.position.weight[: tokens.shape[1]]
        for layer in self.layers[: len(self.layers) - self.config.skip_last]:
            x = layer(x)
        return self.norm(x)
