"""How often a writer's instructions are good in the tiny world, whose grammar knows what each makes of a caption."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..data.captions import STOP, Triplet, prompt_text
from ..data.grammar import change, parse_caption, read_answer, sample_triplet
from ..data.scenes import EDIT_KINDS
from ..pipeline import Writer
from ..pipeline.items import check_counts
from ..text.generate import Sampling

HELD_OUT = 2**32 - 6
"""the seed of the captions that are asked about; no training draws from it"""
MANY = "no one change"
"""in place of a kind: nothing changes, or more than one thing, or what changes is not understood"""
SHOWN = 6
"""examples of each sort in the table"""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A caption, the writer's first answer, and what is wrong with it."""

    caption: str
    completion: str
    parts: tuple[str, str] | None
    """instruction and edited caption, if the completion is valid"""
    reason: str | None
    """why it is no valid completion (a rule of `data.captions`) or why its parts do not agree (one of
    `data.grammar.REASONS`); None where all is right"""

    @property
    def valid(self) -> bool:
        return self.parts is not None

    @property
    def agrees(self) -> bool:
        """Whether the edited caption is what the instruction makes of the caption."""
        return self.reason is None

    @property
    def kind(self) -> str | None:
        """The kind of change between the two captions, one of EDIT_KINDS or MANY; None if not valid."""
        if self.parts is None:
            return None
        try:
            return change(parse_caption(self.caption), parse_caption(self.parts[1])) or MANY
        except ValueError:
            return MANY


def held_out_triplets(n: int) -> list[Triplet]:
    """The first n triplets whose captions writers are judged on."""
    rng = np.random.default_rng(HELD_OUT)
    return [sample_triplet(rng) for _ in range(n)]


def judge_writer(
    writer: Writer, n: int = 500, *, seed: int = 0, temperature: float = 0.7, batch_size: int = 16,
    on_done: Callable[[int], None] | None = None,
) -> list[Judged]:
    """Ask for an instruction for each of the first n held-out captions, once, and judge the answers.

    seed: of the first caption's sampling, the next has the next. The other settings are the paper's. on_done is told
    how many answers there are, after each. Raises ValueError for n below 1.
    """
    check_counts(n=n)
    captions = [triplet.input for triplet in held_out_triplets(n)]
    return _ask(writer, captions, range(seed, seed + n), temperature, batch_size, on_done)


def ask_again(
    writer: Writer, judged: Sequence[Judged], *, retries: int = 3, seed: int = 0, temperature: float = 0.7,
    batch_size: int = 16,
) -> list[Judged]:
    """The answers as `minip2p write` comes by them: what is not valid is asked for again, up to `retries` times."""
    judged = list(judged)
    for attempt in range(1, 1 + retries):
        again = [i for i, each in enumerate(judged) if not each.valid]
        seeds = [seed + attempt * len(judged) + i for i in again]
        answers = _ask(writer, [judged[i].caption for i in again], seeds, temperature, batch_size) if again else []
        for i, answer in zip(again, answers, strict=True):
            judged[i] = answer
    return judged


def _ask(
    writer: Writer, captions: Sequence[str], seeds: Sequence[int], temperature: float, batch_size: int,
    on_done: Callable[[int], None] | None = None,
) -> list[Judged]:
    prompts = [prompt_text(caption) for caption in captions]
    room = writer.config.max_length - max(map(writer.tokens, prompts))
    most = max(1, min(256, room))
    sampling = Sampling(temperature=temperature, frequency_penalty=0.1, max_tokens=most, stop=(STOP,))
    texts: dict[int, str] = {}
    for i, completion in writer.completions(prompts, sampling, seeds=seeds, batch_size=batch_size):
        texts[i] = completion.text
        if on_done:
            on_done(len(texts))
    return [judge(caption, texts[i]) for i, caption in enumerate(captions)]


def judge(caption: str, completion: str) -> Judged:
    """What is wrong with an answer, if anything is."""
    parts, reason = read_answer(caption, completion)
    return Judged(caption=caption, completion=completion, parts=parts, reason=reason)


def table(judged: Sequence[Judged], again: Sequence[Judged] = ()) -> str:
    """As Markdown: how many are valid and agree, by kind of change, why the others are not, and some examples.

    again: the same captions' answers after `ask_again`, for a line in the first table. ValueError for none.
    """
    if not judged:
        raise ValueError("no answer was judged; expected at least one")
    rows = ["| answers | captions | valid | agree | agree, of the valid |\n|---|---|---|---|---|"]
    for name, answers in {"first": judged, "as minip2p write asks": again}.items():
        n, valid, right = len(answers), sum(j.valid for j in answers), sum(j.agrees for j in answers)
        of_valid = f"{right / valid:.1%}" if valid else "-"
        rows += [f"| {name} | {n} | {valid / n:.1%} | {right / n:.1%} | {of_valid} |"] if n else []
    kinds, agreeing = (Counter(j.kind for j in judged if fine(j)) for fine in (lambda j: j.valid, lambda j: j.agrees))
    if any(j.valid for j in judged):
        rows.append("\n| kind of change | valid | agree |\n|---|---|---|")
    for kind in (*EDIT_KINDS, MANY):
        if kinds[kind]:
            rows.append(f"| {kind} | {kinds[kind]} | {agreeing[kind] / kinds[kind]:.1%} |")
    for name, some in (
        ("not valid", [j for j in judged if not j.valid]), ("valid, does not agree", [j for j in judged if j.valid])
    ):  # fmt: skip
        reasons = Counter(j.reason for j in some if not j.agrees)
        if reasons:
            rows.append(f"\n| {name} | number |\n|---|---|")
            rows += [f"| {reason} | {times} |" for reason, times in reasons.most_common()]
    return "\n".join([*rows, *_examples(judged)])


def _examples(judged: Sequence[Judged]) -> list[str]:
    """The first few that agree, and the first few that do not, each with what is wrong."""
    rows = []
    for title, some in (
        ("Agree", [j for j in judged if j.agrees]), ("Do not", [j for j in judged if not j.agrees])
    ):  # fmt: skip
        rows += [f"\n{title}, the first {len(some[:SHOWN])}:\n"] if some else []
        for j in some[:SHOWN]:
            told = " -> ".join((f"**{j.parts[0]}**", j.parts[1])) if j.parts else repr(j.completion)
            rows.append(f"- {j.caption} -> {told}" + (f" ({j.reason})" if j.reason else ""))
    return rows
