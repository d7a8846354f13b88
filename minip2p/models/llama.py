"""Llama (Touvron et al. 2023): the language model that writes instructions. Mistral and TinyLlama are of this form.

Pre-norm layers of attention with rotary positions (Su et al. 2021) and grouped keys and values (Ainslie et al. 2023),
and a gated feed-forward (SwiGLU, Shazeer 2020); root-mean-square norms, no biases.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import rms_norm, silu
from torch.utils.checkpoint import checkpoint

from ..config import LlamaConfig
from ..nn.attention import attend


class RMSNorm(nn.Module):
    """x / sqrt(mean x^2 + eps) * weight over the last axis (Zhang and Sennrich 2019)."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x.float(), self.weight.shape, eps=self.eps).to(x.dtype) * self.weight


class Cache:
    """Keys and values of all tokens so far, for `rows` texts of at most `length` tokens each."""

    def __init__(self, config: LlamaConfig, rows: int, length: int, *, device=None, dtype=None):
        size = config.head_size or config.width // config.heads
        self.kv = torch.zeros((config.layers, 2, rows, config.kv_heads, length, size), device=device, dtype=dtype)
        self.used = 0
        """number of tokens in it"""

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values of the newest tokens (b, h, n, d). Returns all so far (b, h, m, d)."""
        end = self.used + k.shape[2]
        if end > self.kv.shape[4]:
            raise ValueError(f"{end} tokens: the cache has room for {self.kv.shape[4]}")
        self.kv[layer, 0, :, :, self.used : end], self.kv[layer, 1, :, :, self.used : end] = k, v
        return self.kv[layer, 0, :, :, :end], self.kv[layer, 1, :, :, :end]

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these texts, row numbers in ascending order. They move up in place, without a second cache."""
        for new, old in enumerate(rows):
            if new != old:
                self.kv[:, :, new, :, : self.used] = self.kv[:, :, old, :, : self.used]
        self.kv = self.kv[:, :, : len(rows)]


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Rotary positions: x (b, h, n, d) with channels i and i + d/2 turned by an angle (their eq. 34).

    turn (2, b, 1, n, d/2): the angles' cosines and sines.
    """
    cos, sin = turn.to(x.dtype)
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], dim=-1)


class Attention(nn.Module):
    """Causal self-attention; each head of keys and values serves heads / kv_heads heads of queries."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        c, size = config, config.head_size or config.width // config.heads
        self.groups, self.size = c.heads // c.kv_heads, size
        self.q = nn.Linear(c.width, c.heads * size, bias=False)
        self.k = nn.Linear(c.width, c.kv_heads * size, bias=False)
        self.v = nn.Linear(c.width, c.kv_heads * size, bias=False)
        self.out = nn.Linear(c.heads * size, c.width, bias=False)

    def forward(self, x: Tensor, turn: Tensor, mask: Tensor | None, layer: int, cache: Cache | None) -> Tensor:
        q, k, v = (rearrange(f(x), "b n (h d) -> b h n d", d=self.size) for f in (self.q, self.k, self.v))
        q, k = rotate(q, turn), rotate(k, turn)
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        if q.shape[2] == 1:  # the heads of a group, as queries of the same keys: the cache is not copied for each
            y = attend(rearrange(q, "b (h g) 1 d -> b h g d", g=self.groups), k, v, mask=mask)
            return self.out(rearrange(y, "b h g d -> b 1 (h g d)"))
        k, v = (t.repeat_interleave(self.groups, dim=1) for t in (k, v))
        y = attend(q, k, v, causal=mask is None, mask=mask)
        return self.out(rearrange(y, "b h n d -> b n (h d)"))


class Layer(nn.Module):
    """Attention and feed-forward, each after a norm and with a residual."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        c = config
        self.norm_1 = RMSNorm(c.width, c.norm_eps)
        self.attention = Attention(c)
        self.norm_2 = RMSNorm(c.width, c.norm_eps)
        self.gate = nn.Linear(c.width, c.feed_forward, bias=False)
        self.up = nn.Linear(c.width, c.feed_forward, bias=False)
        self.down = nn.Linear(c.feed_forward, c.width, bias=False)

    def forward(self, x: Tensor, turn: Tensor, mask: Tensor | None, layer: int, cache: Cache | None) -> Tensor:
        x = x + self.attention(self.norm_1(x), turn, mask, layer, cache)
        y = self.norm_2(x)
        return x + self.down(silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
    """Tokens (b, n) -> logits of what follows each (b, n, vocab_size)."""

    checkpointing = False
    """whether training keeps only each layer's input and computes the layer again on the way back"""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.config = config
        self.token = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.head = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)

    def forward(self, tokens: Tensor, cache: Cache | None = None, padding: Tensor | None = None) -> Tensor:
        return self.logits(self.states(tokens, cache, padding))

    def states(self, tokens: Tensor, cache: Cache | None = None, padding: Tensor | None = None) -> Tensor:
        """States after the last norm (b, n, width), of tokens that follow those in the cache.

        padding (b,): how many tokens at the start of each row, cached ones included, are padding: texts of unequal
        length are aligned at their ends.
        """
        used = 0 if cache is None else cache.used
        where = torch.arange(used + tokens.shape[1], device=tokens.device)
        first = where.new_zeros(1) if padding is None else padding.to(where.device)
        mask = None if padding is None and self._sees_all(used, len(where)) else self._mask(where, used, first)
        angles = self._angles((where[used:] - first[:, None]).clamp(min=0))[:, None]
        turn = torch.stack([angles.cos(), angles.sin()])
        x = self.token(tokens)
        for i, layer in enumerate(self.layers):
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, turn, mask, i, cache, use_reentrant=False)
            else:
                x = layer(x, turn, mask, i, cache)
        if cache is not None:
            cache.used += tokens.shape[1]
        return self.norm(x)

    def logits(self, states: Tensor) -> Tensor:
        """(..., width) -> (..., vocab_size)."""
        return states @ self.token.weight.T if self.head is None else self.head(states)

    def _sees_all(self, used: int, end: int) -> bool:
        """Whether no mask is needed: the newest tokens see all before them, and are either all tokens or one."""
        window = self.config.window
        return (window is None or end <= window) and (used == 0 or end - used == 1)

    def _mask(self, where: Tensor, used: int, first: Tensor) -> Tensor:
        """(b, 1, n, m): True where a new token may attend. where (m,): all places; first (b,): each text's start."""
        n, m = where[used:, None], where[None, :]
        mask = (m <= n) & (m >= first[:, None, None])
        if self.config.window is not None:
            mask &= n - m < self.config.window
        return (mask | (m == n))[:, None]  # padding attends to itself, so that no row of the softmax is empty

    def _angles(self, positions: Tensor) -> Tensor:
        """(b, n) -> (b, n, d/2) float32: position times theta^(-2 i / d)."""
        size = self.config.head_size or self.config.width // self.config.heads
        i = torch.arange(0, size, 2, device=positions.device, dtype=torch.float32)
        # one over the power, as in training: at position 4000 the last bit of a wavelength shows in the logits
        return positions[..., None].float() * (1.0 / self.config.rope_theta ** (i / size))
