"""CLIP (Radford et al. 2021): text and vision towers that embed into one space. The first also conditions denoisers."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, interpolate, normalize

from ..config import CLIPConfig, VisionConfig
from .text_encoder import Layer, TextEncoder

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class VisionEncoder(nn.Module):
    """Normalised images (b, 3, size, size) -> (b, projection)."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.config = config
        self.patch = nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size, bias=False)
        self.cls = nn.Parameter(nn.init.normal_(torch.empty(config.width), std=config.width**-0.5))
        self.position = nn.Embedding((config.image_size // config.patch_size) ** 2 + 1, config.width)
        self.norm_in = nn.LayerNorm(config.width)
        self.layers = nn.ModuleList(Layer(config, causal=False) for _ in range(config.layers))
        self.norm_out = nn.LayerNorm(config.width)
        self.projection = nn.Linear(config.width, config.projection, bias=False)

    def states(self, x: Tensor) -> Tensor:
        """All tokens after the last layer, class token first (b, 1 + patches, width)."""
        patches = rearrange(self.patch(x), "b c y x -> b (y x) c")
        h = torch.cat([self.cls.expand(len(x), 1, -1), patches], dim=1) + self.position.weight
        h = self.norm_in(h)
        for layer in self.layers:
            h = layer(h)
        return h

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(self.norm_out(self.states(x)[:, 0]))


@dataclass(frozen=True)
class Similarities:
    """Cosines of an edit pair, each (b,): both images with their captions, the two directions, the two images."""

    caption_0: Tensor
    caption_1: Tensor
    direction: Tensor
    image: Tensor

    @classmethod
    def of(cls, i0: Tensor, i1: Tensor, t0: Tensor, t1: Tensor) -> "Similarities":
        """From unit features (b, d) of the images before and after, and of their captions.

        Where the images or the captions are equal, there is no direction: it is 0.
        """
        return cls(
            cosine_similarity(i0, t0),
            cosine_similarity(i1, t1),
            cosine_similarity(i1 - i0, t1 - t0),
            cosine_similarity(i0, i1),
        )

    def __iter__(self):
        return iter((self.caption_0, self.caption_1, self.direction, self.image))


def pooled(encoder: TextEncoder, tokens: Tensor) -> Tensor:
    """The state at the first end-of-text token, projected where the tower has a projection -> (b, projection)."""
    end = (tokens == encoder.config.eos).int().argmax(dim=-1)
    state = encoder(tokens)[torch.arange(len(tokens), device=tokens.device), end]
    return state if encoder.projection is None else encoder.projection(state)


class CLIP(nn.Module):
    """Both towers. `tokenizer` (list of str -> tokens) is set when it is loaded; only texts need it."""

    def __init__(self, config: CLIPConfig, tokenizer: Callable[[list[str]], Tensor] | None = None):
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.text = TextEncoder(config.text)
        self.vision = VisionEncoder(config.vision)
        self.logit_scale = nn.Parameter(torch.tensor(2.6592))  # ln(1 / 0.07)

    def resize(self, images: Tensor) -> Tensor:
        """Images (b, 3, y, x) at the tower's size; bicubic, neither antialiased nor cropped, as the authors do it."""
        size = self.config.vision.image_size
        return interpolate(images, (size, size), mode="bicubic", align_corners=False)

    def encode_images(self, images: Tensor) -> Tensor:
        """Images (b, 3, y, x) in [0, 1], of any size (`resize`) -> unit features (b, d)."""
        x = self.resize(images)
        mean, std = (x.new_tensor(v)[:, None, None] for v in (MEAN, STD))
        return normalize(self.vision((x - mean) / std), dim=-1)

    def encode_texts(self, texts: list[str]) -> Tensor:
        """Texts -> unit features (b, d)."""
        if self.tokenizer is None:
            raise ValueError("this CLIP has no tokenizer to read texts with; set clip.tokenizer")
        tokens = self.tokenizer(texts).to(self.text.position.weight.device)
        return normalize(pooled(self.text, tokens), dim=-1)

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Logits (b, b') of every image with every text: scaled cosines, the training objective's input."""
        text = normalize(pooled(self.text, tokens), dim=-1)
        return self.logit_scale.exp() * self.encode_images(images) @ text.T

    @torch.inference_mode()
    def similarities(self, images_0: Tensor, images_1: Tensor, texts_0: list[str], texts_1: list[str]) -> Similarities:
        """The four numbers by which the paper filters pairs (section 3.1.2); direction as in StyleGAN-NADA.

        Images in [0, 1]. direction = cos(I1 - I0, T1 - T0) on unit features.
        """
        images, texts = map(self.encode_images, (images_0, images_1)), map(self.encode_texts, (texts_0, texts_1))
        return Similarities.of(*images, *texts)
