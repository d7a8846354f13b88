"""How good a language model's instructions are in the tiny world, whose grammar can check them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...data.captions import STOP, prompt_text
from ...pipeline import LanguageModel
from ...text.generate import Sampling
from ..grammar import check_completion, sample_triplet
from .common import held_out, markdown


@dataclass(frozen=True)
class InstructionResult:
    """A caption, the language model's completion, and what is wrong with it."""

    caption: str
    completion: str
    parts: tuple[str, str] | None
    """instruction and edited caption, if the completion is valid"""
    reason: str | None
    """why it is invalid (a rule of `data.captions`) or inconsistent (one of `grammar.REASONS`); None if neither"""

    @property
    def valid(self) -> bool:
        """Whether it has the paper's form: two parts, and an edited caption that differs."""
        return self.parts is not None

    @property
    def consistent(self) -> bool:
        """Whether it is valid and the edited caption follows from caption and instruction."""
        return self.reason is None


def evaluate_instructions(
    language_model: LanguageModel,
    n: int = 500,
    *,
    seed: int = 0,
    temperature: float = 0.7,
    batch_size: int = 16,
    on_done: Callable[[int, int], None] | None = None,
) -> list[InstructionResult]:
    """Sample one completion for each of the first n held-out captions and check it.

    Caption i has seed + i. The other settings are the paper's. on_done(completions so far, n) follows each completion.
    """
    captions = [triplet.input for triplet in held_out("instructions", n, sample_triplet)[0]]
    prompts = [prompt_text(caption) for caption in captions]
    room = language_model.config.max_length - max(map(language_model.tokens, prompts))
    sampling = Sampling(temperature=temperature, frequency_penalty=0.1, max_tokens=max(1, min(256, room)), stop=(STOP,))
    seeds, texts = range(seed, seed + n), {}
    for i, completion in language_model.completions(prompts, sampling, seeds=seeds, batch_size=batch_size):
        texts[i] = completion.text
        if on_done:
            on_done(len(texts), n)
    completed = [(caption, texts[i]) for i, caption in enumerate(captions)]
    return [InstructionResult(*each, *check_completion(*each)) for each in completed]


def table(results: Sequence[InstructionResult]) -> str:
    """As Markdown: how many completions are valid and consistent, and what is wrong with the others."""
    n, valid, consistent = len(results), sum(each.valid for each in results), sum(each.consistent for each in results)
    of_valid = f"{consistent / valid:.1%}" if valid else "-"
    row = [n, f"{valid / n:.1%}", f"{consistent / n:.1%}", of_valid]
    summary = markdown(["captions", "valid", "consistent", "consistent, of the valid"], [row])
    reasons = Counter(each.reason for each in results if each.reason is not None)
    return summary + (f"\n\n{markdown(['what is wrong', 'number'], reasons.most_common())}" if reasons else "")
