"""Encode a set of edit pairs once, so that training reads latents and texts' states (`data/latents.py`: the files).

A unit is a range of pairs. It is a pure function of the set, the networks and the settings: crops are drawn from a
hash of the seed and the pair's key, and both images of a pair are cropped and mirrored alike.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import __version__
from ..data.crops import Crop
from ..data.edits import Edits, EditText
from ..data.latents import HEADER, tar_bytes, unit_name
from ..data.sizes import resize_range, sides
from ..engines import Run, run
from ..models.vae import AutoencoderKL
from ..pipeline import Pipeline, fingerprint
from ..pipeline.fingerprint import text_fingerprint
from ..schema import Count, Pixels, Seed, Size, Threads, checked
from ..units import Result, Work


@checked
class Settings:
    """How pairs are cropped and how many are in a unit."""

    size: Size = 256
    """of the crops, in pixels: a side, or (width, height)"""
    resize: tuple[Pixels, Pixels] | None = None
    """the shorter side before a crop at random is taken: drawn between these two. None: from that of `size` to 9/8 of
    it"""
    crops: Count = 4
    """of each pair"""
    flips: bool = True
    """also encode each crop mirrored: the latent of a mirrored image is not the mirrored latent"""
    texts: bool = True
    """also encode the instructions, for training that keeps the text encoder as it is"""
    seed: Seed = 0
    unit: Count = 64
    """pairs in a tar"""
    batch: Count = 16
    """images that the autoencoder encodes together"""
    threads: Threads | None = None
    """of the CPU; None: PyTorch's own number"""

    def __post_init__(self):
        resize_range(self.size, self.resize)

    @property
    def variants(self) -> int:
        """Encoded versions of each pair."""
        return self.crops * (1 + self.flips)


@dataclass(frozen=True, kw_only=True)
class LatentMaker:
    """Makes the tar of a unit. Raises ValueError for a size that the networks do not divide.

    data: a digest of the set's items. skip_broken: a pair that cannot be read is left out instead of a ValueError.
    """

    pipe: Pipeline
    edits: Edits
    settings: Settings
    data: str
    skip_broken: bool = False

    def __post_init__(self):
        if any(side % (factor := self.pipe.config.factor) for side in sides(self.settings.size)):
            raise ValueError(
                f"size = {self.settings.size}: expected a multiple of {factor} pixels, as the networks need"
            )

    @property
    def header(self) -> dict[str, Any]:
        vae, text = self.pipe.vae, self.pipe.config.text
        width, height = (side // vae.config.factor for side in sides(self.settings.size))
        texts = {"text": text_fingerprint(self.pipe), "text_shape": [text.max_length, text.width]}
        return {
            "minip2p": __version__,
            "pairs": len(self.edits),
            "data": self.data,
            "vae": fingerprint({"vae": vae}),
            **(texts if self.settings.texts else {}),
            **asdict(self.settings),
            "size": list(size) if isinstance(size := self.settings.size, tuple) else size,
            "resize": list(resize_range(size, self.settings.resize)),
            "shape": [vae.config.latent_channels, height, width],
            "device": next(vae.parameters()).device.type,
            "made_with": {"torch": torch.__version__},
        }

    def make(self, name: str) -> Result:
        first = int(name.removesuffix(".tar"))
        items = range(first, min(first + self.settings.unit, len(self.edits)))
        encoded = encode_unit(self.pipe.vae, self.edits, items, self.settings, self.skip_broken)
        texts = {each[0].instruction: each[0] for each in encoded if not isinstance(each, ValueError)}
        states = encode_texts(self.pipe, texts) if self.settings.texts else {}
        broken = tuple(f"left out: {each}" for each in encoded if isinstance(each, ValueError))
        counts = {"pairs": len(encoded) - len(broken)} | ({"broken": len(broken)} if broken else {})
        return Result(tar_bytes(first, encoded, states), counts, broken)


def precompute(
    load: Callable[[], Pipeline],
    edits: Edits,
    settings: Settings,
    out: str | Path,
    *,
    data: str,
    skip_broken: bool = False,
    **engine: Any,
) -> Run:
    """Make all tars that are not in `out` yet; each is yielded after it was written.

    load gives the model whose networks encode; it is called once in every process that makes units. data, skip_broken:
    as for LatentMaker. engine: options of `engines.run`. Raises ValueError for a folder of another run, or that of the
    pairs; OSError that names a tar that cannot be written.
    """
    out = Path(out)
    if out.resolve() == Path(edits.path).resolve():
        raise ValueError(f"output {out}: expected another folder than that of the pairs")
    maker = partial(_load_maker, load, edits=edits, settings=settings, data=data, skip_broken=skip_broken)
    names = [f"{unit_name(at)}.tar" for at in range(0, len(edits), settings.unit)]
    return run(Work(folder=out, names=names, load=maker, header=HEADER), **engine)


def _load_maker(load: Callable[[], Pipeline], **options: Any) -> LatentMaker:
    return LatentMaker(pipe=load(), **options)


def crops_of(key: str, settings: Settings) -> list[Crop]:
    """The crops of the pair with this key, each followed by its mirrored version if there are flips."""
    seed = int.from_bytes(sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    found = []
    for k in range(settings.crops):
        rng = np.random.default_rng([settings.seed, seed, k])
        crop = Crop.draw(rng, resize_range(settings.size, settings.resize), flip=0.0)
        found += [Crop(**vars(crop) | {"flip": flip}) for flip in (False, True)[: 1 + settings.flips]]
    return found


@torch.inference_mode()
def encode_unit(
    vae: AutoencoderKL, edits: Edits, items: Sequence[int], settings: Settings, skip_broken: bool = False
) -> list[tuple[EditText, np.ndarray] | ValueError]:
    """For each item its text and (variants, 3, c, y, x) float16, or why it cannot be read."""
    found: list[tuple[EditText, Tensor] | ValueError] = []
    for i in items:
        try:
            text, _, pair = edits.read(i)
            pixels = [crop(pair.source, pair.target, sides(settings.size)) for crop in crops_of(text.key, settings)]
            found.append((text, torch.stack(pixels)))
        except ValueError as error:
            if not skip_broken:
                raise ValueError(f"{error}; --skip-broken leaves it out") from None
            found.append(error)
    pictures = [x for each in found if not isinstance(each, ValueError) for x in each[1].flatten(0, 1)]
    means, stds = [], []
    parameter = next(vae.parameters())
    for at in range(0, len(pictures), settings.batch):
        batch = torch.stack(pictures[at : at + settings.batch])
        posterior = vae.encode(batch.to(parameter.device, memory_format=torch.channels_last))
        means.append(posterior.mean.float().cpu())
        stds.append((0.5 * posterior.logvar).exp().float().cpu())
    if means:
        mean, std = (torch.cat(t).unflatten(0, (-1, settings.variants, 2)) for t in (means, stds))
        encoded = iter(torch.stack([mean[:, :, 0], mean[:, :, 1], std[:, :, 1]], dim=2).half().numpy())
    return [each if isinstance(each, ValueError) else (each[0], _finite(each[0], next(encoded))) for each in found]


def encode_texts(pipe: Pipeline, texts: Mapping[str, EditText]) -> dict[str, np.ndarray]:
    """The states (m, d) float16 of each instruction, encoded by itself."""
    states = {each: pipe.encode_text([each])[0].half().cpu().numpy() for each in texts}
    for instruction, each in states.items():
        if not np.isfinite(each).all():
            name = texts[instruction].name
            raise ValueError(f"{name}: its text's states are not finite in float16; encode without texts")
    return states


def _finite(text: EditText, latents: np.ndarray) -> np.ndarray:
    """The latents. Raises ValueError that names the pair where float16 cannot hold them, or they are no numbers."""
    if not np.isfinite(latents).all():
        raise ValueError(f"{text.name}: its latents are not finite in float16; the autoencoder does not fit the images")
    return latents
