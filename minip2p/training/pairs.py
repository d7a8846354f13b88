"""The data of an editor, as in the paper: sets of edit pairs, as images or precomputed, alone or in a mixture."""

import hashlib
from collections.abc import Sequence

from ..data.edits import Edits, open_edits, split_of
from ..data.latents import Latents, is_precomputed
from ..pipeline import Pipeline, fingerprint
from .config import DiffusionTraining
from .data import Example, LatentDataset, Mixture, PairDataset
from .diffusion import DiffusionStage
from .previews import PairSheet, vary_texts

SHOWN = 4
"""pairs in a preview"""


def pairs_stage(config: DiffusionTraining, pipe: Pipeline) -> DiffusionStage:
    """Training on the sets of `config.data`. Pairs are held out by a hash of their caption (`data.edits.split`).

    Where a set is so small that no pair is held out, previews show pairs that are trained on, and say so.
    """
    if len({is_precomputed(path) for path in config.data}) > 1:
        images = next(path for path in config.data if not is_precomputed(path))
        raise ValueError(f"{images}: images and precomputed sets cannot be mixed; precompute it, too")
    sets = [open_set(path, config, pipe) for path in config.data]
    examples = Mixture(
        sets=[trained for trained, _, _ in sets],
        weights=config.weights or [len(trained) for trained, _, _ in sets],
        seed=config.train.seed,
        skip_broken=config.skip_broken,
    )
    held_out = [example for _, kept, _ in sets for example in kept][: config.held_out]
    n = min(SHOWN, config.held_out)
    shown, title = held_out, "Held-out pairs"
    if not held_out:
        shown = [example for trained, _, _ in sets for example in plain_examples(trained, n, config.skip_broken)]
        title = "Pairs that are trained on: none is held out"
    draw = PairSheet(vary_texts(shown)[:n], config.preview_scales, title) if n else None
    origin = "; ".join(f"{path} {mark}" for path, (_, _, mark) in zip(config.data, sets, strict=True))
    return DiffusionStage(config, pipe, examples, held_out, draw, origin)


def open_set(
    path: str, config: DiffusionTraining, pipe: Pipeline
) -> tuple[PairDataset | LatentDataset, list[Example], str]:
    """The pairs of a set to train on, those held out, and a mark of its content."""
    if is_precomputed(path):
        latents = Latents.open(path)
        latents.check(size=config.size, vae=fingerprint({"vae": pipe.vae}))
        sets = [LatentDataset(latents=latents, items=items) for items in split_groups(latents.groups)]
        mark = latents.header["data"]
    else:
        edits = open_edits(path)
        groups, mark = read_groups(edits, config.skip_broken)
        options = {"size": config.size, "resize": config.resize, "flip": config.flip}
        sets = [PairDataset(edits=edits, items=items, **options) for items in split_groups(groups)]
    return sets[0], plain_examples(sets[1], config.held_out, config.skip_broken), mark


def split_groups(groups: Sequence[str]) -> tuple[list[int], list[int]]:
    """Which items are trained on and which are held out; those of the test split are neither. ValueError where none is
    trained on."""
    splits = [split_of(group) for group in groups]
    trained, held_out = ([i for i, each in enumerate(splits) if each == which] for which in (0, 1))
    if not trained:
        raise ValueError(f"none of the {len(groups)} pairs is in the training split, a hash of captions: add pairs")
    return trained, held_out


def plain_examples(examples: PairDataset | LatentDataset, most: int, skip_broken: bool) -> list[Example]:
    """The first `most` of them, without random crops. Those that cannot be read are left out or raise ValueError."""
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
    """The group of each item, which a split keeps together; and a mark: a hash of all names and instructions.

    An item whose text cannot be read raises ValueError, or is kept, to be skipped when its turn comes.
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
