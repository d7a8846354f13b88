"""What minip2p does on a GPU: checked against the CPU and itself, then measured beside diffusers, in turn.

    python -m tests.benchmarks.gpu [--thin] [--json FILE] [--minutes 6] [--only NAME ...]

Stable Diffusion 1.5's shapes with random weights, 512 px, 100 steps; training at 256 px as `train.py editor --preset
sd15` does it, on a small synthetic set. Prints one table, with the card's name, driver, versions and date; exits with 1
where a check fails or a bound is missed. Compiling takes minutes, so what is compiled comes last. --thin takes thin
networks, small images and few steps, without bounds on times: it rehearses the whole of it in a minute, also without a
GPU, where each row that needs one says so.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

import minip2p

from .measuring import Measurement, Row, difference, in_turn, options, report
from .peers import diffusers_unet, our_unet, randomise
from .subject import INSTRUCTION, WAYS, Subject
from .training import Training, stepper

NO_GPU = "no GPU here"


def device_against_cpu(s: Subject) -> Iterator[Row]:
    """Latents of edits in float32."""
    if not s.on_gpu:
        yield Row(name="float32, GPU against CPU", note=NO_GPU)
        return
    size = {"steps": 3, "resolution": s.config.sampling.resolution // 2}
    for name, weights, how in (("tiny, 30 steps", None, {"steps": 30}), ("SD 1.5, 3 steps", s.weights, size)):
        pipes = [minip2p.load(weights, device=device, dtype="float32") for device in (s.device, "cpu")]
        a, b = (pipe.edit(s.picture, INSTRUCTION, output="latent", **how) for pipe in pipes)
        yield Row(name=f"float32, GPU against CPU: {name}", value=difference(a, b), at_most=1e-4)


def graph_against_eager(s: Subject) -> Iterator[Row]:
    """Latents, bit for bit, with three branches and with two. Without a GPU the same option falls back to eager."""
    for scale in (1.5, 1.0):
        how = {"image_scale": scale, "steps": 4, "output": "latent"}
        a, b = s.edit("graph", **how), s.edit("eager", **how)
        equal = float((a != b).sum())
        fallback = "" if s.on_gpu else f"{NO_GPU}: no graph"
        yield Row(
            name=f"graph against eager, image scale {scale}",
            value=equal,
            unit="values differ",
            at_most=0,
            note=fallback,
        )


def edit(s: Subject) -> Iterator[Row]:
    """A whole edit, in turn with diffusers'."""
    calls = {way: lambda way=way: s.edit(way) for way in s.ways} | {"diffusers": s.their_edit}
    seconds = in_turn(calls, s.rounds)
    for way, value in seconds.items():
        note = f"{value / seconds['diffusers']:.2f} of diffusers'" if way in s.ways else ""
        most = s.bound(1.5) if way == "graph" else None
        yield Row(name=f"edit, {s.about}, {s.steps} steps, {way}", value=value, unit="s", at_most=most, note=note)


def image_scale(s: Subject) -> Iterator[Row]:
    """Two branches in place of three."""
    way = s.ways[-1]
    seconds = in_turn({scale: lambda scale=scale: s.edit(way, image_scale=scale) for scale in (1.0, 1.5)}, s.rounds)
    yield Row(name=f"edit, image scale 1 / 1.5, {way}", value=seconds[1.0] / seconds[1.5], at_most=s.bound(0.72))


def batches(s: Subject) -> Iterator[Row]:
    """Edits that share the network's calls."""
    way, sizes, steps = s.ways[-1], (1, 2) if s.thin else (1, 4, 8), -(-s.steps // 4)

    def make(n: int) -> None:
        s.ours(way).edit([s.picture] * n, INSTRUCTION, steps=steps, batch_size=n)

    seconds = in_turn({n: lambda n=n: make(n) for n in sizes}, 1)
    for n in sizes:
        yield Row(name=f"edits in batches of {n}, {steps} steps, {way}", value=seconds[n] / n, unit="s an edit")


def unet_call(s: Subject) -> Iterator[Row]:
    """One call of the network."""
    for rows in (3, 6) if s.thin else (3, 12, 24):
        inputs = s.inputs(rows)
        calls = {way: partial(s.ours(way).denoiser.network, *inputs) for way in s.ways}
        calls["diffusers"] = partial(s.theirs.unet, *inputs, return_dict=False)
        with torch.inference_mode():
            seconds = in_turn(calls, 4 * s.rounds)
        for way in s.ways:
            note = f"{seconds[way] / seconds['diffusers']:.2f} of diffusers'"
            yield Row(name=f"UNet, {rows} rows, {way}", value=1e3 * seconds[way], unit="ms", note=note)


def parts(s: Subject) -> Iterator[Row]:
    """The autoencoder and the text encoder, one picture and two texts."""
    ours, theirs, c = s.ours("eager"), s.theirs, s.config
    x = torch.rand(1, 3, c.sampling.resolution, c.sampling.resolution, device=s.device, dtype=s.dtype)
    tokens = ours.tokenizer([INSTRUCTION, ""]).to(s.device)
    with torch.inference_mode():
        z = ours.vae.encode(x).mean
        pairs = {
            "VAE, encode": (lambda: ours.vae.encode(x), lambda: theirs.vae.encode(x)),
            "VAE, decode": (lambda: ours.vae.decode(z), lambda: theirs.vae.decode(z)),
            "two texts": (lambda: ours.text_encoder(tokens), lambda: theirs.text_encoder(tokens)),
        }
        for name, (one, other) in pairs.items():
            seconds = in_turn({"ours": one, "theirs": other}, 4 * s.rounds)
            note = f"{seconds['ours'] / seconds['theirs']:.2f} of diffusers'"
            yield Row(name=name, value=1e3 * seconds["ours"], unit="ms", note=note)


def tiny_edit(s: Subject) -> Iterator[Row]:
    """The shipped editor, 30 steps."""
    ways = {way: minip2p.load(device=s.device, **WAYS[way]) for way in s.ways}
    steps = 3 if s.thin else 30
    calls = {way: lambda pipe=pipe: pipe.edit(s.picture, INSTRUCTION, steps=steps) for way, pipe in ways.items()}
    for way, value in in_turn(calls, 4 * s.rounds).items():
        yield Row(name=f"tiny edit, {steps} steps, {way}", value=value, unit="s")


def tiny_trained(s: Subject, compiled: bool) -> Iterator[Row]:
    """The tiny presets with their own data."""
    s.free()
    for stage in ("editor", "text2image"):
        name = f"training, tiny {stage}{', compiled' * compiled}"
        if compiled and not s.on_gpu:
            yield Row(name=name, note=NO_GPU)
            continue
        changes = [f"sources={20 if s.thin else 200}", "held_out=0", f"train.compile={compiled}"]
        words = [stage, "--out", str(s.folder / f"{stage}-{compiled}"), "--device", str(s.device)]
        with Training(words, changes, log_every=1 if s.thin else 50) as run:
            rate = run.items / in_turn({stage: run.step}, s.rounds)[stage]
        yield Row(name=name, value=rate, unit="pictures/s", at_least=s.bound(10_000))


def tiny_training(s: Subject) -> Iterator[Row]:
    yield from tiny_trained(s, compiled=False)


def tiny_training_compiled(s: Subject) -> Iterator[Row]:
    yield from tiny_trained(s, compiled=True)


def training_step(s: Subject) -> Iterator[Row]:
    """Of the network alone, both eager in the precision of training: forward, backward, AdamW, average."""
    s.free()
    c, n, y = s.config.unet, 2 if s.thin else 64, s.train_side // s.config.vae.factor
    with torch.device(s.device):
        theirs = randomise(diffusers_unet(c))
        z, target = torch.randn(n, c.in_channels, y, y), torch.randn(n, c.out_channels, y, y)
        batch = z, 999 * torch.rand(n), torch.randn(n, 77, c.text_width), target
    ours = our_unet(theirs, c).to(s.device).requires_grad_(True)

    def half(network: Callable[..., Any]) -> Callable[..., Any]:
        return torch.autocast(s.device.type, torch.bfloat16, enabled=s.on_gpu)(network)

    steps = {
        "ours": stepper(ours, half(ours), True, batch),
        "diffusers": stepper(theirs, half(lambda *given: theirs(*given, return_dict=False)[0]), False, batch),
    }
    seconds = in_turn(steps, s.rounds)
    note = f"{seconds['ours'] / seconds['diffusers']:.2f} of diffusers'"
    name = f"training step of the UNet, {s.about_training}, {n} pictures"
    yield Row(name=name, value=1e3 * seconds["ours"], unit="ms", note=note)


def trained(s: Subject, source: str, compiled: bool) -> Iterator[Row]:
    """Steps of `train.py editor --preset sd15` from "latents" or "pictures", and the memory beside its estimate."""
    name = f"training, {s.about_training}, {source}{', compiled' * compiled}"
    if compiled and not s.on_gpu:
        yield Row(name=name, note=NO_GPU)
        return
    data = s.latents if source == "latents" else s.pairs
    s.free()
    low, batch = s.train_side, 8 if s.thin else 512
    words = ["editor", "--preset", "sd15", "--init-from", str(s.weights), "--data", str(data)]
    words += ["--batch-size", str(batch), "--device", str(s.device), "--out", str(s.folder / f"{source}-{compiled}")]
    changes = [f"train.compile={compiled}", "held_out=0", f"size={low}"]
    changes += [f"resize=({low},{low * 9 // 8})", "vae_precision=bf16"] if source == "pictures" else []
    changes += ["train.micro_batch=4", "train.workers=0"] if s.thin else []
    with Training(words, changes) as run:
        rate = run.items / in_turn({source: run.step}, s.rounds)[source]
        least = s.bound({"latents": 500, "pictures": 250}[source]) if compiled else None
        yield Row(name=name, value=rate, unit="pictures/s", at_least=least)
        if s.on_gpu:
            peak = run.figures["peak_memory_gib"]
            note = f"{run.estimate:.1f} / {peak:.1f} GiB"
            yield Row(
                name=f"{name}: memory, estimate / peak", value=run.estimate / peak, at_most=1.2, at_least=0.8, note=note
            )


def training_latents(s: Subject) -> Iterator[Row]:
    yield from trained(s, "latents", compiled=False)


def training_pictures(s: Subject) -> Iterator[Row]:
    yield from trained(s, "pictures", compiled=False)


def training_latents_compiled(s: Subject) -> Iterator[Row]:
    yield from trained(s, "latents", compiled=True)


def training_pictures_compiled(s: Subject) -> Iterator[Row]:
    yield from trained(s, "pictures", compiled=True)


def edit_compiled(s: Subject) -> Iterator[Row]:
    """A whole edit with the network compiled, and how far its latents are from the others."""
    name = f"edit, {s.about}, compiled"
    if not s.on_gpu:
        yield Row(name=name, note=f"{NO_GPU}; tests.benchmarks.cpu compiles for the CPU")
        return
    s.free()
    how, began = {"steps": 4, "output": "latent"}, time.perf_counter()
    far = difference(s.edit("compiled", **how), s.edit("eager", **how))
    note = f"the first two edits took {time.perf_counter() - began:.0f} s"
    yield Row(name="latents, compiled against eager", value=far, at_most=0.02, note=note)
    seconds = in_turn({way: lambda way=way: s.edit(way) for way in ("compiled", "graph")}, s.rounds)
    yield Row(name=name, value=seconds["compiled"], unit="s", at_most=s.bound(0.85))
    yield Row(name="edit, compiled / graph", value=seconds["compiled"] / seconds["graph"])


MEASUREMENTS = [
    Measurement(make=make, seconds=seconds)
    for make, seconds in (
        (device_against_cpu, 30),
        (graph_against_eager, 5),
        (edit, 30),
        (image_scale, 10),
        (batches, 10),
        (unet_call, 5),
        (parts, 3),
        (tiny_edit, 3),
        (tiny_training, 15),
        (training_step, 10),
        (training_latents, 20),
        (training_latents_compiled, 140),
        (edit_compiled, 75),
        (training_pictures_compiled, 60),
        (training_pictures, 30),
        (tiny_training_compiled, 120),
    )
]
"""in this order, with the seconds that each is given on an H100"""


def main(argv: list[str] | None = None) -> int:
    parser = options(__doc__, MEASUREMENTS, minutes=6)
    parser.add_argument("--thin", action="store_true", help="rehearse with thin networks; without a GPU, too")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        return report(MEASUREMENTS, Subject(thin=given.thin, folder=Path(folder)), given)


if __name__ == "__main__":
    sys.exit(main())
