"""The editor's training on pairs, as the paper's: any set of them, or a mixture, of pictures or precomputed."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from ..data.edits import Edits, open_edits, share_of
from ..data.images import from_tensor
from ..data.latents import Latents, is_precomputed
from ..data.sheet import Row, lay_out
from ..diffusion import three_way
from ..pipeline import Pipeline, fingerprint
from .config import DiffusionTraining
from .diffusion import DiffusionStage, run_quickly
from .examples import Example, Mixture, Pictures, Stored

SHOWN = 4
"""held-out pairs in a preview"""


class PairsStage(DiffusionStage):
    """Held-out pairs are those that fall to validation by a hash of their caption (`data.edits.split`)."""

    def __init__(self, config: DiffusionTraining, pipe: Pipeline):
        if len({is_precomputed(path) for path in config.data}) > 1:
            pictures = next(path for path in config.data if not is_precomputed(path))
            raise ValueError(f"{pictures}: pictures and precomputed sets cannot be mixed; precompute it, too")
        sets = [open_set(path, config, pipe) for path in config.data]
        shares = config.shares or [len(trained) for trained, _, _ in sets]
        mixture = Mixture(
            sets=[trained for trained, _, _ in sets], shares=shares, seed=config.train.seed,
            skip_broken=config.skip_broken,
        )  # fmt: skip
        held_out = [example for _, kept, _ in sets for example in kept][: config.held_out]
        most = min(SHOWN, config.held_out)
        learnt = [] if held_out else [x for each, _, _ in sets for x in readable(each, most, config.skip_broken)]
        self.shown = varied(held_out or learnt)[:most]
        origin = "; ".join(f"{path} {mark}" for path, (_, _, mark) in zip(config.data, sets, strict=True))
        super().__init__(config, pipe, mixture, held_out, origin)

    def preview(self, module: nn.ModuleDict, path: Path) -> dict[str, float]:
        """Held-out pairs: input, results at several image scales, target. In a set so small that none is held out, some
        of those that it learns from, and the sheet says so."""
        if self.shown:
            title = "Held-out pairs" if self.held_out else "Pairs that it learns from: none is held out"
            sheet(self.pipeline(module), self.shown, self.config.preview_scales, title).save(path)
        return super().preview(module, path)


def varied(examples: Sequence[Example]) -> list[Example]:
    """In another order: first one of each text, then a second one, and so on."""
    times: Counter[str] = Counter()
    turns = []
    for each in examples:
        turns.append(times[each.text])
        times[each.text] += 1
    return [examples[i] for i in sorted(range(len(examples)), key=turns.__getitem__)]


def sheet(pipe: Pipeline, examples: Sequence[Example], scales: Sequence[float], title: str):
    """A row for each example, 20 steps of DDIM at the model's own text scale."""
    rows = []
    for at, each in enumerate(examples):
        source, target = pictures_of(pipe, each)
        image, text, null = pipe.encode_image(source[None]), pipe.encode_text([each.text]), pipe.encode_text([""])
        results = [
            run_quickly(pipe, three_way(pipe.config.sampling.text_scale, s, text, null, image), [0], image.shape[2:], 20)
            for s in scales
        ]
        cells = [from_tensor(x.cpu()) for x in (source, *(x[0] for x in results), target)]
        heads = ["input", *(f"image scale {s:g}" for s in scales), "target"]
        rows.append(Row("", [] if at else heads, cells, each.text or "(no instruction)"))
    scale = f"text scale {pipe.config.sampling.text_scale:g}, 20 steps of DDIM, averaged weights"
    return lay_out(title, scale, rows)


def pictures_of(pipe: Pipeline, example: Example) -> tuple[Tensor, Tensor]:
    """Source and target (3, y, x) in [0, 1]; what was precomputed is decoded."""
    if example.pixels is not None:
        return tuple(example.pixels / 2 + 0.5)
    return tuple(pipe.decode(pipe.config.vae.scaling_factor * example.latents[:2]))


def open_set(path: str, config: DiffusionTraining, pipe: Pipeline) -> tuple[Pictures | Stored, list[Example], str]:
    """The set's examples to train on, those kept back, and a mark of what is in it."""
    if is_precomputed(path):
        latents = Latents.open(path)
        latents.check(size=config.size, vae=fingerprint({"vae": pipe.vae}))
        sets = [Stored(latents=latents, items=items) for items in divide(latents.groups)]
        mark = latents.told["data"]
    else:
        edits = open_edits(path)
        groups, mark = read_groups(edits, config.skip_broken)
        options = {"size": config.size, "resize": config.resize, "flip": config.flip}
        sets = [Pictures(edits=edits, items=items, **options) for items in divide(groups)]
    return sets[0], readable(sets[1], config.held_out, config.skip_broken), mark


def divide(groups: Sequence[str]) -> tuple[list[int], list[int]]:
    """Which items are trained on, and which are kept back to validate; those to test are left alone. ValueError if all
    fall to one side."""
    shares = [share_of(group) for group in groups]
    trained, kept = ([i for i, share in enumerate(shares) if share == which] for which in (0, 1))
    if not trained:
        raise ValueError(f"none of the {len(groups)} pairs falls to training, by a hash of their captions: add pairs")
    return trained, kept


def readable(examples: Pictures | Stored, most: int, skip_broken: bool) -> list[Example]:
    """The first `most` of them, not cropped at random, without those that cannot be read if these may be skipped."""
    found: list[Example] = []
    for i in range(len(examples)):
        if len(found) == most:
            break
        try:
            found.append(examples.plain(i))
        except ValueError:
            if not skip_broken:
                raise
    return found


def read_groups(edits: Edits, skip_broken: bool) -> tuple[list[str], str]:
    """Of each item what must not come apart in a split; and a mark of what the items are called and ask for.

    An item whose text cannot be read raises ValueError, or stays, to be skipped in its turn.
    """
    groups, digest = [], hashlib.sha256()
    for i in range(len(edits)):
        try:
            text = edits.text(i)
        except ValueError:
            if not skip_broken:
                raise
            groups.append(f"broken {i}")
            continue
        groups.append(text.group)
        digest.update(f"{text.key}\n{text.instruction}\n".encode("utf-8", "surrogatepass"))
    return groups, f"{len(edits)} pairs {digest.hexdigest()[:16]}"
