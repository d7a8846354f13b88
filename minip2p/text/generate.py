"""Sampling tokens: the distribution of the next one, and a batch of texts that grow by it.

No network is used here: `generate` is given a `Reader`, which turns tokens into the logits of what follows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

import torch
from pydantic import Field
from torch import Tensor

from ..schema import AtLeast0, Length, checked

Decode = Callable[[Sequence[int]], str]


@checked
class Sampling:
    """How tokens are drawn, and where a text ends."""

    temperature: AtLeast0 = 1.0
    """logits are divided by it; 0 takes the likeliest token"""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """draw only from the likeliest tokens with this total probability (nucleus sampling, Holtzman et al. 2020)"""
    frequency_penalty: float = 0.0
    """lowers a token's logit by this for each time that it was drawn in this text, as OpenAI defines it"""
    max_tokens: Length = 256
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """texts that end the text and are cut off"""


@dataclass(frozen=True)
class Completion:
    """What followed a prompt."""

    text: str
    """without the text that stopped it"""
    ids: tuple[int, ...]
    """all tokens drawn, including those that ended it"""
    reason: str
    """"stop": a stop text or the end token came; "length": `max_tokens` were drawn before"""


class Reader(Protocol):
    """Reads rows of tokens as they grow."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """The next tokens of every row (rows, n) -> logits of what follows the last (rows, vocabulary)."""

    def keep(self, rows: Sequence[int]) -> None:
        """Continue with these rows only, given in ascending order."""


class Row:
    """One text that grows."""

    def __init__(self, number: int, before: Sequence[int], seed: int, decode: Decode):
        self.number, self.ids = number, []
        self.random = torch.Generator().manual_seed(int(seed))
        self.before, self.decode = tuple(before[-1:]), decode
        self.skip = len(decode(self.before))

    @property
    def text(self) -> str:
        """Decoded after the prompt's last token: at the start of a text a tokenizer drops a space."""
        return self.decode([*self.before, *self.ids])[self.skip :]

    def take(self, probabilities: Tensor) -> int:
        """Draw a token with the row's own generator."""
        self.ids.append(draw(probabilities, float(torch.rand((), dtype=torch.float64, generator=self.random))))
        return self.ids[-1]

    def finished(self, sampling: Sampling, eos: int) -> Completion | None:
        """The completion, if the last token ended the text."""
        text, ids = self.text, tuple(self.ids)
        if ends := [at for stop in sampling.stop if (at := text.find(stop)) >= 0]:
            return Completion(text[: min(ends)], ids, "stop")
        if ids[-1] == eos:
            return Completion(text, ids, "stop")
        return Completion(text, ids, "length") if len(ids) >= sampling.max_tokens else None


def generate(
    read: Reader,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    seeds: Sequence[int],
    eos: int,
    decode: Decode,
) -> Iterator[tuple[int, Completion]]:
    """(number of the prompt, its completion) of a batch, as they finish.

    prompts: token ids, at least one each; `read` gets them padded on the left (`left_padded`). A finished row leaves
    the batch. Each row has its own generator, from its seed: the rest of the batch changes its logits by rounding only.
    eos: the token that ends a text; decode: ids -> text.
    """
    rows = [Row(i, *each, decode) for i, each in enumerate(zip(prompts, seeds, strict=True))]
    tokens, counts = left_padded(prompts, eos)[0], None
    while rows:
        logits = read(tokens).float().cpu()
        counts = torch.zeros(logits.shape, dtype=torch.float64) if counts is None else counts
        probabilities = next_distribution(
            logits, counts, sampling.temperature, sampling.top_p, sampling.frequency_penalty
        )
        going = []
        for i, row in enumerate(rows):
            counts[i, row.take(probabilities[i])] += 1
            if completion := row.finished(sampling, eos):
                yield row.number, completion
            else:
                going.append(i)
        if len(going) < len(rows):
            rows, counts = [rows[i] for i in going], counts[going]
            read.keep(going)
        tokens = torch.tensor([row.ids[-1:] for row in rows])


def next_distribution(
    logits: Tensor, counts: Tensor, temperature: float, top_p: float, frequency_penalty: float
) -> Tensor:
    """Logits (..., v) and the number of times each token was drawn (..., v) -> probabilities (..., v) float64.

    The penalty comes first, then the temperature, then the nucleus. Raises ValueError for logits that are not finite.
    """
    x = logits.double() - frequency_penalty * counts
    x = x - x.amax(-1, keepdim=True)
    if x.isnan().any():
        raise ValueError("the language model's logits are not finite; where float16 overflows, bfloat16 does not")
    if temperature == 0:
        return torch.nn.functional.one_hot(x.argmax(-1), x.shape[-1]).double()
    p = (x / temperature).softmax(-1)
    return p if top_p >= 1 else nucleus(p, top_p)


def nucleus(p: Tensor, top_p: float) -> Tensor:
    """The smallest set of likeliest tokens whose probability reaches `top_p`, scaled to sum 1; all others 0."""
    ordered, order = p.sort(dim=-1, descending=True, stable=True)
    ahead = ordered.cumsum(-1).roll(1, -1)
    ahead[..., 0] = 0
    kept = torch.zeros_like(p).scatter(-1, order, ordered.where(ahead < top_p, 0))
    return kept / kept.sum(-1, keepdim=True)


def draw(p: Tensor, u: float) -> int:
    """The token of probabilities p (v,) at which their running sum passes u, 0 <= u < 1."""
    sums = p.cumsum(-1)
    last = int((sums < sums[-1]).sum())  # the last that is not 0: u times the sum may round up to the sum
    return min(int(torch.searchsorted(sums, u * sums[-1], right=True)), last)


def left_padded(prompts: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Texts aligned at their ends: tokens (b, n), and the number of padding tokens at the start of each row (b,)."""
    n = max(map(len, prompts))
    padding = torch.tensor([n - len(ids) for ids in prompts])
    return torch.tensor([[pad] * (n - len(ids)) + list(ids) for ids in prompts]), padding
