"""The writer's training: a language model on captions, then on triplets of caption, instruction and edited caption.

The paper (section 3.1.1) fine-tunes GPT-3 for one epoch on 700 triplets that people wrote; here Llama's kind takes its
place. The tiny world's has read nothing before: it learns from the tiny world's captions what a caption is.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from ..data.captions import Triplet, completion_text, prompt_text, read_triplets
from ..data.grammar import read_answer, sample_requests, sample_triplet, sample_walk
from ..loading import load_writer
from ..models.llama import Llama
from ..nn.lora import add_lora
from ..pipeline.writer import Writer
from ..text.pieces import Pieces
from .config import HELD_OUT, LanguageTraining, Texts, WriterTraining
from .parts import take_part, write_parts

WORKED_ON = ("q", "k", "v", "out", "gate", "up", "down")
"""the linear layers that LoRA adds to: all of them (Dettmers et al. 2023 found that to matter)"""
Rows = tuple[Tensor, Tensor]
"""tokens (b, n) and where they are to be predicted (b, n)"""


def make_language(config: LanguageTraining, init_from: Sequence[str | Path] = ()) -> "LanguageStage":
    """A language model of random weights, or a file's, with the tiny world's pieces."""
    torch.manual_seed(config.train.seed)
    pieces = learn_pieces(config.model.vocab_size, config.triplets)
    model = Llama(replace(config.model, vocab_size=len(pieces), bos=pieces.bos, eos=pieces.eos))
    begin(model)
    for path in init_from:
        if not take_part(path, "writer", model):
            raise ValueError(f"{path}: holds nothing that is trained here; expected a language model's weights")
    return LanguageStage(config, model, pieces)


def begin(model: Llama) -> None:
    """Random weights to learn from: at first every layer adds nothing to what the tokens are.

    What layers of random weights add drowns a small model's tokens, and it takes long to learn what kind a thing is.
    """
    for name, weight in model.named_parameters():
        if name.endswith(("attention.out.weight", "down.weight")):
            nn.init.zeros_(weight)
        elif weight.ndim == 2:
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)


def make_writer(config: WriterTraining, init_from: Sequence[str | Path] = ()) -> "WriterStage":
    """The language model of `init_from`, a file of ours or a published folder; without one, the shipped tiny writer."""
    if len(init_from) > 1:
        raise ValueError(f"--init-from {' '.join(map(str, init_from))}: a writer starts from one language model")
    base = load_writer(*init_from)
    for weight in base.model.parameters():
        weight.data = weight.data.clone()  # it may lie in the file
    torch.manual_seed(config.train.seed)
    triplets = read_triplets(config.data) if config.data else own_triplets(config.triplets)
    return WriterStage(config, base.model.requires_grad_(True), base.pieces, triplets)


def epochs_as_steps(config: WriterTraining) -> WriterTraining:
    """The config with as many steps as its epochs over its triplets take."""
    n = len(read_triplets(config.data)) if config.data else config.triplets
    steps = max(1, math.ceil(config.epochs * n / config.train.batch_size))
    return replace(config, train=replace(config.train, steps=steps))


def own_triplets(n: int, seed: int = 0) -> list[Triplet]:
    """The tiny world's: n triplets, the same for one seed."""
    rng = np.random.default_rng([seed, n])
    return [sample_triplet(rng) for _ in range(n)]


@cache
def learn_pieces(size: int, triplets: int) -> Pieces:
    """The tiny world's pieces, learnt from captions and from the triplets that the writer is trained on."""
    rng = np.random.default_rng(0)
    texts = [line for _ in range(2000) for line in sample_walk(rng, 2)]
    for each in own_triplets(triplets):
        texts += [each.input, each.output, *[each.edit] * 5]  # so that words of instructions are pieces, too
    return Pieces.learn(texts, size)


def text_rows(pieces: Pieces, n: int, length: int, rng: np.random.Generator, texts: Texts) -> Rows:
    """n rows of `length` tokens, filled with walks (`sample_walk`) and lists of requests (`sample_requests`)."""
    rows = []
    for _ in range(n):
        text: list[int] = []
        while len(text) < length:
            asks = rng.random() < texts.requests
            lines = sample_requests(rng, 2 * texts.scenes) if asks else sample_walk(rng, texts.scenes)
            text += [pieces.bos, *pieces.encode("\n".join(lines)), pieces.eos]
        rows.append(text[:length])
    tokens = torch.tensor(rows)
    return tokens, torch.ones_like(tokens, dtype=torch.bool)


class LanguageStage:
    """Texts of the tiny world, a sentence a line: the loss is the next token's.

    Some tell of scenes, each one change away from the one before, with what has happened between the two ("the rain has
    stopped"); others of requests, each with what has happened then. So the model learns what the words mean, as one
    knows that has read much. It never sees a request beside a caption: that is the writer's task, learnt from triplets.
    """

    def __init__(self, config: LanguageTraining, model: Llama, pieces: Pieces):
        self.config, self.module, self.pieces = config, model, pieces

    def batch(self, step: int, rows: range | None = None) -> Rows:
        c = self.config
        rng = np.random.default_rng([c.train.seed, step])
        return text_rows(self.pieces, c.train.batch_size, c.length, rng, c.texts)

    def loss(self, module: Llama, batch: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        tokens, told = (each.to(module.token.weight.device) for each in batch)
        return next_token_loss(module, tokens, told)

    def export(self, module: Llama, path: Path, done: dict[str, int] | None = None) -> None:
        write_parts(path, module.config, {"writer": module}, self.pieces, self.config, done)

    def writer(self, module: Llama) -> Writer:
        return Writer(module, self.pieces, module.config)

    def preview(self, module: Llama, path: Path) -> dict[str, float]:
        """Held-out captions' loss; what it goes on with after one, in a text file."""
        tokens, told = self.batch(HELD_OUT)
        first = self.pieces.decode(tokens[0].tolist()).split("\n")[0] + "\n"
        text = self.writer(module).complete([first], max_tokens=self.config.length // 2, stop=(), seeds=[0])[0]
        path.with_suffix(".txt").write_text(first + text + "\n", encoding="utf-8")
        return {"held_out_loss": float(self.loss(module, (tokens[:64], told[:64]))[0])}


class WriterStage(LanguageStage):
    """Triplets in a new order each epoch, as the paper's text; the loss is on the completion alone."""

    config: WriterTraining

    def __init__(self, config: WriterTraining, model: Llama, pieces: Pieces, triplets: list[Triplet]):
        if config.lora_rank:
            add_lora(model, config.lora_rank, config.lora_alpha or config.lora_rank, WORKED_ON)
        super().__init__(config, model, pieces)
        if config.length > model.config.max_length:
            raise ValueError(
                f"length = {config.length}: the language model reads {model.config.max_length} tokens at most; give "
                f"--set length={model.config.max_length}"
            )
        self.rows = [self._row(number, triplet) for number, triplet in enumerate(triplets, 1)]

    def _row(self, number: int, triplet: Triplet) -> tuple[list[int], int]:
        """A triplet's tokens, and how many of them are the question."""
        asked = [self.pieces.bos, *self.pieces.encode(prompt_text(triplet.input))]
        row = [*asked, *self.pieces.encode(completion_text(triplet.edit, triplet.output)), self.pieces.eos]
        if len(row) > self.config.length:
            raise ValueError(
                f"triplet {number} has {len(row)} tokens, of {self.config.length} that are read: shorten it, or give "
                f"--set length={len(row)}"
            )
        return row, len(asked)

    def batch(self, step: int, rows: range | None = None) -> tuple[Tensor, ...]:
        """The step's share of the triplets, epoch after epoch, each in its own order; then texts to rehearse."""
        n, places = len(self.rows), np.arange(self.config.train.batch_size) + step * self.config.train.batch_size
        orders = {e: np.random.default_rng([self.config.train.seed, e]).permutation(n) for e in set(places // n)}
        chosen = [self.rows[orders[place // n][place % n]] for place in places]
        longest = max(len(row) for row, _ in chosen)
        padded = [pad(torch.tensor(row), (0, longest - len(row)), value=self.pieces.eos) for row, _ in chosen]
        where, c = torch.arange(longest), self.config
        told = torch.stack([(where >= asked) & (where < len(row)) for row, asked in chosen])
        rng = np.random.default_rng([c.train.seed, step, 1])
        more = text_rows(self.pieces, c.rehearsed, c.length, rng, c.texts) if c.rehearsed else ()
        return torch.stack(padded), told, *more

    def loss(self, module: Llama, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        loss, figures = super().loss(module, batch[:2])
        if len(batch) == 2:
            return loss, figures
        captions = super().loss(module, batch[2:])[0]
        return loss + captions, figures | {"loss_captions": captions.detach()}

    def preview(self, module: Llama, path: Path) -> dict[str, float]:
        """Completions of held-out captions, in a text file; how many are valid, and how many of all agree."""
        rng = np.random.default_rng([self.config.train.seed, HELD_OUT])
        asked = [sample_triplet(rng).input for _ in range(64)] if self.config.data is None else self._shown()
        writer, prompts = self.writer(module), [prompt_text(caption) for caption in asked]
        room = module.config.max_length - max(map(writer.tokens, prompts))
        told = writer.complete(prompts, max_tokens=min(self.config.length, room), seeds=range(len(asked)))
        path.with_suffix(".txt").write_text(
            "\n\n".join(prompt + text for prompt, text in zip(prompts, told, strict=True)), encoding="utf-8"
        )
        answers = [read_answer(*each) for each in zip(asked, told, strict=True)]
        figures = {"valid": float(np.mean([parts is not None for parts, _ in answers]))}
        right = float(np.mean([reason is None for _, reason in answers]))
        return figures | ({"right": right} if self.config.data is None else {})

    def _shown(self) -> list[str]:
        return [self.pieces.decode(row[1:asked]).split("\n")[0] for row, asked in self.rows[:16]]


def next_token_loss(module: Llama, tokens: Tensor, told: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of each token after the first where `told`, the mean over these; and how many are foreseen."""
    kept = told[:, 1:]
    logits = module.logits(module.states(tokens[:, :-1])[kept]).float()
    truth = tokens[:, 1:][kept]
    return cross_entropy(logits, truth), {"accuracy": (logits.argmax(-1) == truth).float().mean()}
