"""What minip2p does on a CPU, measured beside diffusers, in turn.

    python -m tests.benchmarks.cpu [--thin] [--threads N] [--json FILE] [--minutes 6] [--only NAME ...]

The UNet of Stable Diffusion 1.5's width, eager and compiled; training steps; pairs with and without shared attention;
training on latents and on images; README's first command, alone and beside a process that keeps a core busy. Prints one
table, with the machine, versions and date; exits with 1 where a bound is missed. Ratios hold on a machine that does
other work, seconds only on an idle one, so that there they have no bound. --thin takes thin networks, without bounds on
speed. Needs 12 GB of memory.
"""

import copy
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from minip2p.cli import main as run_command
from minip2p.config import PRESETS, UNetConfig
from minip2p.control import Run, Share
from minip2p.cores import free_cores
from minip2p.diffusion import BetaSchedule, Denoiser, Noise, euler_ancestral, guided, two_way
from minip2p.loading import cpu_flags, prepare
from minip2p.nn.packed import pack
from minip2p.training.logs import process_memory

from .measuring import Measurement, Row, difference, in_turn, options, report
from .peers import diffusers_unet, our_unet, randomise
from .training import Training, stepper, write_pairs

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Subject:
    thin: bool
    folder: Path
    """for all files"""

    def bound(self, value: float) -> float | None:
        """A bound on speed holds at full size."""
        return None if self.thin else value

    @property
    def rounds(self) -> int:
        return 1 if self.thin else 3

    @property
    def config(self) -> UNetConfig:
        """The editor's UNet."""
        return replace(PRESETS["pix2pix"].unet, **({"widths": (32, 64, 64, 64), "blocks": 1} if self.thin else {}))

    @property
    def side(self) -> int:
        """of the latents"""
        return 8 if self.thin else 32


@torch.inference_mode()
def unet(s: Subject) -> Iterator[Row]:
    """A call with three rows, as each step of an edit makes one."""
    yield from _calls(s, 3, {})


@torch.inference_mode()
def unet_compiled(s: Subject) -> Iterator[Row]:
    """A call with one row by our network, eager and compiled, and what compiling takes."""
    from minip2p.pipeline.graphs import fast

    yield from _calls(s, 1, {"compiled": partial(fast, graphs=False, compile=True)})


def _calls(s: Subject, rows: int, ways: dict[str, Callable[[nn.Module], Callable]]) -> Iterator[Row]:
    theirs = randomise(diffusers_unet(s.config)).requires_grad_(False)
    ours = prepare(our_unet(theirs, s.config))
    theirs.to(memory_format=torch.channels_last)
    z = torch.randn(rows, 8, s.side, s.side).to(memory_format=torch.channels_last)
    t, text = torch.full((rows,), 500.5), torch.randn(rows, 77, s.config.text_width)
    calls = {"diffusers": lambda: theirs(z, t, text, return_dict=False)[0]}
    bounds = {"eager": 0.85, "compiled": 0.70}
    ways = {way: partial(make, copy.deepcopy(ours)) for way, make in ways.items()}
    pack(ours)  # after the copies for the compiler, which packs by itself
    for way, make in ({"eager": lambda: ours} | ways).items():
        calls[way] = partial(make(), z, t, text)
        began = time.perf_counter()
        far = difference(calls[way](), calls["diffusers"]())
        first = time.perf_counter() - began
        yield Row(
            name=f"UNet, rows {rows}, {way} against diffusers",
            value=far,
            at_most=2e-5,
            note=f"the first call took {first:.0f} s",
        )
    seconds = in_turn(calls, s.rounds)
    for way in calls.keys() - {"diffusers"}:
        ratio = seconds[way] / seconds["diffusers"]
        note = f"{seconds[way]:.3f} / {seconds['diffusers']:.3f} s"
        yield Row(name=f"UNet, rows {rows}, {way} / diffusers", value=ratio, at_most=s.bound(bounds[way]), note=note)


def shell_edit(s: Subject) -> Iterator[Row]:
    """README's first command: the shipped editor, 100 steps, from the start of Python to its end."""
    command = [sys.executable, str(ROOT / "sample.py"), "edit", "--input", str(ROOT / "weights/tiny/example.png")]
    command += ["--edit", "make it night", "--output", str(s.folder / "night.png"), "--steps", "2" if s.thin else "100"]
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}

    def seconds() -> tuple[float, float]:
        """Of the clock, and of the CPU."""
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, env=env, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.perf_counter() - began, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    seconds()  # Python's caches of bytecode
    load = os.getloadavg()[0]
    with ExitStack() as stack:
        for beside, most in (("nothing", 4.0), ("a busy core", 6.0)):
            if beside == "a busy core":
                busy = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
                stack.callback(busy.kill)
            clock, cpu = zip(*(seconds() for _ in range(1 if s.thin else 3)))
            note = f"{median(cpu):.2f} s of the CPU; load of the machine before {load:.1f}"
            most = s.bound(most) if load < 1 else None  # others' work is no fault of ours
            yield Row(
                name=f"edit from the shell beside {beside}", value=median(clock), unit="s", at_most=most, note=note
            )


def training_step(s: Subject) -> Iterator[Row]:
    """Forward, backward, clipping, AdamW and the average: ours, diffusers', and our step around diffusers' UNet."""
    yield from _steps(s, "tiny", PRESETS["tiny"].unet, (16, 8, 8), 24)
    if not s.thin:
        yield from _steps(s, "half of SD 1.5's width", replace(s.config, widths=(160, 320, 640, 640)), (2, 32, 32), 77)


def _steps(s: Subject, name: str, config: UNetConfig, size: tuple[int, int, int], tokens: int) -> Iterator[Row]:
    """size: (images, y, x) of the latents."""
    theirs, again, (b, y, x) = randomise(diffusers_unet(config)), diffusers_unet(config), size
    again.load_state_dict(theirs.state_dict())
    ours, again = our_unet(theirs, config).requires_grad_(True), again.to(memory_format=torch.channels_last)
    z, target = torch.randn(b, config.in_channels, y, x), torch.randn(b, config.out_channels, y, x)
    batch = z, torch.rand(b) * 999, torch.randn(b, tokens, config.text_width), target
    steps = {
        "ours": stepper(ours, ours, True, batch),
        "diffusers": stepper(theirs, lambda *given: theirs(*given, return_dict=False)[0], False, batch),
        "our step, their UNet": stepper(again, lambda *given: again(*given, return_dict=False)[0], True, batch),
    }
    losses: dict[str, list[float]] = {each: [] for each in steps}
    seconds = in_turn({each: lambda each=each: losses[each].append(steps[each]()) for each in steps}, s.rounds)
    far = max(abs(a / b - 1) for a, b in zip(losses["ours"], losses["diffusers"], strict=True))
    yield Row(name=f"training, {name}: losses against diffusers'", value=far, at_most=1e-3)
    for other, most in (("diffusers", s.bound(0.95)), ("our step, their UNet", None)):
        note = f"{seconds['ours']:.3f} / {seconds[other]:.3f} s"
        ratio = seconds["ours"] / seconds[other]
        yield Row(name=f"training step, {name}, ours / {other}", value=ratio, at_most=most, note=note)


def tiny_training(s: Subject) -> Iterator[Row]:
    """The tiny presets as `train.py` runs them, and in bfloat16 where this CPU computes in it."""
    half = bool(cpu_flags() & {"avx512_bf16", "amx_bf16"})
    for stage in ("editor", "text2image"):
        with ExitStack() as stack:
            runs = {
                word: stack.enter_context(_tiny(s, stage, f"train.precision={word}"))
                for word in ("fp32", *(["bf16"] if half else []))
            }
            seconds = in_turn({word: run.step for word, run in runs.items()}, s.rounds)
        rate = runs["fp32"].items / seconds["fp32"]
        yield Row(name=f"training, tiny {stage}", value=rate, unit="pictures/s")
        name = f"training, tiny {stage}, bfloat16 / float32"
        if half:
            yield Row(name=f"{name}, time", value=seconds["bf16"] / seconds["fp32"])
        else:
            yield Row(name=name, note="this CPU has neither AVX512-BF16 nor AMX")


def _tiny(s: Subject, stage: str, *changes: str, data: Path | None = None) -> Training:
    given = [] if data is None else ["--data", str(data)]
    out = s.folder / "-".join(["run", stage, *changes, *(data.name for data in [data] if data)])
    few = ["held_out=0", "train.batch_size=16" if s.thin else "train.batch_size=64"]
    few += ["sources=20", "edits=2"] if data is None else []
    return Training([stage, "--device", "cpu", "--out", str(out), *given], [*few, *changes])


def latents(s: Subject) -> Iterator[Row]:
    """Training steps of the tiny editor on images, which each step encodes, against the same pairs precomputed."""
    pairs, stored, weights = s.folder / "pairs", s.folder / "latents", ROOT / "weights/tiny/editor.safetensors"
    write_pairs(pairs, 16 if s.thin else 96, 64)
    words = ["precompute", "--data", str(pairs), "--output", str(stored), "--weights", str(weights), "--crops", "1"]
    if run_command([*words, "--device", "cpu", "--dtype", "float32"]):
        raise RuntimeError("precompute failed")
    with ExitStack() as stack:
        how = {"images": pairs, "latents": stored}
        runs = {name: stack.enter_context(_tiny(s, "editor", data=data)) for name, data in how.items()}
        seconds = in_turn({name: run.step for name, run in runs.items()}, s.rounds)
    least = s.bound(1.7)
    yield Row(
        name="training on latents / on images, speed", value=seconds["images"] / seconds["latents"], at_least=least
    )


def shared_attention(s: Subject) -> Iterator[Row]:
    """Pairs whose second image takes the first one's attention, against pairs without: two steps of a pair."""
    config = replace(s.config, in_channels=4, **({} if s.thin else {"widths": (160, 320, 640, 640)}))
    network, schedule = prepare(our_unet(diffusers_unet(config), config)), BetaSchedule()
    text, null, sigmas = torch.randn(2, 77, 768), torch.randn(1, 77, 768), schedule.sigmas_for(100)[:3]
    run = Run(sigmas=tuple(sigmas.tolist()), size=(s.side, s.side), prompts=("", ""), sources=(0, 0))

    @torch.inference_mode()
    def sample(share: float) -> Tensor:
        noise = Noise([0, 0], (4, s.side, s.side))
        control = [Share(share).bind(run)] if share else []
        field = guided(Denoiser(network, schedule), two_way(7.5, text, null), control=control)
        return [step.z for step in euler_ancestral(field, noise.start(sigmas[0]), sigmas, noise=noise)][-1]

    calls = {"plain": partial(sample, 0.0), "shared": partial(sample, 1.0)}
    plain, shared = calls["plain"](), calls["shared"]()
    changed = float((plain[0] != shared[0]).sum()) + float(torch.equal(plain[1], shared[1]))
    yield Row(name="pair: the source is unchanged by sharing, the second is not", value=changed, at_most=0)
    seconds = in_turn(calls, s.rounds)
    peaks = {name: _peak(call) for name, call in calls.items()}
    for what, both in (("time", seconds), ("peak of memory", peaks)):
        yield Row(name=f"pair, shared / not, {what}", value=both["shared"] / both["plain"], at_most=s.bound(1.05))


def _peak(call: Callable[[], object]) -> int:
    """Bytes of this process at its most while the call runs; on Linux, since then."""
    if (forget := Path("/proc/self/clear_refs")).exists():
        forget.write_text("5")
    call()
    return process_memory("VmHWM")


MEASUREMENTS = [
    Measurement(make=make, seconds=seconds)
    for make, seconds in (
        (shell_edit, 40),
        (unet, 60),
        (training_step, 45),
        (shared_attention, 30),
        (latents, 20),
        (tiny_training, 20),
        (unet_compiled, 170),
    )
]
"""in this order, with the seconds that each is given on two cores"""


def main(argv: list[str] | None = None) -> int:
    parser = options(__doc__, MEASUREMENTS, minutes=6)
    parser.add_argument("--thin", action="store_true", help="rehearse with thin networks")
    parser.add_argument("--threads", type=int, default=free_cores(), help="of all but the edit (%(default)d)")
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        return report(MEASUREMENTS, Subject(thin=given.thin, folder=Path(folder)), given)


if __name__ == "__main__":
    sys.exit(main())
