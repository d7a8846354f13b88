"""How a step is computed: bfloat16 with float32 masters, recorded graphs, what is decided for a device, its memory."""

import contextlib
import json
from collections import namedtuple
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import small_pipeline
from helpers_training import begin, config_of, equal, finish, log_of, make_stage, states
from torch import nn

from minip2p.config import PRESETS, override
from minip2p.models.text_encoder import TextEncoder
from minip2p.models.unet import UNet
from minip2p.models.vae import AutoencoderKL
from minip2p.training import graphs, memory, plan, step
from minip2p.training.config import DiffusionTraining, TrainConfig
from minip2p.training.graphs import WARM_UP, Replayed
from minip2p.training.precision import ComputeWeights, HalfEncoder, computes_in_half
from minip2p.training.presets import SD15
from minip2p.training.ranks import Ranks

pytestmark = pytest.mark.slow

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
HALF = "train.precision=bf16"


# ---- bfloat16 with float32 masters


@pytest.mark.parametrize("words", [("train_text=True",), ("lora_rank=2",), ("train.checkpointing=True",)])
def test_compute_weights_give_autocasts_losses_and_gradients_bit_for_bit(words, pairs, editor, tmp_path):
    """Over two micro-batches, whose gradients add up in float32."""
    stage = make_stage(config_of(pairs, editor, "dropout=0.2", *words), tmp_path, editor)
    parts = [stage.inputs(stage.data.batch(3, rows)) for rows in (range(0, 2), range(2, 4))]

    def run(module):
        losses = []
        for inputs in parts:
            with torch.autocast("cpu", torch.bfloat16):
                losses.append(stage.loss(module, inputs)[0])
            losses[-1].backward()
        return losses, [weight.grad for weight in stage.module.parameters() if weight.requires_grad]

    losses, gradients = run(stage.module)
    stage.module.zero_grad()
    half = ComputeWeights(stage.module)
    again, ours = run(half.module)
    assert losses == again and all(torch.equal(a, b) for a, b in zip(gradients, ours, strict=True))
    assert {g.dtype for g in ours} == {torch.float32} and all(each.grad is None for each in half.halves)
    assert half.halves and all(w.dtype == torch.float32 for w in stage.module.parameters())


def test_compute_weights_follow_the_masters_and_share_what_is_no_product():
    model = nn.ModuleDict({"word": nn.Embedding(5, 4), "norm": nn.LayerNorm(4), "a": nn.Linear(4, 4, bias=False)})
    model["tied"] = nn.Linear(4, 5, bias=False)
    model["tied"].weight = model["word"].weight
    half = ComputeWeights(model)
    assert [each.shape for each in half.halves] == [(4, 4)], "an embedding stays as it is, whoever else reads it"
    assert half.module["norm"].weight is model["norm"].weight and half.module["tied"].weight is model["word"].weight
    with torch.no_grad():
        model["a"].weight.add_(0.3)
    assert not torch.equal(half.module["a"].weight, model["a"].weight.bfloat16())
    half.refresh()
    assert torch.equal(half.module["a"].weight, model["a"].weight.bfloat16())


def test_masters_train_as_float32_does_to_bfloat16s_rounding_and_resume_to_the_same_bits(pairs, editor, tmp_path):
    for name, words in {"float32": (), "half": (HALF,)}.items():
        finish(config_of(pairs, editor, *words), tmp_path / name, editor)
    half = config_of(pairs, editor, HALF)
    for log in begin(half, tmp_path / "halves", editor):
        if log.step == 4 and "loss" in log.figures:  # the state of step 2 is on disk; steps 3 and 4 are lost
            break
    finish(half, tmp_path / "halves", editor, resume=True)
    plain, whole, halves = states(*(tmp_path / name for name in ("float32", "half", "halves")))
    assert equal(whole, halves)
    start_ = make_stage(half, tmp_path / "start", editor).module.state_dict()
    for part in ("model", "ema"):
        ours, theirs, before = (torch.cat([x[k].flatten() for k in start_]) for x in (whole[part], plain[part], start_))
        assert ours.dtype == torch.float32 and not torch.equal(ours, ours.bfloat16().float()), "masters are saved"
        assert (ours - theirs).norm() < 0.1 * (theirs - before).norm() and not torch.equal(ours, theirs)


def test_auto_is_bfloat16_where_a_gpu_computes_in_it(monkeypatch):
    for able in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, able=able: able)
        assert computes_in_half("auto", CUDA) is able and computes_in_half("bf16", CUDA)
    assert not computes_in_half("auto", CPU) and not computes_in_half("fp32", CUDA) and computes_in_half("bf16", CPU)


@torch.no_grad()
def test_an_encoder_in_bfloat16_has_moments_in_float32():
    vae = small_pipeline().vae.eval().requires_grad_(False)
    x = torch.rand(3, 3, 32, 32) * 2 - 1
    exact, half = vae.encode(x), HalfEncoder(vae).encode(x)
    for name in ("mean", "logvar"):
        ours, theirs = getattr(half, name), getattr(exact, name)
        error = (ours - theirs).norm() / theirs.norm()
        assert ours.dtype == torch.float32 and 0 < error < 0.02, (name, error)
    assert not torch.equal(half.mean, half.mean.bfloat16().float()), "its last layers computed in float32"
    assert {w.dtype for w in vae.parameters()} == {torch.float32}


def test_a_run_from_pictures_may_encode_in_bfloat16(pairs, editor, tmp_path):
    exact, half = (
        make_stage(config_of(pairs, editor, *words), tmp_path, editor) for words in ((), ("vae_precision=bf16",))
    )
    batch = exact.data.batch(0)
    for ours, theirs in zip(half.encode_images(batch, CPU), exact.encode_images(batch, CPU), strict=True):
        assert ours.dtype == torch.float32 and 0 < (ours - theirs).norm() < 0.05 * theirs.norm()
    assert exact.reads_pictures and half.compiled and not exact.compiled


# ---- graphs


class Recorder:
    """In place of CUDA's graphs: what is recorded runs again, and its results lie where they lay before."""

    made: list["Recorder"] = []

    def __init__(self, device=None, fails=False):
        self.replays, self.fails, self.entered = 0, fails, 0
        self.made.append(self)

    def __call__(self, work):
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        kept = []

        def replay():
            self.replays += 1
            found = work()
            if found is None:
                return None
            loss, figures = found
            tensors = [loss, *figures.values()]
            if not kept:
                kept.extend(x.clone() for x in tensors)
            for old, new in zip(kept, tensors, strict=True):
                old.copy_(new)
            return kept[0], dict(zip(figures, kept[1:], strict=True))

        return replay

    def around(self):
        self.entered += 1
        return contextlib.nullcontext()


class Broken(Recorder):
    def __init__(self, device=None):
        super().__init__(device, fails=True)


@pytest.fixture
def recorded(monkeypatch):
    """Training on a CPU as if it had graphs."""
    monkeypatch.setattr(Recorder, "made", [])
    monkeypatch.setattr(plan, "no_graph", lambda *how: None)
    return lambda recorder: monkeypatch.setattr(step, "CudaGraphs", recorder)


PRECISIONS = {"fp32": (), "bf16": (HALF,)}
WAYS = ("eager", "graph")


def test_replayed_steps_train_to_the_same_bits_and_resume(recorded, pairs, editor, tmp_path):
    """Of micro-batches of 3 and 1: two recordings, each with the weight of its micro-batch."""
    words = ("dropout=0.2", "train.micro_batch=3", "train.steps=6", "train.warmup=3")
    for precision, more in PRECISIONS.items():
        finish(config_of(pairs, editor, *words, *more), tmp_path / f"eager-{precision}", editor)
    recorded(Recorder)
    for precision, more in PRECISIONS.items():
        config = config_of(pairs, editor, *words, *more, "train.graph=True")
        finish(config, tmp_path / f"graph-{precision}", editor)
        used = Recorder.made.pop()
        assert used.replays == (6 - WARM_UP) * (2 + 1) and used.entered == 6
    for log in begin(override(config, "train.log_every=1"), tmp_path / "halves", editor):
        if log.step == 5:
            break
    finish(config, tmp_path / "halves", editor, resume=True)
    assert equal(*states(tmp_path / "graph-bf16", tmp_path / "halves"))
    start_ = make_stage(config, tmp_path / "start", editor).module.state_dict()
    for precision in PRECISIONS:
        eager, graph = states(tmp_path / f"eager-{precision}", tmp_path / f"graph-{precision}")
        for part in ("model", "ema"):
            ours, theirs, before = (
                torch.cat([x[k].flatten() for k in start_]) for x in (graph[part], eager[part], start_)
            )
            # a learning rate in float32; in bf16 that may round a weight to the other side, so that gradients differ
            most = 1e-6 * theirs.norm() if precision == "fp32" else 0.05 * (theirs - before).norm()
            assert (ours - theirs).norm() <= most, (precision, part)
        losses = [[line["loss"] for line in log_of(tmp_path / f"{way}-{precision}") if "loss" in line] for way in WAYS]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5 if precision == "fp32" else 1e-2) and len(losses[0]) == 3


def test_a_graph_that_cannot_be_made_is_one_note_and_the_same_run(recorded, pairs, editor, tmp_path):
    words = ("train.steps=6", "train.log_every=1")
    finish(config_of(pairs, editor, *words), tmp_path / "eager", editor)
    recorded(Broken)
    logs = finish(config_of(pairs, editor, *words, "train.graph=True"), tmp_path / "graph", editor)
    notes = [line for log in logs for line in log.messages if "kernel by kernel" in line]
    assert notes == [
        "steps run kernel by kernel, not as a CUDA graph: operation not permitted when stream is capturing"
    ]
    eager, graph = states(tmp_path / "eager", tmp_path / "graph")
    assert all((eager["model"][k] - x).norm() <= 1e-6 * x.norm() + 1e-9 for k, x in graph["model"].items())


def test_what_is_replayed_reads_copies_at_fixed_places():
    seen = []
    doubled = Replayed(lambda inputs, scale: seen.append(inputs) or (inputs.x * scale, {}), Recorder())
    Pair = namedtuple("Pair", "x y")
    for n in range(8):
        x = torch.full((2,), float(n))
        assert torch.equal(doubled(Pair(x, x), 2.0)[0], 2 * x)
    assert len({inputs.x.data_ptr() for inputs in seen[WARM_UP:]}) == 1
    for size in range(3, 3 + graphs.MOST):
        for n in range(WARM_UP + 2):
            x = torch.full((size,), float(n))
            assert torch.equal(doubled(Pair(x, x), 2.0)[0], 2 * x)
    assert doubled.note.endswith("batches have more than 4 shapes")


# ---- what is decided for a device


def stage_of(train, **more):
    return SimpleNamespace(config=SimpleNamespace(train=train), **more)


def gpu(monkeypatch, triton=True):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(plan, "has_triton", lambda: triton)
    monkeypatch.setattr(plan, "free_cores", lambda: 40)
    monkeypatch.setattr(plan, "largest_micro_batch", lambda *how: 128)
    return Ranks(device=CUDA)


def test_on_a_gpu_a_denoiser_does_all_that_pays(monkeypatch):
    ranks = gpu(monkeypatch)
    c, notes = plan.plan(stage_of(SD15.train, inputs=None), ranks)
    assert (c.precision, c.compile, c.graph, c.micro_batch, c.workers) == ("bf16", True, True, 128, 16)
    assert notes == ["train.precision=bf16 train.compile=True train.graph=True train.micro_batch=128 train.workers=16"]
    short, _ = plan.plan(stage_of(replace(SD15.train, steps=100), inputs=None), ranks)
    assert not short.compile and short.graph
    other, (line,) = plan.plan(stage_of(TrainConfig()), ranks)
    assert (other.compile, other.graph, other.micro_batch) == (False, False, None)
    asked = replace(SD15.train, compile=False, graph=False, workers=0, micro_batch=8, precision="fp32")
    assert plan.plan(stage_of(asked, inputs=None), ranks)[0] == asked


def test_what_a_device_cannot_do_is_a_line(monkeypatch):
    ranks = gpu(monkeypatch, triton=False)
    two = replace(ranks, world=2)
    c, notes = plan.plan(stage_of(SD15.train, inputs=None), two)
    assert (
        not c.compile
        and not c.graph
        and notes[:2]
        == [
            "train.compile is off: this system has no Triton",
            "train.graph is off: several processes exchange gradients within a step",
        ]
    )
    c, notes = plan.plan(stage_of(SD15.train, inputs=None), Ranks())
    assert (c.precision, c.compile, c.graph, c.micro_batch, c.workers, notes) == ("fp32", False, False, 32, 0, [])
    c, notes = plan.plan(stage_of(replace(SD15.train, graph=True), inputs=None), Ranks())
    assert notes == ["train.graph is off: only GPUs have CUDA graphs"] and not c.graph


def test_the_size_of_micro_batches_is_kept_for_a_resumed_run(pairs, editor, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "ON_CPU", 3)
    finish(config_of(pairs, editor, "train.micro_batch=auto", "train.steps=1"), tmp_path, editor)
    assert json.loads((tmp_path / "config.json").read_text())["train"]["micro_batch"] == 3


# ---- memory


def test_the_estimate_of_memory_is_what_an_h100_took(monkeypatch):
    """SD 1.5, 256 px, micro-batches of 64, kernel by kernel: 37.7 GiB from latents, 45.1 from pictures when all 128
    were encoded at once. Compiled, a step alone (no average, no frozen networks) took 26.7."""
    config = replace(SD15, data=("nowhere",))
    with torch.device("meta"):
        c = PRESETS["pix2pix"]
        parts = {"unet": UNet(c.unet), "vae": AutoencoderKL(c.vae), "text": TextEncoder(c.text)}
    data = SimpleNamespace(latent_shape=(4, 32, 32), null_states=None)
    stage = SimpleNamespace(
        config=config,
        pipe=SimpleNamespace(config=c, parts=parts),
        module=nn.ModuleDict({"unet": parts["unet"]}),
        data=data,
        reads_pictures=False,
    )
    found = memory.saved_tensors(stage, "cuda", half=True)
    monkeypatch.setattr(memory, "saved_tensors", lambda *how: found)
    train, ranks = replace(SD15.train, precision="bf16", compile=False), Ranks(device=CUDA)
    gib = {name: size / 2**30 for name, size in memory.estimate_memory(stage, train, ranks, 64).items()}
    assert sum(gib.values()) == pytest.approx(37.7, rel=0.05)
    stage.reads_pictures = True
    assert sum(memory.estimate_memory(stage, train, ranks, 64).values()) / 2**30 == pytest.approx(sum(gib.values()))
    monkeypatch.setattr(memory, "ENCODED", 128)
    before = memory.estimate_memory(stage, train, ranks, 64)["activations"] / 2**30
    assert gib["weights"] + gib["gradients"] + gib["optimiser"] + gib["average"] + before == pytest.approx(
        45.1, rel=0.05
    )
    frozen = sum(2**-28 * sum(w.numel() for w in parts[part].parameters()) for part in ("vae", "text"))
    stage.reads_pictures = False
    compiled = memory.estimate_memory(stage, replace(train, compile=True), ranks, 64)
    alone = sum(compiled.values()) / 2**30 - gib["average"] - frozen
    assert alone == pytest.approx(26.7, rel=0.1)
    data.null_states = torch.zeros(1)
    text = sum(4 * w.numel() for w in parts["text"].parameters())
    assert (
        memory.lasting(stage, train, ranks)["weights"]
        == sum(4 * w.numel() for part in parts.values() for w in part.parameters()) - text
    )
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 80 * 2**30))
    assert memory.largest_micro_batch(stage, replace(train, compile=True), ranks) == 128
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 24 * 2**30))
    assert memory.largest_micro_batch(stage, train, ranks) == 8


def test_the_estimate_needs_no_gpu_and_knows_its_rules_of_precision():
    """On CUDA norms compute in float32 under autocast, and their inputs are kept so; attention has no map in memory."""
    pipe = small_pipeline()
    stage = SimpleNamespace(
        config=DiffusionTraining(model=pipe.config, size=32, resize=(32, 32)),
        pipe=pipe,
        module=nn.ModuleDict({"unet": pipe.unet}),
        data=SimpleNamespace(latent_shape=(4, 8, 8), null_states=None),
    )
    sizes = {}
    for kind in ("cpu", "cuda"):
        for half in (False, True):
            found = memory.saved_tensors(stage, kind, half)
            sizes[kind, half] = sum(size for _, size in found)
            assert any(dtype == torch.bfloat16 for dtype, _ in found) == half
    assert sizes["cuda", False] > sizes["cuda", True] > sizes["cpu", True] > 0
    assert not torch.is_autocast_enabled("cuda") and not torch.is_autocast_enabled("cpu")


def test_words_that_are_left_open_have_their_types():
    assert override(SD15, "train.micro_batch=4").train.micro_batch == 4
    for word in ("train.micro_batch=0", "train.micro_batch=many", "train.graph=perhaps", "train.workers=-1"):
        with pytest.raises(ValueError, match=word.split("=")[0]):
            override(SD15, word)
