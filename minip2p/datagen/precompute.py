"""A set of pairs -> what the autoencoder makes of them, so that training need not (`data.latents` has the files).

A unit is a run of pairs of the set. It is a pure function of (set, autoencoder, settings): crops are drawn from a hash
of the seed and the pair's key, and both pictures of a pair are cropped and mirrored alike.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import __version__
from ..checkpoints.mapped import read_json
from ..data.crops import Crop
from ..data.edits import Edits, EditText
from ..data.latents import HEADER, tar_bytes, unit_name
from ..models.vae import AutoencoderKL
from ..pipeline import fingerprint
from .claims import Claims, work_through
from .runs import check_same, create
from .units import clean, part_name, put


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How pairs are cropped and how many are in a unit."""

    size: int = 256
    """pixels a side"""
    resize: tuple[int, int] = (256, 288)
    """the shorter side, drawn between these two, before a square of `size` is cut out at random"""
    crops: int = 4
    """of each pair"""
    flips: bool = True
    """each crop mirrored, too: an autoencoder does not make the mirrored latent of a mirrored picture"""
    seed: int = 0
    unit: int = 64
    """pairs in a tar"""
    batch: int = 16
    """pictures that go through the autoencoder together"""

    def __post_init__(self):
        for name in ("size", "crops", "unit", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: expected at least 1")
        if self.seed < 0:
            raise ValueError(f"seed {self.seed}: expected at least 0")
        if len(self.resize) != 2 or not self.size <= self.resize[0] <= self.resize[1]:
            raise ValueError(f"resize {self.resize}: expected two sizes, from size {self.size} on")

    @property
    def variants(self) -> int:
        """Of each pair."""
        return self.crops * (1 + self.flips)


@dataclass(frozen=True)
class Made:
    """A unit that was made here."""

    name: str
    pairs: int
    broken: list[str]
    """why pairs are not among them"""


def precompute(
    vae: AutoencoderKL, edits: Edits, settings: Settings, out: str | Path, *, data: str, skip_broken: bool = False,
    shard: tuple[int, int] = (0, 1), patience: float = 600.0, on_wait: Callable[[str], None] | None = None,
) -> Iterator[Made]:
    """Make all tars that are not in `out` yet; any number of processes may work on one folder, as with `pairs.make`.

    data: the set's mark (what its items are). Raises ValueError for a folder of other settings,
    for a size that the autoencoder does not divide, and, unless
    skip_broken, for a pair that cannot be read; OSError that names the tar where it cannot be written.
    """
    if settings.size % vae.factor:
        raise ValueError(f"size {settings.size}: expected a multiple of {vae.factor}, for this autoencoder")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    path, ours = out / HEADER, describe(vae, edits, settings, data)
    if not path.exists():
        create(path, ours)
    check_same(path, read_json(path), ours)
    clean(out, patience)
    claims = Claims(out, patience)

    def one(name: str, items: range) -> Made | None:
        arrays = encode_unit(vae, edits, items, settings, skip_broken, on_batch=lambda: claims.touch(name))
        broken = [str(each) for each in arrays if isinstance(each, ValueError)]
        write(out / f"{name}.tar", tar_bytes(items.start, arrays))
        return Made(name, len(arrays) - len(broken), broken)

    n = settings.unit
    jobs = [(unit_name(at), range(at, min(at + n, len(edits)))) for at in range(0, len(edits), n)]
    return work_through(claims, jobs, shard, lambda name: (out / f"{name}.tar").is_file(), one, on_wait)


def write(path: Path, data: bytes) -> None:
    """Whole or not at all. What a killed process leaves beside it tells whose it was, so that `clean` removes it."""
    beside = path.with_name(part_name(path.name))
    try:
        put(beside, data)
        os.replace(beside, path)
    except OSError as error:
        raise OSError(error.errno, f"cannot be written: {error.strerror or error}".lower(), str(path)) from None
    finally:
        beside.unlink(missing_ok=True)


def describe(vae: AutoencoderKL, edits: Edits, settings: Settings, data: str) -> dict:
    """What precomputed.json holds."""
    c, side = vae.config, settings.size // vae.factor
    return (
        {"minip2p": __version__, "pairs": len(edits), "data": data, "vae": fingerprint({"vae": vae})}
        | asdict(settings) | {"resize": list(settings.resize), "shape": [c.latent_channels, side, side]}
        | {"device": next(vae.parameters()).device.type, "made_with": {"torch": torch.__version__}}
    )  # fmt: skip


def crops_of(key: str, settings: Settings) -> list[Crop]:
    """Of the pair of this key: crop k, and mirrored right after it where flips are made."""
    seed = int.from_bytes(sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    found = []
    for k in range(settings.crops):
        rng = np.random.default_rng([settings.seed, seed, k])
        crop = Crop.draw(rng, settings.resize, flip=0.0)
        found += [Crop(**vars(crop) | {"flip": flip}) for flip in (False, True)[: 1 + settings.flips]]
    return found


@torch.inference_mode()
def encode_unit(
    vae: AutoencoderKL, edits: Edits, items: Sequence[int], settings: Settings, skip_broken: bool = False,
    on_batch: Callable[[], None] | None = None,
) -> list[tuple[EditText, np.ndarray] | ValueError]:
    """Of each item its text and (variants, 3, c, y, x) float16, or why it cannot be read."""
    found: list[tuple[EditText, Tensor] | ValueError] = []
    for i in items:
        try:
            text, _, pair = edits.read(i)
            pixels = [crop(pair.source, pair.target, settings.size) for crop in crops_of(text.key, settings)]
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
        if on_batch is not None:
            on_batch()
    if means:
        mean, std = (torch.cat(t).unflatten(0, (-1, settings.variants, 2)) for t in (means, stds))
        encoded = iter(torch.stack([mean[:, :, 0], mean[:, :, 1], std[:, :, 1]], dim=2).half().numpy())
    return [each if isinstance(each, ValueError) else (each[0], next(encoded)) for each in found]
