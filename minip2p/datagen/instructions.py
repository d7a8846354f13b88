"""From captions to instructions and edited captions, by a language model (section 3.1.1 of the paper).

A unit is a block of captions. It is a pure function of the language model, the settings and its captions: the seed of
an attempt is a hash of (run seed, caption, attempt), and a block is always cut into the same batches. This module
makes blocks, `instruction_files.py` writes them. Without any file:

    for result in instructions(minip2p.load_language_model(), ["a red cat in a meadow"], Settings(seed=1)):
        print(result.lines, result.reasons)
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Annotated, Any

from pydantic import Field

from ..data.captions import STOP, Refused, bare, distinct, parse_completion, prompt_text
from ..pipeline import LanguageModel
from ..schema import AtLeast0, Count, CountOrNone, Seed, Threads, checked
from ..text.generate import Completion, Sampling


@checked
class Settings:
    """What determines the instructions, beside the captions and the language model. The defaults are the paper's."""

    temperature: AtLeast0 = 0.7
    """of the sampling; 0 takes the most likely tokens"""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """sample from the most likely tokens that together have this probability"""
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.1
    """penalty of tokens that were sampled before"""
    max_tokens: Count = 256
    """of a completion; longer ones are rejected"""
    retries: CountOrNone = 3
    """further attempts after a rejected completion"""
    per_caption: Count = 1
    """different instructions for each caption"""
    batch_size: Count = 16
    """completions that are sampled together"""
    block: Count = 64
    """captions in a unit of work; a stopped run loses only the unfinished units"""
    seed: Seed = 0
    """random seed of the run"""
    threads: Threads | None = None
    """CPU threads, on which the rounding depends; None: PyTorch's own number, or that of the resumed run"""


@dataclass(frozen=True, kw_only=True)
class CaptionResult:
    """What came of a caption."""

    input: str
    lines: list[dict[str, Any]] = field(default_factory=list)
    """input, edit, output; language_model, seed, attempt"""
    attempts: int = 0
    """completions that were sampled"""
    reasons: list[str] = field(default_factory=list)
    """why each rejected completion was rejected; or, without any attempt, why the caption was"""


def attempt_seed(seed: int, caption: str, attempt: int) -> int:
    """The seed of an attempt, of 53 bits, which every JSON reader keeps."""
    return int.from_bytes(sha256(json.dumps([seed, caption, attempt]).encode()).digest()[:8], "big") >> 11


def instructions(
    language_model: LanguageModel, captions: Sequence[str], settings: Settings = Settings()
) -> Iterator[CaptionResult]:
    """The result of each caption, in their order. A caption that says the same as an earlier one is left out."""
    for block in blocks(distinct(captions), settings):
        yield from complete_block(language_model, block, settings)


def blocks(captions: Sequence[str], settings: Settings) -> list[Sequence[str]]:
    """The captions of each unit."""
    return [captions[at : at + settings.block] for at in range(0, len(captions), settings.block)]


def complete_block(language_model: LanguageModel, captions: Sequence[str], settings: Settings) -> list[CaptionResult]:
    """The result of each caption: all get a completion, then those again whose completion was rejected."""
    results = [CaptionResult(input=text, reasons=_unfit(language_model, text, settings)) for text in captions]
    wanted = [0 if each.reasons else settings.per_caption for each in results]
    for _ in range(1 + settings.retries):
        attempts = [
            (i, attempt, attempt_seed(settings.seed, each.input, attempt))
            for i, each in enumerate(results)
            for attempt in range(each.attempts, each.attempts + wanted[i] - len(each.lines))
        ]
        completions = _complete(language_model, [(results[i].input, seed) for i, _, seed in attempts], settings)
        for (i, attempt, seed), completion in zip(attempts, completions, strict=True):
            origin = {"language_model": language_model.fingerprint, "seed": seed, "attempt": attempt}
            results[i] = _add(results[i], completion, settings, origin)
    return results


def _complete(language_model: LanguageModel, requests: list[tuple[str, int]], settings: Settings) -> list[Completion]:
    """The completion of each (caption, seed)."""
    room = language_model.config.max_length - longest_prompt(language_model, settings)
    sampling = Sampling(
        temperature=settings.temperature,
        top_p=settings.top_p,
        frequency_penalty=settings.frequency_penalty,
        max_tokens=max(1, min(settings.max_tokens, room)),
        stop=(STOP,),
    )
    prompts, seeds = [prompt_text(caption) for caption, _ in requests], [seed for _, seed in requests]
    found = dict(language_model.completions(prompts, sampling, seeds=seeds, batch_size=settings.batch_size))
    return [found[i] for i in range(len(requests))]


def _add(result: CaptionResult, completion: Completion, settings: Settings, origin: dict[str, Any]) -> CaptionResult:
    """The result with one more completion: a line, or the reason why it was rejected."""
    attempts = result.attempts + 1
    try:
        edit, output = parse_completion(result.input, completion.text)
        if completion.reason == "length":  # beyond the paper's rules: its last sentence may be incomplete
            raise Refused("cut off at the most tokens")
        if bare(edit) in (bare(line["edit"]) for line in result.lines):
            raise Refused("the same instruction again")
    except Refused as refused:
        return replace(result, attempts=attempts, reasons=[*result.reasons, str(refused)])
    line = {"input": result.input, "edit": edit, "output": output, **origin}
    return replace(result, attempts=attempts, lines=[*result.lines, line])


def _unfit(language_model: LanguageModel, caption: str, settings: Settings) -> list[str]:
    """Why a caption is not worth an attempt, if it is not."""
    if len(caption.strip().splitlines()) != 1:
        return ["a caption that is not one line"]
    longest = longest_prompt(language_model, settings)
    if language_model.tokens(prompt_text(caption)) > longest:
        return [f"too long: the language model answers captions of {longest} tokens at most"]
    return []


def longest_prompt(language_model: LanguageModel, settings: Settings) -> int:
    """The tokens of the longest prompt that leaves room for a completion, which repeats the whole caption."""
    return min(settings.max_tokens, language_model.config.max_length // 2)
