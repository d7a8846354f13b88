"""CLIP's four similarities of an edit pair, by which the paper filters its data and measures edits, and thresholds.

clip = minip2p.load_clip("openai/clip-vit-large-patch14")   # a folder; without a path, the shipped tiny CLIP
found = similarities(clip, sources, targets, captions, edited_captions)
[Thresholds().refuses(score) for score in scores(found)]    # () for a pair that the paper keeps
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..data.images import Picture, open_image, to_tensor
from ..models.clip import CLIP, Similarities
from ..text.bpe import BPE

PIXELS = {"paper": lambda x: x, "released": lambda x: 2 * x - 1}
"""How images in [0, 1] enter CLIP's normalisation: "paper" as they are, like the filter of the paper's data; "released"
in [-1, 1], like the authors' metric script, to compare with their curves"""
KEYS = {"image": "clip_sim_image", "caption_0": "clip_sim_0", "caption_1": "clip_sim_1", "direction": "clip_sim_dir"}
"""similarity -> its key in the authors' files of scores"""
RULES = {"image": "image", "caption_0": "caption", "caption_1": "caption", "direction": "direction"}
"""rule, named after its similarity -> the field of Thresholds that it is compared with"""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """The least similarities of a pair that is kept; the defaults are the paper's (section 3.1.2). -1 accepts all."""

    image: float = 0.75
    """minimum similarity of the two images"""
    caption: float = 0.2
    """minimum similarity of each image and its caption"""
    direction: float = 0.2
    """minimum similarity of the change between the images and the change between the captions"""

    def __post_init__(self):
        for name, value in ((each.name, getattr(self, each.name)) for each in fields(self)):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not -1 <= value <= 1:
                raise ValueError(f"{name} {value!r}: expected a cosine from -1 (accepts all) to 1")

    def refuses(self, score: Mapping[str, float]) -> tuple[str, ...]:
        """The RULES that a sample fails, in their order; () if it passes. `score` has the authors' KEYS. NaN fails."""
        return tuple(rule for rule, limit in RULES.items() if not score[KEYS[rule]] >= getattr(self, limit))


PAPER = Thresholds()
RELEASED = Thresholds(image=0.7)
"""of the authors' released script"""


def psnr(images: Tensor, truths: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of images (..., 3, y, x) in [0, 1]: (...), float64, on the CPU; inf if equal."""
    difference = images.detach().cpu().double() - truths.detach().cpu().double()
    return -10 * difference.square().mean(dim=(-3, -2, -1)).log10()


def changed_pixels(images: Tensor, others: Tensor) -> Tensor:
    """Fraction of the pixels in which a channel differs by more than 0.1, of images (..., 3, y, x) in [0, 1]: (...)."""
    return ((images - others).abs().amax(dim=-3) > 0.1).float().mean(dim=(-2, -1))


def similarities(
    clip: CLIP,
    sources: Sequence[Picture | Tensor],
    targets: Sequence[Picture | Tensor],
    captions: Sequence[str],
    edited_captions: Sequence[str],
    *,
    pixels: str = "paper",
    batch_size: int = 32,
    on_batch: Callable[[int, int], None] | None = None,
) -> Similarities:
    """The similarities of n pairs of images and captions: each (n,) float32 on the CPU.

    Images: anything that `open_image` reads, or tensors (3, y, x) in [0, 1]; their sizes may differ. pixels: a key of
    PIXELS. Equal captions are encoded once. on_batch(pairs done, all pairs) is called after each batch. Raises
    ValueError for lists of different lengths, an unknown key, or a tensor that is not an image.
    """
    _check(sources, targets, captions, edited_captions, pixels, batch_size)
    words = list(dict.fromkeys([*captions, *edited_captions]))
    row = {text: i for i, text in enumerate(words)}
    if isinstance(clip.tokenizer, BPE):
        clip.tokenizer.warn(words)
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
    """Unit features (n, d) float32 on the CPU of images, whose sizes may differ, as one batch."""
    weight = clip.vision.patch.weight
    with torch.inference_mode():
        sized = [clip.resize(_tensor(picture).to(weight.device)[None]) for picture in pictures]
        x = PIXELS[pixels](torch.cat(sized)).to(weight.dtype)
        return clip.encode_images(x).float().cpu()


def scores(found: Similarities) -> list[dict[str, float]]:
    """For each pair a dict with the authors' keys."""
    columns = {key: getattr(found, name).tolist() for name, key in KEYS.items()}
    return [dict(zip(columns, values)) for values in zip(*columns.values(), strict=True)]


def _tensor(picture: Picture | Tensor) -> Tensor:
    """(3, y, x) float32 in [0, 1]."""
    if not isinstance(picture, Tensor):
        return to_tensor(open_image(picture))
    if picture.dim() != 3 or len(picture) != 3 or not picture.is_floating_point() or 0 in picture.shape:
        what = f"{tuple(picture.shape)} of {picture.dtype}"
        raise ValueError(f"a tensor {what}; expected an image (3, y, x) of floats in [0, 1]")
    return in_range(picture.float(), "a tensor")


def in_range(x: Tensor, name: str) -> Tensor:
    """x itself. Raises ValueError for NaN and for values outside of 0 to 1 by more than a decoder's overshoot, 0.1."""
    low, high = (float(x.min()), float(x.max())) if x.numel() else (0.0, 1.0)
    if not -0.1 <= low <= high <= 1.1:
        raise ValueError(f"{name} holds values from {low:g} to {high:g}; expected 0 to 1")
    return x


def _check(sources, targets, captions, edited_captions, pixels: str, batch_size: int) -> None:
    for name, texts in (("captions", captions), ("edited captions", edited_captions)):
        if isinstance(texts, str):
            raise ValueError(f"{name} {texts!r:.80}: expected a list with a text for each pair")
    lengths = [len(each) for each in (sources, targets, captions, edited_captions)]
    if len(set(lengths)) > 1:
        given = "{} sources, {} targets, {} captions, {} edited captions".format(*lengths)
        raise ValueError(f"{given}: expected equal numbers")
    if pixels not in PIXELS:
        raise ValueError(f"unknown pixels {pixels!r}; expected {' or '.join(PIXELS)}")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch size {batch_size!r}: expected a whole number of at least 1")


# Against a truth


def l1(images: Tensor, truths: Tensor) -> Tensor:
    """Mean absolute error of images (b, 3, y, x) in [0, 1]: (b,)."""
    return (images - truths).abs().mean(dim=(1, 2, 3))


def l2(images: Tensor, truths: Tensor) -> Tensor:
    """Mean squared error of images (b, 3, y, x) in [0, 1]: (b,). MagicBrush calls it so; no root is taken."""
    return (images - truths).square().mean(dim=(1, 2, 3))


METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": l1, "l2": l2}
"""a word -> (images, truths), both (b, 3, y, x) in [0, 1] -> (b,)"""


def compare(images: Tensor, truths: Tensor, metrics: Sequence[str] = tuple(METRICS)) -> dict[str, Tensor]:
    """Each of `metrics`, words of METRICS, for images and their ground truths. Raises ValueError for another word or
    other shapes."""
    if unknown := [word for word in metrics if word not in METRICS]:
        raise ValueError(f"unknown metric {unknown[0]!r}; there are {', '.join(METRICS)}")
    if images.shape != truths.shape or images.dim() != 4:
        raise ValueError(f"images {tuple(images.shape)}, truths {tuple(truths.shape)}: expected (b, 3, y, x) twice")
    images, truths = in_range(images, "images"), in_range(truths, "truths")
    return {word: METRICS[word](images, truths) for word in metrics}
