"""How good a language model's instructions are in the tiny world, whose grammar can check them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...data.captions import STOP, prompt_text
from ...pipeline import LanguageModel
from ...text.generate import Sampling
from ..grammar import change, check_completion, parse_caption, sample_triplet
from ..scenes import EDIT_KINDS
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

    @property
    def kind(self) -> str | None:
        """The one change (of EDIT_KINDS) between the captions; None if it is invalid, or there is no single change."""
        try:
            return change(parse_caption(self.caption), parse_caption(self.parts[1])) if self.parts else None
        except ValueError:
            return None


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
    """As Markdown: how many completions are valid and consistent, which edits they make, what is wrong with others."""
    n, valid, consistent = len(results), sum(each.valid for each in results), sum(each.consistent for each in results)
    of_valid = f"{consistent / valid:.1%}" if valid else "-"
    row = [n, f"{valid / n:.1%}", f"{consistent / n:.1%}", of_valid]
    tables = [markdown(["captions", "valid", "consistent", "consistent, of the valid"], [row])]
    kinds = []
    for kind in (*EDIT_KINDS, None):
        some = [each for each in results if each.valid and each.kind == kind]
        if some:
            right = sum(each.consistent for each in some)
            kinds.append(
                [kind or "no single change", len(some), f"{len(some) / valid:.1%}", f"{right / len(some):.1%}"]
            )
    if kinds:
        tables.append(markdown(["change between the captions", "valid", "of all valid", "consistent"], kinds))
    reasons = Counter(each.reason for each in results if each.reason is not None)
    if reasons:
        tables.append(markdown(["what is wrong", "number"], reasons.most_common()))
    return "\n\n".join(tables)
