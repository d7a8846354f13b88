"""CLIP's four numbers of edit pairs, by which the paper filters its data and measures edits, and their thresholds.

    clip = minip2p.load_clip("openai/clip-vit-large-patch14")       # a folder; without a path, the tiny world's
    found = similarities(clip, sources, targets, captions, edited_captions)
    [Thresholds().refuses(score) for score in scores(found)]        # () of a pair that the paper keeps
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..data.images import Picture, open_image, to_tensor
from ..models.clip import CLIP, Similarities

PIXELS = {"paper": lambda x: x, "released": lambda x: 2 * x - 1}
"""How pictures in [0, 1] are fed to CLIP's normalisation: as they are, which the filter of the paper's data does; or in
[-1, 1], which the authors' metric script does, so that their curves can be compared with"""
KEYS = {
    "image": "clip_sim_image", "caption_0": "clip_sim_0", "caption_1": "clip_sim_1", "direction": "clip_sim_dir"
}  # fmt: skip
"""a similarity's name -> the authors' key for it in a file of scores"""
RULES = {"image": "image", "caption_0": "caption", "caption_1": "caption", "direction": "direction"}
"""a rule, named after the similarity that it looks at -> the threshold that it holds it against"""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """The least that a pair's similarities must be; the defaults are the paper's (section 3.1.2). -1 takes all."""

    image: float = 0.75
    """of the two pictures"""
    caption: float = 0.2
    """of each picture and its caption"""
    direction: float = 0.2
    """of the pictures' change and the captions'"""

    def __post_init__(self):
        for name, value in ((each.name, getattr(self, each.name)) for each in fields(self)):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not -1 <= value <= 1:
                raise ValueError(f"{name} {value!r}: expected a cosine from -1 (takes all) to 1")

    def refuses(self, score: Mapping[str, float]) -> tuple[str, ...]:
        """The RULES that a sample falls to, in their order; none if it passes. `score` has the authors' KEYS.

        What is not a number (NaN) falls.
        """
        return tuple(rule for rule, limit in RULES.items() if not score[KEYS[rule]] >= getattr(self, limit))


PAPER = Thresholds()
RELEASED = Thresholds(image=0.7)
"""of the authors' released script"""


def similarities(
    clip: CLIP, sources: Sequence[Picture | Tensor], targets: Sequence[Picture | Tensor], captions: Sequence[str],
    edited_captions: Sequence[str], *, pixels: str = "paper", batch_size: int = 32,
    on_batch: Callable[[int, int], None] | None = None,
) -> Similarities:
    """Of pairs of pictures with their captions: each (n,), float32, on the CPU.

    Pictures: anything that `open_image` reads, or tensors (3, y, x) in [0, 1]; their sizes may differ. pixels: a word
    of PIXELS. A caption that comes again is encoded once. on_batch is told how many pairs are done, and of how many.
    Raises ValueError for lists of different lengths, an unknown word, or a tensor that is no picture.
    """
    _check(sources, targets, captions, edited_captions, pixels, batch_size)
    words = list(dict.fromkeys([*captions, *edited_captions]))
    row = {text: i for i, text in enumerate(words)}
    with torch.inference_mode():
        blocks = [clip.encode_texts(words[i : i + batch_size]).float().cpu() for i in range(0, len(words), batch_size)]
        texts = torch.cat(blocks) if blocks else torch.empty(0, clip.config.vision.projection)
        found = []
        for i in range(0, len(sources), batch_size):
            part = slice(i, i + batch_size)
            i0, i1 = (encode_pictures(clip, pictures[part], pixels) for pictures in (sources, targets))
            t0, t1 = (texts[[row[text] for text in those[part]]] for those in (captions, edited_captions))
            found.append(Similarities.of(i0, i1, t0, t1))
            if on_batch is not None:
                on_batch(min(i + batch_size, len(sources)), len(sources))
    return Similarities(*map(torch.cat, zip(*found))) if found else Similarities(*torch.empty(4, 0))


def encode_pictures(clip: CLIP, pictures: Sequence[Picture | Tensor], pixels: str = "paper") -> Tensor:
    """Unit features (n, d) of pictures whose sizes may differ, as one batch; float32, on the CPU."""
    weight = clip.vision.patch.weight
    with torch.inference_mode():
        sized = [clip.resize(_tensor(picture).to(weight.device)[None]) for picture in pictures]
        x = PIXELS[pixels](torch.cat(sized)).to(weight.dtype)
        return clip.encode_images(x).float().cpu()


def scores(found: Similarities) -> list[dict[str, float]]:
    """A dict of the authors' keys for each pair."""
    columns = {key: getattr(found, name).tolist() for name, key in KEYS.items()}
    return [dict(zip(columns, values)) for values in zip(*columns.values(), strict=True)]


def _tensor(picture: Picture | Tensor) -> Tensor:
    """(3, y, x) float32 in [0, 1]."""
    if not isinstance(picture, Tensor):
        return to_tensor(open_image(picture))
    if picture.dim() != 3 or len(picture) != 3 or not picture.is_floating_point() or 0 in picture.shape:
        what = f"{tuple(picture.shape)} of {picture.dtype}"
        raise ValueError(f"a picture as a tensor {what}; expected (3, y, x) of floats in [0, 1]")
    return picture.float()


def _check(sources, targets, captions, edited_captions, pixels: str, batch_size: int) -> None:
    for name, texts in (("captions", captions), ("edited captions", edited_captions)):
        if isinstance(texts, str):
            raise ValueError(f"{name} {texts!r:.80}: expected a list, a text for each pair")
    lengths = [len(each) for each in (sources, targets, captions, edited_captions)]
    if len(set(lengths)) > 1:
        told = "{} sources, {} targets, {} captions, {} edited captions".format(*lengths)
        raise ValueError(f"{told}: expected equally many")
    if pixels not in PIXELS:
        raise ValueError(f"unknown pixels {pixels!r}; there are {', '.join(PIXELS)}")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch size {batch_size!r}: expected a whole number of at least 1")
