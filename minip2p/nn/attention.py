"""Attention: the one function that all networks use, the layer around it, and transformers over pixels.

A control (Prompt-to-Prompt, an observer, ...) is an argument, never a patch. With none, attention is
`scaled_dot_product_attention` at once; with one that only swaps queries, keys or values it still is; only a control
that needs the probabilities of this site gets an explicit softmax.
"""

from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from .blocks import NORMS, pick
from .site import AttentionControl, Site, attend_with
from .variants import GELU, SwiGLU


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    site: Site | None = None,
    control: tuple[AttentionControl, ...] = (),
    causal: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for q (b, h, n, d), k and v (b, h, m, d) -> (b, h, n, d).

    mask, broadcast to (b, h, n, m): True where a query may attend. Masks are for language, controls for images.
    Controls act one after the other: all on the inputs, then those that need this site's probabilities on these.
    """
    if site is None or not control:
        return scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
    return attend_with(control, q, k, v, site, causal, mask)


class Attention(nn.Module):
    """Multi-head attention of x (b, n, width) on `context` (b, m, context_width), or on itself."""

    def __init__(
        self,
        width: int,
        heads: int,
        context_width: int | None = None,
        *,
        bias: bool = False,
        site: Site | None = None,
        causal: bool = False,
    ):
        super().__init__()
        self.heads, self.site, self.causal = heads, site, causal
        self.q = nn.Linear(width, width, bias=bias)
        self.k = nn.Linear(context_width or width, width, bias=bias)
        self.v = nn.Linear(context_width or width, width, bias=bias)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor | None = None, control: tuple[AttentionControl, ...] = ()) -> Tensor:
        context = x if context is None else context
        q, k, v = (
            rearrange(layer(t), "b n (h d) -> b h n d", h=self.heads)
            for layer, t in ((self.q, x), (self.k, context), (self.v, context))
        )
        y = attend(q, k, v, self.site, control, self.causal)
        return self.out(rearrange(y, "b h n d -> b n (h d)"))


class GEGLU(nn.Module):
    """x * gelu(gate), both linear in the input (Shazeer 2020)."""

    def __init__(self, width: int):
        super().__init__()
        self.into = nn.Linear(width, 8 * width)
        self.out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.into(x).chunk(2, dim=-1)
        return self.out(x * gelu(gate))


FEED_FORWARD = {"geglu": GEGLU, "gelu": GELU, "swiglu": SwiGLU}

ATTENTION = {"full": ("self", "cross"), "cross": ("cross",), "self": ("self",), "none": ()}
"""word -> the attentions of each transformer block, in order; with none there is no transformer"""


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention on the text, feed-forward; each after a layer norm and with a residual."""

    def __init__(self, width: int, heads: int, text_width: int, sites: list[Site], feed_forward: str):
        super().__init__()
        self.kinds = [site.kind for site in sites]
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in sites)
        self.attentions = nn.ModuleList(
            Attention(width, heads, text_width if site.kind == "cross" else None, site=site) for site in sites
        )
        self.norm_ff = nn.LayerNorm(width)
        self.ff = pick(FEED_FORWARD, feed_forward, "feed_forward")(width)

    def forward(self, x: Tensor, text: Tensor, control: tuple = ()) -> Tensor:
        for kind, norm, attention in zip(self.kinds, self.norms, self.attentions, strict=True):
            x = x + attention(norm(x), text if kind == "cross" else None, control)
        return x + self.ff(self.norm_ff(x))


class Transformer(nn.Module):
    """Transformer blocks over the pixels of (b, c, y, x), as a residual."""

    def __init__(
        self,
        channels: int,
        heads: int,
        text_width: int,
        sites: list[list[Site]],
        *,
        norm: str,
        groups: int,
        feed_forward: str,
        linear: bool,
    ):
        super().__init__()
        self.linear = linear
        self.norm = pick(NORMS, norm, "norm")(channels, groups, 1e-6)
        self.into = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)
        self.blocks = nn.ModuleList(TransformerBlock(channels, heads, text_width, s, feed_forward) for s in sites)
        self.out = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, text: Tensor, control: tuple = ()) -> Tensor:
        h, y = self.norm(x), x.shape[2]
        h = rearrange(h if self.linear else self.into(h), "b c y x -> b (y x) c")
        h = self.into(h) if self.linear else h
        for block in self.blocks:
            h = block(h, text, control)
        h = self.out(h) if self.linear else h
        h = rearrange(h, "b (y x) c -> b c y x", y=y)
        return x + (h if self.linear else self.out(h))
