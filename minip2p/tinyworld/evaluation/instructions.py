"""How good a language model's instructions are in the tiny world, whose grammar can check them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...data.captions import STOP, Triplet, prompt_text
from ...pipeline import LanguageModel
from ...text.generate import Sampling
from ..grammar import change, check_completion, parse_caption, sample_triplet
from ..scenes import EDIT_KINDS
from .common import held_out, markdown

NO_SINGLE_CHANGE = "no single change"
"""in place of a kind: nothing changes, more than one thing does, or the edited caption cannot be parsed"""


@dataclass(frozen=True, kw_only=True)
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
        """The kind of change between the captions: one of EDIT_KINDS or NO_SINGLE_CHANGE; None if invalid."""
        if self.parts is None:
            return None
        try:
            return change(parse_caption(self.caption), parse_caption(self.parts[1])) or NO_SINGLE_CHANGE
        except ValueError:
            return NO_SINGLE_CHANGE


def held_out_triplets(n: int) -> list[Triplet]:
    """The first n held-out triplets; language models are evaluated on their captions."""
    return held_out("instructions", n, sample_triplet)[0]


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
    captions = [triplet.input for triplet in held_out_triplets(n)]
    return _complete(language_model, captions, range(seed, seed + n), temperature, batch_size, on_done)


def retry(
    language_model: LanguageModel,
    results: Sequence[InstructionResult],
    *,
    retries: int = 3,
    seed: int = 0,
    temperature: float = 0.7,
    batch_size: int = 16,
) -> list[InstructionResult]:
    """The results as `minip2p instructions` gets them: invalid completions are sampled again, up to `retries` times."""
    results = list(results)
    for attempt in range(1, 1 + retries):
        invalid = [i for i, each in enumerate(results) if not each.valid]
        if not invalid:
            break
        seeds = [seed + attempt * len(results) + i for i in invalid]
        captions = [results[i].caption for i in invalid]
        new = _complete(language_model, captions, seeds, temperature, batch_size)
        for i, result in zip(invalid, new, strict=True):
            results[i] = result
    return results


def _complete(
    language_model: LanguageModel,
    captions: Sequence[str],
    seeds: Sequence[int],
    temperature: float,
    batch_size: int,
    on_done: Callable[[int, int], None] | None = None,
) -> list[InstructionResult]:
    prompts = [prompt_text(caption) for caption in captions]
    room = language_model.config.max_length - max(map(language_model.tokens, prompts))
    sampling = Sampling(temperature=temperature, frequency_penalty=0.1, max_tokens=max(1, min(256, room)), stop=(STOP,))
    texts: dict[int, str] = {}
    for i, completion in language_model.completions(prompts, sampling, seeds=seeds, batch_size=batch_size):
        texts[i] = completion.text
        if on_done:
            on_done(len(texts), len(prompts))
    return [check(caption, texts[i]) for i, caption in enumerate(captions)]


def check(caption: str, completion: str) -> InstructionResult:
    """Check one completion."""
    parts, reason = check_completion(caption, completion)
    return InstructionResult(caption=caption, completion=completion, parts=parts, reason=reason)


def report(results: Sequence[InstructionResult], retried: Sequence[InstructionResult] = ()) -> str:
    """As Markdown: how many are valid and consistent, by kind of change, and what is wrong with the others.

    retried: what `retry` made of the results, for a row in the first table.
    """
    if not results:
        raise ValueError("no completions to evaluate; expected at least one")
    rows = [_counts(name, some) for name, some in {"first": results, "with retries": retried}.items() if some]
    parts = [markdown(["completions", "captions", "valid", "consistent", "consistent, of the valid"], rows)]
    of_kind = {kind: [each for each in results if each.kind == kind] for kind in (*EDIT_KINDS, NO_SINGLE_CHANGE)}
    rows = [
        [kind, len(some), f"{sum(each.consistent for each in some) / len(some):.1%}"]
        for kind, some in of_kind.items()
        if some
    ]
    parts += [markdown(["kind of change", "valid", "consistent"], rows)] if rows else []
    for name, valid in (("invalid", False), ("valid but inconsistent", True)):
        reasons = Counter(each.reason for each in results if each.valid == valid and not each.consistent)
        parts += [markdown([name, "number"], reasons.most_common())] if reasons else []
    return "\n\n".join(parts)


def _counts(name: str, results: Sequence[InstructionResult]) -> list:
    n, valid = len(results), sum(each.valid for each in results)
    consistent = sum(each.consistent for each in results)
    of_valid = f"{consistent / valid:.1%}" if valid else "-"
    return [name, n, f"{valid / n:.1%}", f"{consistent / n:.1%}", of_valid]
