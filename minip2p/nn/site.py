"""Where an attention is, and what may see and change it there: a plain call needs neither."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
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


def attend_with(
    control: tuple[AttentionControl, ...],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    site: Site,
    causal: bool,
    mask: Tensor | None,
) -> Tensor:
    """`attention.attend` where something controls it: explicit probabilities only for those that need this site's."""
    for c in control:
        q, k, v = c.inputs(q, k, v, site)
    if not any(c.needs_probs(site) for c in control):
        return scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
    p = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    for c in control:
        if c.needs_probs(site):
            p = c.probs(p, site)
    return p @ v
