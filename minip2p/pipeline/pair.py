"""Pairs: two prompts -> two pictures that differ as little as the prompts do (Hertz et al. 2022; section 3.1.2)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..control import Control, Share
from ..control.inversion import Inversion
from .batching import Progress, Work, check
from .core import LatentDiffusion
from .generate import GenerateItem, sample_prompts
from .settings import default_scale, latent_size, sampling


@dataclass(frozen=True, kw_only=True)
class Pair(GenerateItem):
    """One pair to generate."""

    edited_prompt: str
    share: float

    def halves(self) -> list[GenerateItem]:
        """Source and edited picture: one seed, one scale, one start."""
        same = {name: getattr(self, name) for name in ("number", "seed", "steps", "scale", "negative", "start")}
        return [GenerateItem(prompt=prompt, **same) for prompt in (self.prompt, self.edited_prompt)]


def generate_pair(
    pipe: LatentDiffusion,
    prompt: str | Sequence[str],
    edited_prompt: str | Sequence[str],
    *,
    share: float | Sequence[float] = 0.5,
    scale: float | Sequence[float] | None = None,
    steps: int | None = None,
    seed: int | Sequence[int] = 0,
    sampler: str | None = None,
    sampler_options: Mapping[str, Any] | None = None,
    spacing: str | None = None,
    size: int | tuple[int, int] | None = None,
    negative: str | Sequence[str] = "",
    start: Inversion | Sequence[Inversion] | None = None,
    control: Sequence[Control] = (),
    output: str = "pil",
    low_memory: bool = False,
    batch_size: int = 1,
    on_step: Callable[[Progress], None] | None = None,
) -> Any:
    """The pictures of two prompts, (source, edited): same start, same noise at every step, shared self-attention.

    As the authors make their training pairs: while share > i / (steps - 1), the edited picture uses the source's
    self-attention logits, in every layer and in both guidance branches (`control.Share`). The source is what `generate`
    makes of that seed; no control of the edited picture changes it. share=0 with a control of `minip2p.control` is
    Prompt-to-Prompt as its own authors do it.

    Prompts, shares, scales, seeds and starts may be lists, as for `edit`; the result is then a list of pairs. Up to
    `batch_size` pairs share the UNet's calls. steps: 100 unless given. start: what `invert` returned for a picture
    with the source's prompt, to edit a real picture. All else is as for `generate`. Raises ValueError as it does.
    """
    check(batch_size=batch_size, output=output)
    steps = 100 if steps is None and start is None else steps
    how = sampling(start, steps=steps, sampler=sampler, spacing=spacing)
    pipe.require("text-to-image")
    work = Work(
        Pair,
        on_step,
        prompt=prompt,
        edited_prompt=edited_prompt,
        share=share,
        negative=negative,
        seed=seed,
        start=start,
        scale=default_scale(pipe, start) if scale is None else scale,
        steps=how["steps"],
    )
    size = latent_size(pipe, size, start)
    for batch in work.batches(batch_size):
        # Rows are source, edited, source, edited, ...; each edited row attends with the q and k of the row before it.
        rows = [half for pair in batch for half in pair.halves()]
        sources = [i - i % 2 for i in range(len(rows))]
        shares = [pair.share for pair in batch for _ in range(2)]
        how |= {"control": [Share(shares), *control] if any(shares) else control, "sampler_options": sampler_options}
        for step in sample_prompts(pipe, rows, size, sources=sources, low_memory=low_memory, **how):
            work.report(batch, step)
        for pair, (z_source, z_edited) in zip(batch, step.z.unflatten(0, (-1, 2)), strict=True):
            work.results[pair.number] = pipe.finish(z_source, output), pipe.finish(z_edited, output)
        pipe.offload(low_memory)
    return work.in_order()
