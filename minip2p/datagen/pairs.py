"""Pairs at scale: prompts -> many pairs of pictures each, scored by CLIP, in units of work (section 3.1.2).

A unit is all samples of a prompt, or a range of them. It is a pure function of (settings, prompt, samples): seed, share
and guidance scale of a sample are drawn from a hash of (run seed, prompt id, sample), and batches are cut at the same
places within the unit. So a unit has the same bytes whoever makes it, and after whatever.

Rounding depends on the batch, on the number of threads and on the kind of device: all three are part of the run. It
also depends on the device's model and on PyTorch's version, which run.json tells but does not hold anyone to.

    for unit in make(pipe, clip, read_prompts("prompts.jsonl"), Settings(samples=16), "pairs"):
        print(unit.name, len(unit.pictures))
"""

import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL
import torch
from PIL import Image

from .. import __version__
from ..checkpoints.mapped import read_json
from ..evaluation.metrics import KEYS, scores, similarities
from ..pipeline.core import fingerprint
from .claims import Claims, work_through
from .plan import PICTURES, Settings, bounds, read_prompts, sample_plan
from .runs import check_same, create
from .write import cpu_threads
from .units import FORMATS, Unit, clean, done_units, is_done, unit_name, write_unit

if TYPE_CHECKING:
    from ..models.clip import CLIP
    from ..pipeline import Pipeline, Progress

__all__ = ["Settings", "make", "read_prompts", "run_unit", "sample_plan", "work"]


def run_unit(
    pipe: "Pipeline", clip: "CLIP", prompt: dict, settings: Settings, samples: range | None = None, *,
    on_step: Callable[["Progress"], None] | None = None,
) -> Unit:
    """Make a unit: all samples of a prompt (a row with its id), or a range of them. Writes nothing.

    CLIP reads the pictures as they are after decoding and cutting to 8 bits, so scores can be had again from PNG; what
    JPEG does to a picture is not in them. Raises ValueError that names the unit.
    """
    whole = range(settings.samples)
    part = None if samples is None or samples == whole else samples
    name, samples = unit_name(prompt["id"], part), part or whole
    rows: list[dict] = []
    kept: dict[int, tuple[Image.Image, Image.Image]] = {}
    with cpu_threads(settings.threads if pipe.device.type == "cpu" else None):
        for at in range(samples.start, samples.stop, settings.batch_pairs):
            batch = range(at, min(at + settings.batch_pairs, samples.stop))
            try:
                made = _run_batch(pipe, clip, prompt, settings, batch, on_step)
            except ValueError as error:
                raise ValueError(f"unit {name}: {error}") from error
            rows += [row for row, _ in made]
            best = candidates(rows, settings)
            kept |= {row["sample"]: pair for row, pair in made}
            kept = {sample: pair for sample, pair in kept.items() if sample in best}
            if settings.stop_after and len(_passed(rows, settings)) >= settings.stop_after:
                break
    told = [row | {"candidate": row["sample"] in best} for row in rows]
    pictures = {
        row["seed"]: tuple(_encode(image, settings.picture) for image in kept[row["sample"]])
        for row in told if row["candidate"]
    }  # fmt: skip
    return Unit(name=name, prompt=prompt, scores=told, pictures=pictures, picture=settings.picture)


def candidates(rows: Sequence[dict], settings: Settings) -> set[int]:
    """The samples that pass, at most `most`, the best by direction. Of one seed, which names files, only one."""
    passed = sorted(_passed(rows, settings), key=lambda row: (-row["clip_sim_dir"], row["sample"]))
    by_seed: dict[int, int] = {}
    for row in passed:
        by_seed.setdefault(row["seed"], row["sample"])
    return set(list(by_seed.values())[: settings.most])


def _passed(rows: Sequence[dict], settings: Settings) -> list[dict]:
    return [row for row in rows if not settings.thresholds.refuses(row)]


def _run_batch(
    pipe: "Pipeline", clip: "CLIP", prompt: dict, settings: Settings, batch: range, on_step: Any
) -> list[tuple[dict, tuple[Image.Image, Image.Image]]]:
    """(scores, pair) of each sample of a batch."""
    plans = [sample_plan(settings, prompt["id"], sample) for sample in batch]
    seeds, shares, scales = (list(column) for column in zip(*plans, strict=True))
    how = {
        "scale": scales, "steps": settings.steps, "sampler": settings.sampler, "spacing": settings.spacing,
        "size": settings.size, "batch_size": settings.batch_pairs, "on_step": on_step,
    }  # fmt: skip
    before, after = ([prompt[key]] * len(batch) for key in ("input", "output"))
    if settings.apart:
        others = [sample_plan(settings, prompt["id"], settings.samples + sample).seed for sample in batch]
        sides = (pipe.generate(texts, seed=each, **how) for texts, each in ((before, seeds), (after, others)))
        pairs = list(zip(*sides, strict=True))
    else:
        pairs = pipe.generate_pair(before, after, share=shares, seed=seeds, **how)
    found = similarities(clip, *zip(*pairs, strict=True), before, after, batch_size=len(batch))
    rows = [
        {"sample": sample, "seed": plan.seed, "p2p_threshold": plan.share, "cfg_scale": plan.scale} | values
        for sample, plan, values in zip(batch, plans, scores(found), strict=True)
    ]
    if not all(math.isfinite(row[key]) for row in rows for key in KEYS.values()):
        raise ValueError("CLIP's similarities hold values that are not numbers (NaN)")
    return list(zip(rows, pairs, strict=True))


def _encode(image: Image.Image, ending: str) -> bytes:
    kind, options = PICTURES[ending]
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def work(prompts: Sequence[dict], settings: Settings) -> list[tuple[str, dict, range]]:
    """All units of a run: (name, prompt, samples)."""
    n = settings.samples if settings.whole else settings.unit_samples
    cuts = [range(at, min(at + n, settings.samples)) for at in range(0, settings.samples, n)]
    return [
        (unit_name(prompt["id"], None if settings.whole else cut), prompt, cut) for prompt in prompts for cut in cuts
    ]


def make(
    pipe: "Pipeline", clip: "CLIP", prompts: Sequence[dict], settings: Settings, out: str | Path, *,
    form: str = "folder", shard: tuple[int, int] = (0, 1), patience: float = 600.0,
    on_step: Callable[["Progress"], None] | None = None, on_wait: Callable[[str], None] | None = None,
) -> Iterator[Unit]:
    """Make all units that are not in `out` yet; each that this process made comes back once it lies there.

    Any number of processes may work on one folder. `shard` (i, n), i from 0: units i, i + n, ... first, then what the
    others left, until all are there. It ends when all are: what another has in work is waited for (`on_wait` is told in
    words), and taken over when its claim has grown stale (`claims.Claims`, `patience` in seconds).

    form: a word of `units.FORMATS`. Raises ValueError, before anything is made, for rows that are no prompts, a model
    that cannot paint, and a folder whose run.json tells other settings; OSError that names the unit where it cannot be
    written.
    """
    out, (i, n) = Path(out), shard
    if form not in FORMATS:
        raise ValueError(f"unknown format {form!r}; there are {', '.join(FORMATS)}")
    if not 0 <= i < n:
        raise ValueError(f"shard {i} of {n}: expected one from 0 to {n - 1}")
    _check_prompts(prompts)
    pipe.generate_pair([], [], steps=settings.steps, size=settings.size)  # of no prompt: says so where it cannot paint
    out.mkdir(parents=True, exist_ok=True)
    settings = enter(out, pipe, clip, prompts, settings, form)
    clean(out, patience)
    jobs = [(name, (prompt, samples)) for name, prompt, samples in work(prompts, settings)]
    claims = Claims(out, patience)

    def one(name: str, job: tuple[dict, range]) -> Unit | None:
        """A unit that was made and written here; None where another was first."""

        def stepped(progress: "Progress") -> None:
            claims.touch(name)
            if on_step is not None:
                on_step(progress)

        unit = run_unit(pipe, clip, job[0], settings, job[1], on_step=stepped)
        return unit if write_unit(out, unit, form) else None

    return work_through(claims, jobs, shard, lambda name: is_done(out, name), one, on_wait)


def _check_prompts(prompts: Sequence[dict]) -> None:
    for i, prompt in enumerate(prompts):
        texts = [prompt.get(name) for name in ("input", "edit", "output")]
        if not all(isinstance(text, str) and text.strip() for text in texts) or type(prompt.get("id")) is not int:
            raise ValueError(f"prompt {i}: expected texts as input, edit and output, and a whole number as id")
    if len({prompt["id"] for prompt in prompts}) < len(prompts):
        raise ValueError("prompts of one id: expected a different one of each")


def enter(
    out: Path, pipe: "Pipeline", clip: "CLIP", prompts: Sequence[dict], settings: Settings, form: str
) -> Settings:
    """Begin a run in a folder, or go on with the one that is there; the settings, with the run's number of threads.

    Raises ValueError that names the first difference from the run that is there.
    """
    path = out / "run.json"
    if not path.exists():
        if (names := done_units(out)) and not path.exists():  # still: another process may begin just now
            raise ValueError(f"{out} holds {names[0]} but no run.json: it is another's; choose another --output")
        threads = settings.threads or torch.get_num_threads()
        create(path, describe(pipe, clip, prompts, replace(settings, threads=threads), form))
    there = read_json(path)  # another process may have been first
    settings = replace(settings, threads=settings.threads or there.get("threads"))
    check_same(path, there, describe(pipe, clip, prompts, settings, form))
    return settings


def describe(pipe: "Pipeline", clip: "CLIP", prompts: Sequence[dict], settings: Settings, form: str) -> dict:
    """What run.json holds: all that decides a unit's bytes; and, under made_with, what should not."""
    digest = sha256()
    for prompt in prompts:
        digest.update(json.dumps(prompt, sort_keys=True).encode() + b"\n")
    size = settings.size
    return {
        "minip2p": __version__, "prompts": {"number": len(prompts), "sha256": digest.hexdigest()},
        "painter": pipe.fingerprint, "painter's config": _digest(pipe.config), "dtype": str(pipe.dtype).split(".")[-1],
        "clip": fingerprint({"clip": clip}), "clip's config": _digest(clip.config), "device": pipe.device.type,
    } | asdict(settings) | {
        "share": list(bounds(settings.share)), "scale": list(bounds(settings.scale)),
        "size": list(size) if isinstance(size, (tuple, list)) else size, "format": form,
        "made_with": {"torch": torch.__version__, "pillow": PIL.__version__, "device": _device(pipe)},
    }  # fmt: skip


def _digest(config: Any) -> str:
    return sha256(repr(config).encode()).hexdigest()[:16]


def _device(pipe: "Pipeline") -> str:
    return torch.cuda.get_device_name(pipe.device) if pipe.device.type == "cuda" else pipe.device.type
