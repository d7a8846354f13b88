"""Attention: the one function that all networks use, and the layer around it.

A control (Prompt-to-Prompt, an observer, ...) is an argument, never a patch. With none, attention is
`scaled_dot_product_attention` at once; with one that only swaps queries, keys or values it still is; only a control
that needs the probabilities of this site gets an explicit softmax.
"""

from dataclasses import dataclass
from typing import Protocol

from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True)
class Site:
    """Where in the denoiser an attention is: "down", "mid" or "up" ("mid" throughout a network of one size); "self" or
    "cross"; its number, in the order in which they run."""

    place: str
    kind: str
    index: int


class AttentionControl(Protocol):
    """Sees and changes attention in one network call, at every site. Tensors have all rows of the call.

    Whoever makes it (`minip2p.control`) knows the call's noise level and what each of its rows is.
    """

    def inputs(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> tuple[Tensor, Tensor, Tensor]: ...

    def needs_probs(self, site: Site) -> bool: ...

    def probs(self, p: Tensor, site: Site) -> Tensor: ...


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
    for c in control:
        q, k, v = c.inputs(q, k, v, site)
    if not any(c.needs_probs(site) for c in control):
        return scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
    p = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    for c in control:
        if c.needs_probs(site):
            p = c.probs(p, site)
    return p @ v


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
        if width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads")
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
