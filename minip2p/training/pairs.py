"""The data of an editor, as in the paper: sets of edit pairs, as images or precomputed, alone or in a mixture."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from ..data.edits import Edits, open_edits
from ..data.latents import Latents, is_precomputed, read_header
from ..data.sizes import Sides, assign, bucket_sizes, nearest, resize_range, sides
from ..data.split import split_groups
from ..pipeline import Pipeline, fingerprint
from ..pipeline.fingerprint import text_fingerprint
from ..text.cleaning import note_of_cut
from .buckets import BucketMixture
from .config import DiffusionTraining
from .data import Example, LatentDataset, Mixture, PairDataset, Prompts
from .diffusion import DiffusionStage
from .previews import PairSheet, vary_texts

SHOWN = 4
"""pairs in a preview"""
COMPARED = 16
"""pairs whose image files are part of the mark of a set"""


def pairs_stage(config: DiffusionTraining, pipe: Pipeline) -> DiffusionStage:
    """Training on the sets of `config.data`. Pairs are held out by a hash of their caption (`data.split`).

    Where a set is so small that no pair is held out, previews show pairs that are trained on, and say so.
    """
    if len({is_precomputed(path) for path in config.data}) > 1:
        images = next(path for path in config.data if not is_precomputed(path))
        raise ValueError(f"{images}: images and precomputed sets cannot be mixed; precompute it, too")
    if config.buckets and is_precomputed(config.data[0]):
        raise ValueError(f"buckets = True: expected images; {config.data[0]} is precomputed, at one size")
    states = has_states(config, pipe)
    sets = [open_set(path, config, pipe, states) for path in config.data]
    options = {
        "sets": [trained for trained, _, _ in sets],
        "weights": config.weights or [len(trained) for trained, _, _ in sets],
        "seed": config.train.seed,
        "skip_broken": config.skip_broken,
    }
    batch_size = config.train.batch_size
    examples = BucketMixture(batch_size=batch_size, **options) if config.buckets else Mixture(**options)
    held_out = [example for _, kept, _ in sets for example in kept][: config.held_out]
    n = min(SHOWN, config.held_out)
    shown, title = held_out, "Held-out pairs"
    if not held_out:
        shown = [example for trained, _, _ in sets for example in plain_examples(trained, n, config.skip_broken)]
        title = "Pairs that are trained on: none is held out"
    draw = PairSheet(vary_texts(shown)[:n], config.preview_scales, title) if n else None
    marks = [mark for _, _, mark in sets]
    texts = [text for trained, _, _ in sets for text in trained.instructions]
    named = zip(config.data, sets, strict=True)
    notes = [note_of_buckets(path, trained) for path, (trained, _, _) in named if config.buckets]
    pipe = replace(pipe, notes=(*pipe.notes, note_of_cut(texts, pipe.tokenizer), *notes))
    origin = "; ".join(f"{path} {mark}" for path, mark in zip(config.data, marks, strict=True))
    return DiffusionStage(config, pipe, examples, held_out, draw, origin, mark="; ".join(marks), states=states)


def has_states(config: DiffusionTraining, pipe: Pipeline) -> bool:
    """Whether every set has the states that this model's text encoder, kept as it is, gives its texts."""
    if config.train_text or not all(map(is_precomputed, config.data)):
        return False
    mark = text_fingerprint(pipe)
    return all(read_header(Path(path)).get("text") == mark for path in config.data)


def open_set(
    path: str, config: DiffusionTraining, pipe: Pipeline, states: bool = False
) -> tuple[PairDataset | LatentDataset, list[Example], str]:
    """The pairs of a set to train on, those held out, and a mark of its content. states: read those of the texts."""
    texts: Latents | Texts
    if is_precomputed(path):
        texts = latents = Latents.open(path)
        latents.check(size=config.size, vae=fingerprint({"vae": pipe.vae}))
        header = json.dumps(latents.header, sort_keys=True).encode()
        mark = f"{len(latents)} pairs as latents {hashlib.sha256(header).hexdigest()[:16]}"
        sets = [LatentDataset(latents=latents, prompts=each, states=states) for each in split_prompts(latents, config)]
    else:
        edits = open_edits(path, columns=config.columns, filtered=config.filtered)
        texts = read_texts(edits, config.skip_broken)
        mark = f"{texts.mark} {images_mark(edits)}"
        prompts = split_prompts(texts, config)
        if config.buckets:
            sizes = sizes_of(edits, prompts, config, pipe.config.factor)
            mark += f" {hashlib.sha256(json.dumps(sizes).encode()).hexdigest()[:16]}"
        else:
            sizes = [[sides(config.size)] * len(each) for each in prompts]
        low, high = resize_range(config.size, config.resize)
        side = min(sides(config.size))
        resize = {each: (low * min(each) // side, high * min(each) // side) for each in {*sizes[0], *sizes[1]}}
        options = {"instructions": texts.instructions, "resize": resize, "flip": config.flip}
        sets = [
            PairDataset(edits=edits, prompts=each, sizes=theirs, **options)
            for each, theirs in zip(prompts, sizes, strict=True)
        ]
    return sets[0], plain_examples(sets[1], config.held_out, config.skip_broken), mark


@dataclass(frozen=True)
class Texts:
    """The texts of a set of image pairs, a row for each pair, as `Latents` has them, too."""

    groups: list[tuple[str, str]]
    """(group, key)"""
    instructions: list[str | None]
    """None where a pair's text cannot be read"""
    outputs: list[str | None]
    """the target's caption, if there is one"""
    mark: str
    """how many there are, and a hash of all keys and instructions"""


def read_texts(edits: Edits, skip_broken: bool) -> Texts:
    """A pair whose text cannot be read raises ValueError, or is kept, to be skipped when its turn comes."""
    groups: list[tuple[str, str]] = []
    instructions: list[str | None] = []
    outputs: list[str | None] = []
    digest = hashlib.sha256()
    for i in range(len(edits)):
        try:
            text = edits.text(i)
        except ValueError:
            if not skip_broken:
                raise
            group, instruction, output = (f"broken {i}", str(i)), None, None
        else:
            group, instruction, output = (text.group, text.key), text.instruction, text.output
            digest.update(f"{text.key}\n{text.instruction}\n".encode("utf-8", "surrogatepass"))
        groups.append(group)
        instructions.append(instruction)
        outputs.append(output)
    return Texts(groups, instructions, outputs, f"{len(edits)} pairs {digest.hexdigest()[:16]}")


def images_mark(edits: Edits) -> str:
    """A hash of the image files of some pairs, evenly spread over the set."""
    digest = hashlib.sha256()
    n = min(COMPARED, len(edits))
    for k in range(n):
        try:
            digest.update(b"".join(image.data for image in edits.files(k * len(edits) // n)))
        except ValueError:
            digest.update(b"broken")
    return digest.hexdigest()[:16]


def split_prompts(texts: Latents | Texts, config: DiffusionTraining) -> tuple[Prompts, list[list[int]]]:
    """What is trained on, and the pairs that are held out; those of the test split are neither.

    With `config.draw` = "prompts" the pairs of one caption, instruction and edited caption are put together. ValueError
    where no pair is trained on.
    """
    trained, held_out, _ = split_groups(texts.groups)
    if not trained:
        n = len(texts.groups)
        raise ValueError(f"none of the {n} pairs is in the training split, a hash of captions: add pairs")
    prompts: dict[object, list[int]] = {}
    for i in trained:
        prompt = texts.groups[i][0], texts.instructions[i], texts.outputs[i]
        prompts.setdefault(prompt if config.draw == "prompts" else i, []).append(i)
    part = part_of(list(prompts.values()), texts.groups, config.fraction, config.train.seed)
    return part, [[i] for i in held_out]


def part_of(prompts: Prompts, groups: Sequence[tuple[str, str]], fraction: float, seed: int) -> Prompts:
    """This fraction of the prompts, in their order: those with the smallest hashes of the seed and the prompt's first
    pair, so that a smaller part lies within a larger one. Raises ValueError where none is left."""

    def place(i: int) -> bytes:
        text = "\n".join((str(seed), *groups[prompts[i][0]]))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()

    if fraction == 1:
        return prompts
    n = round(fraction * len(prompts))
    if not n:
        raise ValueError(f"fraction = {fraction:g}: nothing is left of {len(prompts)} prompts; expected more of them")
    return [prompts[i] for i in sorted(sorted(range(len(prompts)), key=place)[:n])]


def sizes_of(
    edits: Edits, prompts: Sequence[Prompts], config: DiffusionTraining, factor: int
) -> tuple[list[Sides], list[Sides]]:
    """The size of the bucket of each prompt, of those trained on and of those held out: by its first pair.

    A bucket has half a batch of prompts at least, so that none is seen more than twice an epoch, unless the whole set
    has fewer. Where a source cannot be read, which is an error unless they are skipped, the prompt is in the fullest.
    """

    def shape(pair: int) -> Sides | None:
        try:
            return edits.size(pair)
        except ValueError as error:
            if not config.skip_broken:
                raise ValueError(f"{error}; --skip-broken uses other pairs instead") from None
            return None

    pairs = tqdm([each[0] for both in prompts for each in both], "reading sizes", unit="pair", leave=False, delay=2)
    shapes = [shape(pair) for pair in pairs]
    n = len(prompts[0])
    known = [shape for shape in shapes[:n] if shape]
    sizes = assign(known, bucket_sizes(config.size, factor), least=-(-config.train.batch_size // 2))
    fullest = Counter(sizes).most_common(1)[0][0] if sizes else sides(config.size)
    found = iter(sizes)
    held_out = [nearest([shape], list(dict.fromkeys(sizes)))[0] if shape and sizes else fullest for shape in shapes[n:]]
    return [next(found) if shape else fullest for shape in shapes[:n]], held_out


def note_of_buckets(path: str, trained: PairDataset) -> str:
    """How many prompts are trained on at which sizes."""
    counts = Counter(trained.sizes).most_common()
    return f"buckets of {path}: " + ", ".join(f"{x}x{y} ({n:,})" for (x, y), n in counts)


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
