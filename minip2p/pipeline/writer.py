"""The Writer: a language model and its tokens as one value, which goes on with texts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from ..config import LlamaConfig
from ..models.llama import Cache, Llama
from ..text.generate import Completion, Sampling, generate, left_padded
from ..text.pieces import Pieces
from .core import fingerprint
from .items import Item, check_counts, check_text


@dataclass(frozen=True, eq=False)
class Writer:
    """A language model, ready to run. It runs in the dtype of its weights; probabilities are float64, on the CPU."""

    model: Llama
    pieces: Pieces
    config: LlamaConfig
    provenance: dict = field(default_factory=dict)
    """where the weights come from; travels with them"""

    def __post_init__(self):
        if len(self.pieces) > self.config.vocab_size:
            raise ValueError(
                f"a tokenizer of {len(self.pieces)} pieces for a language model of {self.config.vocab_size}; "
                "give the tokenizer.model that it was trained with"
            )

    def __repr__(self) -> str:
        size = sum(p.numel() for p in self.model.parameters())
        return f"Writer({size / 1e6:.1f} M parameters, {len(self.pieces)} pieces, {self.dtype}, {self.device})"

    @property
    def device(self) -> torch.device:
        return self.model.token.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.token.weight.dtype

    @property
    def parts(self) -> dict[str, nn.Module]:
        return {"writer": self.model}

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the weights as they were loaded, in whatever layout and on whatever device."""
        return fingerprint(self.parts)

    def tokens(self, text: str) -> int:
        """How many tokens a prompt is, the one that begins every text included."""
        return len(self._ids(text))

    def complete(
        self, prompts: Sequence[str], *, temperature: float = 0.7, top_p: float = 1.0, frequency_penalty: float = 0.1,
        max_tokens: int = 256, seeds: Sequence[int] | None = None, stop: Sequence[str] = ("\nEND",),
        batch_size: int = 16, cached: bool = True,
    ) -> list[str]:
        """What follows each prompt, up to a text of `stop`, the end token or `max_tokens`; the stop is not part of it.

        The numbers are those of `Sampling`; its defaults here are the paper's. seeds: one a prompt; left out, 0, 1, ...
        Raises ValueError as `completions` does.
        """
        sampling = Sampling(
            temperature=temperature, top_p=top_p, frequency_penalty=frequency_penalty, max_tokens=max_tokens,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
        )  # fmt: skip
        found = dict(self.completions(prompts, sampling, seeds=seeds, batch_size=batch_size, cached=cached))
        return [found[i].text for i in range(len(prompts))]

    def completions(
        self, prompts: Sequence[str], sampling: Sampling, *, seeds: Sequence[int] | None = None, batch_size: int = 16,
        cached: bool = True,
    ) -> Iterator[tuple[int, Completion]]:
        """(number of the prompt, what follows it and why it ended) as they get finished, batch after batch.

        cached=False reads each text anew for every token, to the same logits up to rounding. Raises ValueError, before
        anything is read, where a prompt and `max_tokens` are longer than what the model was trained on.
        """
        if isinstance(prompts, str):
            raise ValueError("prompts: expected a list of texts, not one text")
        seeds = range(len(prompts)) if seeds is None else seeds
        if len(seeds) != len(prompts):
            raise ValueError(f"{len(seeds)} seeds for {len(prompts)} prompts")
        seeds = [Item(number=i, seed=seed).seed for i, seed in enumerate(seeds)]
        check_counts(batch_size=batch_size)
        ids = [self._ids(prompt) for prompt in prompts]
        room = self.config.max_length - sampling.max_tokens
        for prompt, each in zip(prompts, ids, strict=True):
            if len(each) > room:
                raise ValueError(
                    f"the prompt {prompt[:40]!r} is {len(each)} tokens long, and {sampling.max_tokens} may follow: "
                    f"more than the {self.config.max_length} that the model was trained on"
                )
        return self._batches(ids, sampling, seeds, batch_size, cached)

    @torch.inference_mode()
    def _batches(
        self, ids: list[list[int]], sampling: Sampling, seeds: list[int], size: int, cached: bool
    ) -> Iterator[tuple[int, Completion]]:
        for start in range(0, len(ids), size):
            batch = ids[start : start + size]
            padding = left_padded(batch, self.config.eos)[1]
            read = (Cached if cached else Anew)(self, padding, max(map(len, batch)) + sampling.max_tokens)
            drawn = generate(
                read, batch, sampling, seeds=seeds[start : start + size], eos=self.config.eos,
                decode=self.pieces.decode,
            )  # fmt: skip
            for i, completion in drawn:
                yield start + i, completion

    def _ids(self, text: str) -> list[int]:
        check_text("prompt", text)
        return [self.config.bos, *self.pieces.encode(text)]


class Anew:
    """Reads all tokens of each row for every new one (a `text.generate.Reader`)."""

    def __init__(self, writer: Writer, padding: Tensor, length: int):
        """padding (b,) as of `left_padded`; length: more tokens than are ever read."""
        self.writer, self.padding, self.cache = writer, padding.to(writer.device), None
        self.tokens = torch.empty((len(padding), 0), dtype=torch.long, device=writer.device)

    def __call__(self, tokens: Tensor) -> Tensor:
        self.tokens = torch.cat([self.tokens, tokens.to(self.tokens.device)], dim=1)
        return self.logits(self.tokens)

    def logits(self, tokens: Tensor) -> Tensor:
        """Of what follows; the vocabulary may be padded beyond the tokenizer's pieces, and such ids are no text."""
        model, padding = self.writer.model, self.padding if self.padding.any() else None
        return model.logits(model.states(tokens, self.cache, padding)[:, -1])[:, : len(self.writer.pieces)]

    def keep(self, rows: Sequence[int]) -> None:
        rows = list(rows)
        self.tokens, self.padding = self.tokens[rows], self.padding[rows]


class Cached(Anew):
    """Reads only the new tokens, and keeps the keys and values of those before."""

    def __init__(self, writer: Writer, padding: Tensor, length: int):
        super().__init__(writer, padding, length)
        self.cache = Cache(writer.config, len(padding), length, device=writer.device, dtype=writer.dtype)

    def __call__(self, tokens: Tensor) -> Tensor:
        return self.logits(tokens.to(self.padding.device))

    def keep(self, rows: Sequence[int]) -> None:
        super().keep(rows)
        self.cache.keep(rows)
