"""From captions and instructions to many scored pairs of images (section 3.1.2 of the paper).

A unit is a prompt with all of its samples. It is a pure function of the settings and the prompt: seed, share and
guidance scale of a sample are drawn from a hash of (run seed, prompt id, sample), and a unit is always cut into the
same batches.

The rounding depends on the batch, the number of CPU threads and the kind of device: all three belong to the run. It
also depends on the model of the device and on PyTorch's version, which run.json records but does not compare.

    for unit in make(load, read_prompts("prompts.jsonl"), Settings(samples=16), "pairs"):  # load() -> pipe, clip
        print(unit.name, unit.counts)
"""

import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import PIL
import torch
from PIL import Image

from .. import __version__
from ..data.pair_files import PairUnit, unit_name
from ..engines import Run, run
from ..evaluation.metrics import KEYS, scores, similarities
from ..models.clip import CLIP
from ..pipeline import Pipeline, fingerprint
from ..units import Result, Work
from .plan import ENDINGS, Settings, bounds, read_prompts, sample_plan

__all__ = ["PairMaker", "Settings", "make", "make_unit", "read_prompts", "sample_plan"]


def make_unit(pipe: Pipeline, clip: CLIP, prompt: dict, settings: Settings) -> PairUnit:
    """Generate and score the samples of a prompt (a row with its id).

    CLIP sees the images as decoded and rounded to 8 bits, so scores can be computed again from PNG files; the losses
    of JPEG are not in them. Raises ValueError that names the unit.
    """
    name = unit_name(prompt["id"])
    rows: list[dict] = []
    kept: dict[int, tuple[Image.Image, Image.Image]] = {}
    best: set[int] = set()
    for at in range(0, settings.samples, settings.batch_pairs):
        batch = range(at, min(at + settings.batch_pairs, settings.samples))
        try:
            made = _make_batch(pipe, clip, prompt, settings, batch)
        except ValueError as error:
            raise ValueError(f"unit {name}: {error}") from error
        rows += [row for row, _ in made]
        best = candidates(rows, settings)
        kept |= {row["sample"]: pair for row, pair in made}
        kept = {sample: pair for sample, pair in kept.items() if sample in best}
        if settings.stop_after and len(_passed(rows, settings)) >= settings.stop_after:
            break
    scored = [row | {"candidate": row["sample"] in best} for row in rows]
    images = {
        row["seed"]: tuple(_encode(image, settings.picture) for image in kept[row["sample"]])
        for row in scored
        if row["candidate"]
    }
    return PairUnit(name=name, prompt=prompt, scores=scored, images=images, ending=settings.picture)


def candidates(rows: Sequence[dict], settings: Settings) -> set[int]:
    """The samples that pass the thresholds, at most `most`, the best by direction. Of equal seeds, which name the
    files, only one is taken."""
    passed = sorted(_passed(rows, settings), key=lambda row: (-row["clip_sim_dir"], row["sample"]))
    by_seed: dict[int, int] = {}
    for row in passed:
        by_seed.setdefault(row["seed"], row["sample"])
    return set(list(by_seed.values())[: settings.most])


def _passed(rows: Sequence[dict], settings: Settings) -> list[dict]:
    return [row for row in rows if not settings.thresholds.refuses(row)]


def _make_batch(
    pipe: Pipeline, clip: CLIP, prompt: dict, settings: Settings, batch: range
) -> list[tuple[dict, tuple[Image.Image, Image.Image]]]:
    """(scores, images) of each sample of a batch."""
    plans = [sample_plan(settings, prompt["id"], sample) for sample in batch]
    seeds, shares, scales = (list(column) for column in zip(*plans, strict=True))
    options = {name: getattr(settings, name) for name in ("steps", "sampler", "spacing", "size")}
    options |= {"scale": scales, "batch_size": settings.batch_pairs}
    before, after = ([prompt[key]] * len(batch) for key in ("input", "output"))
    if settings.independent_noise:
        others = [sample_plan(settings, prompt["id"], settings.samples + sample).seed for sample in batch]
        sides = (pipe.generate(texts, seed=each, **options) for texts, each in ((before, seeds), (after, others)))
        pairs = list(zip(*sides, strict=True))
    else:
        pairs = pipe.generate_pair(before, after, share=shares, seed=seeds, **options)
    found = similarities(clip, *zip(*pairs, strict=True), before, after, batch_size=len(batch))
    rows = [
        {"sample": sample, "seed": plan.seed, "p2p_threshold": plan.share, "cfg_scale": plan.scale} | values
        for sample, plan, values in zip(batch, plans, scores(found), strict=True)
    ]
    if not all(math.isfinite(row[key]) for row in rows for key in KEYS.values()):
        raise ValueError("CLIP's similarities hold values that are not numbers (NaN)")
    return list(zip(rows, pairs, strict=True))


def _encode(image: Image.Image, ending: str) -> bytes:
    kind, options = ENDINGS[ending]
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@dataclass(frozen=True, kw_only=True)
class PairMaker:
    """Makes the folder of a unit. Raises ValueError if the pipeline cannot generate images of the size."""

    pipe: Pipeline
    clip: CLIP
    prompts: Sequence[dict]
    settings: Settings

    def __post_init__(self):
        self.pipe.generate_pair([], [], steps=self.settings.steps, size=self.settings.size)

    @cached_property
    def by_id(self) -> dict[int, dict]:
        return {prompt["id"]: prompt for prompt in self.prompts}

    @property
    def header(self) -> dict[str, Any]:
        pipe, settings, size = self.pipe, self.settings, self.settings.size
        digest = sha256()
        for prompt in self.prompts:
            digest.update(json.dumps(prompt, sort_keys=True).encode() + b"\n")
        gpu = torch.cuda.get_device_name(pipe.device) if pipe.device.type == "cuda" else pipe.device.type
        return {
            "minip2p": __version__,
            "prompts": {"number": len(self.prompts), "sha256": digest.hexdigest()},
            "text2image": pipe.fingerprint,
            "text2image_config": _digest(pipe.config),
            "dtype": str(pipe.dtype).split(".")[-1],
            "clip": fingerprint({"clip": self.clip}),
            "clip_config": _digest(self.clip.config),
            "device": pipe.device.type,
            **asdict(settings),
            "share": list(bounds(settings.share)),
            "scale": list(bounds(settings.scale)),
            "size": list(size) if isinstance(size, (tuple, list)) else size,
            "made_with": {"torch": torch.__version__, "pillow": PIL.__version__, "device": gpu},
        }

    def make(self, name: str) -> Result:
        unit = make_unit(self.pipe, self.clip, self.by_id[int(name)], self.settings)
        passed = len(_passed(unit.scores, self.settings))
        counts = {"pairs": len(unit.scores), "passed": passed, "candidates": len(unit.images)}
        return Result(unit.files, counts)


def make(
    load: Callable[[], tuple[Pipeline, CLIP]],
    prompts: Sequence[dict],
    settings: Settings,
    out: str | Path,
    **engine: Any,
) -> Run:
    """Make all units that are not in `out` yet; each is yielded after it was written.

    prompts: as `read_prompts` gives them. load gives the text-to-image model and CLIP; it is called once in every
    process that makes units. engine: options of `engines.run`. Raises ValueError, before anything is made, for a model
    that cannot generate, and a folder of another run.
    """
    maker = partial(_load_maker, load, prompts, settings)
    return run(Work(folder=Path(out), names=[unit_name(prompt["id"]) for prompt in prompts], load=maker), **engine)


def _load_maker(load: Callable[[], tuple[Pipeline, CLIP]], prompts: Sequence[dict], settings: Settings) -> PairMaker:
    pipe, clip = load()
    return PairMaker(pipe=pipe, clip=clip, prompts=prompts, settings=settings)


def _digest(config: Any) -> str:
    return sha256(repr(config).encode()).hexdigest()[:16]
