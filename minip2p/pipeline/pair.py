"""Pairs: two prompts -> two pictures that differ as little as the prompts do (Hertz et al. 2022; section 3.1.2)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..control import Control, Share
from ..control.inversion import Inversion
from ..control.run import check_fraction
from .generate import Painting, check_paints, latent_size, paint, sampling, usual_scale
from .items import Progress, as_items, batches, check_counts, check_text, check_words, in_order, run_batches

if TYPE_CHECKING:
    from .core import Pipeline


@dataclass(frozen=True, kw_only=True)
class Pair(Painting):
    """One pair to be painted. Raises ValueError for values that none can have."""

    edited_prompt: str
    share: float

    def __post_init__(self):
        check_text("edited prompt", self.edited_prompt)
        check_fraction("share", self.share)
        super().__post_init__()

    @property
    def halves(self) -> tuple[Painting, Painting]:
        """Source and edited: of one seed, one scale, one start."""
        same = {"number": self.number, "seed": self.seed, "scale": self.scale, "negative": self.negative}
        return tuple(Painting(prompt=p, start=self.start, **same) for p in (self.prompt, self.edited_prompt))


def generate_pair(
    pipe: "Pipeline", prompt: str | Sequence[str], edited_prompt: str | Sequence[str], *,
    share: float | Sequence[float] = 0.5, scale: float | Sequence[float] | None = None, steps: int | None = None,
    seed: int | Sequence[int] = 0, sampler: str | None = None, spacing: str | None = None,
    size: int | tuple[int, int] | None = None, negative: str | Sequence[str] = "",
    start: Inversion | Sequence[Inversion] | None = None, control: Sequence[Control] = (), output: str = "pil",
    low_memory: bool = False, batch_size: int = 1, on_step: Callable[[Progress], None] | None = None,
) -> Any:
    """The pictures of two prompts, (source, edited): same start, same noise at every step, shared self-attention.

    As the authors make their training pairs: while share > i / (steps - 1), the source's self-attention logits serve
    for the edited picture as well, in every layer and in both guidance branches (`control.Share`). The source is what
    `generate` paints of that seed, and no control of the edited picture changes it. share=0 and a control of
    `minip2p.control` is Prompt-to-Prompt in its own authors' way.

    Where prompts, shares, scales, seeds or starts are lists, they are equally long, and a list of pairs comes back; up
    to `batch_size` pairs share the UNet's calls. steps: 100 unless given. start: what `invert` made of a picture with
    the source's prompt, so that a real picture is edited. All else as of `generate`. Raises ValueError in the user's
    words.
    """
    how = sampling(start, steps=100 if steps is None and start is None else steps, sampler=sampler, spacing=spacing)
    check_counts(batch_size=batch_size)
    check_words(output=output)
    check_paints(pipe)
    many, items = as_items(
        Pair, prompt=prompt, edited_prompt=edited_prompt, share=share, negative=negative, seed=seed, start=start,
        scale=usual_scale(pipe, start) if scale is None else scale,
    )  # fmt: skip
    area = latent_size(pipe, size, start)

    def run(batch: Sequence[Pair]):
        rows = [half for pair in batch for half in pair.halves]
        shares = [pair.share for pair in batch for _ in range(2)]
        sources = [i - i % 2 for i in range(len(rows))]
        controls = [Share(shares), *control] if any(shares) else control
        return paint(pipe, rows, size=area, sources=sources, control=controls, low_memory=low_memory, **how)

    def finish(_: Pair, z: Tensor) -> tuple:
        source, edited = (pipe.finish(each, output) for each in z)
        return source, edited

    todo = [(batch, how["steps"]) for batch in batches(items, batch_size, lambda item: item.start is None)]
    return in_order(run_batches(todo, run, finish, on_step, partial(pipe.rest, low_memory)), many)
