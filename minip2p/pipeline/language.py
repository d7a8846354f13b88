"""A language model and its tokenizer as one value, which completes texts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from ..config import LlamaConfig
from ..models.llama import Cache, Llama
from ..text.generate import Completion, Sampling, generate, left_padded
from ..text.pieces import Pieces
from .batching import check
from .fingerprint import fingerprint


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A language model in the dtype of its weights; probabilities are float64, on the CPU."""

    model: Llama
    pieces: Pieces
    config: LlamaConfig
    provenance: dict = field(default_factory=dict)
    """where the weights come from; saved with them"""

    def __post_init__(self):
        if len(self.pieces) > self.config.vocab_size:
            raise ValueError(
                f"a tokenizer of {len(self.pieces)} pieces for a language model of {self.config.vocab_size}; "
                "give the tokenizer.model that it was trained with"
            )

    def __repr__(self) -> str:
        size = sum(p.numel() for p in self.model.parameters())
        return f"LanguageModel({size / 1e6:.1f} M parameters, {len(self.pieces)} pieces, {self.dtype}, {self.device})"

    @property
    def device(self) -> torch.device:
        return self.model.token.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.token.weight.dtype

    @property
    def parts(self) -> dict[str, nn.Module]:
        return {"language_model": self.model}

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the weights as they were loaded, whatever the layout and the device."""
        return fingerprint(self.parts)

    def tokens(self, text: str) -> int:
        """The number of tokens of a prompt, bos included."""
        return len(self._ids(text))

    def complete(
        self,
        prompts: Sequence[str],
        *,
        temperature: float = 0.7,
        top_p: float = 1.0,
        frequency_penalty: float = 0.1,
        max_tokens: int = 256,
        seeds: Sequence[int] | None = None,
        stop: Sequence[str] = ("\nEND",),
        batch_size: int = 16,
    ) -> list[str]:
        """What follows each prompt, up to a text of `stop`, the end token or `max_tokens`; without the stop.

        The options are those of `Sampling`, with the paper's defaults. Raises ValueError as `completions` does.
        """
        sampling = Sampling(
            temperature=temperature,
            top_p=top_p,
            frequency_penalty=frequency_penalty,
            max_tokens=max_tokens,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
        )
        found = dict(self.completions(prompts, sampling, seeds=seeds, batch_size=batch_size))
        return [found[i].text for i in range(len(prompts))]

    def completions(
        self, prompts: Sequence[str], sampling: Sampling, *, seeds: Sequence[int] | None = None, batch_size: int = 16
    ) -> Iterator[tuple[int, Completion]]:
        """(number of the prompt, its completion), as they finish. seeds: one per prompt, else 0, 1, ...

        Raises ValueError, before the first is made, where a prompt and `max_tokens` exceed the length that the model
        was trained on.
        """
        if isinstance(prompts, str):
            raise ValueError("prompts: expected a list of texts, not one text")
        seeds = range(len(prompts)) if seeds is None else seeds
        if len(seeds) != len(prompts):
            raise ValueError(f"{len(seeds)} seeds for {len(prompts)} prompts")
        check(batch_size=batch_size)
        for seed in seeds:
            check(seed=seed)
        ids = [self._ids(prompt) for prompt in prompts]
        room = self.config.max_length - sampling.max_tokens
        for prompt, each in zip(prompts, ids, strict=True):
            if len(each) > room:
                raise ValueError(
                    f"the prompt {prompt[:40]!r} is {len(each)} tokens long, and {sampling.max_tokens} may follow: "
                    f"more than the {self.config.max_length} that the model was trained on"
                )
        return self._completions(ids, sampling, seeds, batch_size)

    @torch.inference_mode()
    def _completions(
        self, ids: list[list[int]], sampling: Sampling, seeds: Sequence[int], size: int
    ) -> Iterator[tuple[int, Completion]]:
        for start in range(0, len(ids), size):
            batch = ids[start : start + size]
            padding = left_padded(batch, self.config.eos)[1]
            reader = CachedReader(self, padding, max(map(len, batch)) + sampling.max_tokens)
            found = generate(
                reader,
                batch,
                sampling,
                seeds=seeds[start : start + size],
                eos=self.config.eos,
                decode=self.pieces.decode,
            )
            for i, completion in found:
                yield start + i, completion

    def _ids(self, text: str) -> list[int]:
        check(prompt=text)
        return [self.config.bos, *self.pieces.encode(text)]


class CachedReader:
    """Reads the new tokens of each row and keeps the keys and values of those before (a `text.generate.Reader`)."""

    def __init__(self, language_model: LanguageModel, padding: Tensor, length: int):
        """padding (b,): of `left_padded`. length: at least as many tokens as a row will have."""
        self.language_model, self.padding = language_model, padding.to(language_model.device)
        self.cache = Cache(
            language_model.config, len(padding), length, device=language_model.device, dtype=language_model.dtype
        )

    def __call__(self, tokens: Tensor) -> Tensor:
        """Logits of what follows. The vocabulary may be padded beyond the tokenizer's pieces; such ids are left out."""
        model, padding = self.language_model.model, self.padding if self.padding.any() else None
        states = model.states(tokens.to(self.padding.device), self.cache, padding)
        return model.logits(states[:, -1])[:, : len(self.language_model.pieces)]

    def keep(self, rows: Sequence[int]) -> None:
        self.padding = self.padding[list(rows)]
        self.cache.keep(list(rows))
