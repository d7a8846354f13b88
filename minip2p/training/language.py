"""Training of language models: on texts from random weights, then on triplets of caption, instruction, edited caption.

The paper (section 3.1.1) fine-tunes GPT-3 for one epoch on 700 triplets that people wrote. Here it is a Llama.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from ..data.captions import Refused, Triplet, completion_text, parse_completion, prompt_text, read_triplets
from ..loading import load_language_model
from ..models.llama import Llama
from ..nn.lora import add_lora
from ..pipeline import LanguageModel
from ..text.pieces import Pieces
from .build import Files, build, load_weights
from .checkpoint_parts import write_parts
from .config import HELD_OUT, InstructionTraining, LanguageTraining
from .data import BatchSource

LORA_LAYERS = ("q", "k", "v", "out", "gate", "up", "down")
"""the linear layers that LoRA adds to: all of them (Dettmers et al. 2023 found that to matter)"""
Texts = Callable[[np.random.Generator], str]
"""a data set of texts: generator -> a text; it pickles"""
Rows = tuple[Tensor, Tensor]
"""tokens (b, n), and which of them are to be predicted (b, n)"""


@dataclass(frozen=True)
class TextData:
    """Rows of `length` tokens, filled with new texts in each step."""

    texts: Texts
    pieces: Pieces
    rows: int
    length: int
    seed: tuple[int, ...]
    """of each step: [seed[0], step, *seed[1:]]"""

    def batch(self, step: int, rows: range | None = None) -> Rows:
        first, *more = self.seed
        rng, filled = np.random.default_rng([first, step, *more]), []
        for _ in range(self.rows):
            row: list[int] = []
            while len(row) < self.length:
                row += [self.pieces.bos, *self.pieces.encode(self.texts(rng)), self.pieces.eos]
            filled.append(row[: self.length])
        tokens = torch.tensor(filled)
        return tokens, torch.ones_like(tokens, dtype=torch.bool)


class LanguageStage:
    """Next-token prediction on all tokens of a batch that are marked to be predicted."""

    def __init__(self, config: LanguageTraining | InstructionTraining, base: LanguageModel, data: BatchSource):
        self.config, self.base, self.data, self.module = config, base, data, base.model
        self.marks: dict[str, str] = {}

    def loss(self, module: Llama, batch: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        tokens, predicted = (each.to(module.token.weight.device) for each in batch)
        return next_token_loss(module, tokens, predicted)

    def language_model(self, module: Llama) -> LanguageModel:
        return replace(self.base, model=module)

    def export(self, module: Llama, path: Path, done: dict[str, int] | None = None) -> None:
        write_parts(path, module.config, {"language_model": module}, self.base.pieces, self.config, done)

    def preview(self, module: Llama, path: Path) -> dict[str, float]:
        """The loss on held-out texts; writes how the model continues the first line of one."""
        tokens, predicted = self.data.batch(HELD_OUT)
        first = self.base.pieces.decode(tokens[0].tolist()).split("\n")[0] + "\n"
        text = self.language_model(module).complete([first], max_tokens=self.config.length // 2, stop=(), seeds=[0])[0]
        path.with_suffix(".txt").write_text(first + text + "\n", encoding="utf-8")
        return {"held_out_loss": float(self.loss(module, (tokens[:64], predicted[:64]))[0])}


def language_stage(config: LanguageTraining, texts: Texts, pieces: Pieces, init_from: Files = ()) -> LanguageStage:
    """A language model from random weights, or from a file's. Its vocabulary is that of the pieces."""
    model_config = replace(config.model, vocab_size=len(pieces), bos=pieces.bos, eos=pieces.eos)
    model: Llama = build({"language_model": model_config}, config.train.seed)["language_model"]
    load_weights({"language_model": model}, init_from)
    data = TextData(texts, pieces, config.train.batch_size, config.length, (config.train.seed,))
    return LanguageStage(config, LanguageModel(model, pieces, model.config), data)


@dataclass(frozen=True)
class InstructionData:
    """Triplets as the paper's text, shuffled in each epoch; optionally with rows of other texts."""

    rows: Sequence[tuple[list[int], int]]
    """of each triplet: its tokens, and how many of them are the prompt"""
    pad: int
    batch_size: int
    seed: int
    texts: TextData | None = None

    def batch(self, step: int, rows: range | None = None) -> tuple[Tensor, ...]:
        """`Rows` of triplets, padded to the longest; then `Rows` of texts, if there are any."""
        n, numbers = len(self.rows), step * self.batch_size + np.arange(self.batch_size)
        orders = {e: np.random.default_rng([self.seed, e]).permutation(n) for e in set(numbers // n)}
        chosen = [self.rows[orders[number // n][number % n]] for number in numbers]
        longest = max(len(row) for row, _ in chosen)
        tokens = torch.stack([pad(torch.tensor(row), (0, longest - len(row)), value=self.pad) for row, _ in chosen])
        where = torch.arange(longest)
        predicted = torch.stack([(where >= prompt) & (where < len(row)) for row, prompt in chosen])
        return tokens, predicted, *(self.texts.batch(step) if self.texts else ())


class InstructionStage(LanguageStage):
    """Triplets: the loss is on the completion (instruction and edited caption) alone, and on other texts as a whole."""

    def __init__(
        self,
        config: InstructionTraining,
        base: LanguageModel,
        data: InstructionData,
        captions: Sequence[str],
        check: Callable[[str, str], bool] | None = None,
    ):
        """captions: completed in previews. check: (caption, completion) -> whether the completion is consistent."""
        super().__init__(config, base, data)
        self.captions, self.check = captions, check
        rows = hashlib.sha256(repr(data.rows).encode()).hexdigest()[:16]
        self.marks = {"data": f"{len(data.rows)} triplets {rows}"}

    def loss(self, module: Llama, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        loss, figures = super().loss(module, batch[:2])
        if len(batch) == 2:
            return loss, figures
        texts = super().loss(module, batch[2:])[0]
        return loss + texts, figures | {"loss_texts": texts.detach()}

    def preview(self, module: Llama, path: Path) -> dict[str, float]:
        """Writes completions of captions; the fraction that can be parsed, and the fraction that passes the check."""
        model, prompts = self.language_model(module), [prompt_text(caption) for caption in self.captions]
        room = module.config.max_length - max(map(model.tokens, prompts))
        completions = model.complete(prompts, max_tokens=min(self.config.length, room), seeds=range(len(prompts)))
        texts = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        path.with_suffix(".txt").write_text("\n\n".join(texts), encoding="utf-8")
        pairs = list(zip(self.captions, completions, strict=True))
        figures = {"valid": float(np.mean([is_valid(*pair) for pair in pairs]))}
        return figures | ({"consistent": float(np.mean([self.check(*pair) for pair in pairs]))} if self.check else {})


def instruction_stage(
    config: InstructionTraining,
    base: LanguageModel,
    triplets: Sequence[Triplet] | None = None,
    *,
    texts: TextData | None = None,
    captions: Sequence[str] | None = None,
    check: Callable[[str, str], bool] | None = None,
) -> InstructionStage:
    """Fine-tuning of a language model on triplets, by default those of `config.data`. captions: None takes the first.

    Raises ValueError for a triplet that is too long.
    """
    triplets = read_triplets(config.data) if triplets is None else triplets
    if config.lora_rank:
        torch.manual_seed(config.train.seed)
        add_lora(base.model, config.lora_rank, config.lora_alpha or config.lora_rank, LORA_LAYERS)
    if config.length > base.config.max_length:
        raise ValueError(
            f"length = {config.length}: the language model takes {base.config.max_length} tokens at most; give "
            f"--set length={base.config.max_length}"
        )
    rows = [encode_triplet(triplet, base.pieces, config.length, i) for i, triplet in enumerate(triplets, 1)]
    data = InstructionData(rows, base.pieces.eos, config.train.batch_size, config.train.seed, texts)
    return InstructionStage(config, base, data, captions or [each.input for each in triplets[:16]], check)


def encode_triplet(triplet: Triplet, pieces: Pieces, longest: int, number: int) -> tuple[list[int], int]:
    """A triplet's tokens, and how many of them are the prompt. ValueError where there are too many."""
    prompt = [pieces.bos, *pieces.encode(prompt_text(triplet.input))]
    row = [*prompt, *pieces.encode(completion_text(triplet.edit, triplet.output)), pieces.eos]
    if len(row) > longest:
        raise ValueError(
            f"triplet {number} has {len(row)} tokens, more than {longest}: shorten it, or give --set length={len(row)}"
        )
    return row, len(prompt)


def build_instruction_model(init_from: Files) -> LanguageModel:
    """The language model to fine-tune: a file of ours or a published folder; without one, the shipped tiny one."""
    if len(init_from) > 1:
        raise ValueError(f"--init-from {' '.join(map(str, init_from))}: expected one language model")
    base = load_language_model(*init_from)
    for weight in base.model.parameters():
        weight.data = weight.data.clone()  # it may be the mapped file
    base.model.requires_grad_(True)
    return base


def epochs_to_steps(config: InstructionTraining, triplets: int | None = None) -> InstructionTraining:
    """The config with as many steps as its epochs take, over so many triplets (None: those of `config.data`).

    The learning rate rises over no more than these.
    """
    n = len(read_triplets(config.data)) if triplets is None else triplets
    steps = max(1, math.ceil(config.epochs * n / config.train.batch_size))
    return replace(config, train=replace(config.train, steps=steps))


def is_valid(caption: str, completion: str) -> bool:
    """Whether a completion has the paper's form."""
    try:
        parse_completion(caption, completion)
    except Refused:
        return False
    return True


def next_token_loss(module: Llama, tokens: Tensor, predicted: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of each token after the first where `predicted`, the mean of these; and the accuracy."""
    kept = predicted[:, 1:]
    logits = module.logits(module.states(tokens[:, :-1])[kept]).float()
    truth = tokens[:, 1:][kept]
    return cross_entropy(logits, truth), {"accuracy": (logits.argmax(-1) == truth).float().mean()}
