"""DINO (Caron et al. 2021): a vision transformer (Dosovitskiy et al. 2020) whose features need no captions.

Benchmarks of editing compare an edited picture with the true one by its features.
"""

import torch
from einops import rearrange
from torch import Tensor, nn

from ..config import VisionConfig
from .text_encoder import Layer

EPS = 1e-6
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""of ImageNet's pixels in [0, 1], by which pictures are normalised"""


class DINO(nn.Module):
    """Normalised images (b, 3, size, size) -> features (b, width): the class token after the last norm.

    Of CLIP's tower it lacks the first norm and the projection, so `config.projection` is not used.
    """

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.config = config
        patches = (config.image_size // config.patch_size) ** 2
        self.patch = nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size)
        self.cls = nn.Parameter(nn.init.normal_(torch.empty(1, 1, config.width), std=0.02))
        self.position = nn.Parameter(nn.init.normal_(torch.empty(1, patches + 1, config.width), std=0.02))
        self.layers = nn.ModuleList(Layer(config, causal=False, eps=EPS) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, EPS)

    def forward(self, x: Tensor) -> Tensor:
        patches = rearrange(self.patch(x), "b c y x -> b (y x) c")
        h = torch.cat([self.cls.expand(len(x), -1, -1), patches], dim=1) + self.position
        for layer in self.layers:
            h = layer(h)
        return self.norm(h[:, 0])
