"""What a UNet's config says of its blocks and of the sizes of their attention maps."""

from collections.abc import Sequence
from itertools import count
from typing import Any

from ..config import UNetConfig
from ..nn.attention import ATTENTION, Transformer
from ..nn.blocks import ResBlock, pick
from ..nn.site import Site

EPS = 1e-5  # of the residual blocks and the output; a transformer's input norm has 1e-6


class UNetParts:
    """Makes blocks of one config, and numbers the attention sites in the order in which they run."""

    def __init__(self, config: UNetConfig):
        self.config, self.number = config, count()
        self.norm: dict[str, Any] = {"norm": config.norm, "groups": config.norm_groups}

    def res(self, c_in: int, c_out: int) -> ResBlock:
        c = self.config
        return ResBlock(c_in, c_out, eps=EPS, time_width=4 * c.widths[0], injection=c.time_injection, **self.norm)

    def attention(self, word: str, width: int, place: str, n: int) -> list[Transformer]:
        c, kinds = self.config, pick(ATTENTION, word, "attention")
        heads = c.heads or width // (c.head_size or width)
        more: dict[str, Any] = {"feed_forward": c.feed_forward, "linear": c.linear_projection, **self.norm}
        sites = [
            [[Site(place, k, next(self.number)) for k in kinds] for _ in range(c.depth)]
            for _ in range(n if kinds else 0)
        ]
        return [Transformer(width, heads, c.text_width, each, **more) for each in sites]


def attention_sizes(config: UNetConfig, size: Sequence[int]) -> list[tuple[int, int]]:
    """`UNet.map_sizes`: a level has half the sides of the one before, rounded up as its strided convolution does."""
    c, (y, x) = config, size
    words = [*c.attention[:-1], c.attention[-1] if ATTENTION[c.attention[-1]] else c.mid_attention]
    return [(-(-y // 2**i), -(-x // 2**i)) for i, word in enumerate(words) if ATTENTION[word]]
