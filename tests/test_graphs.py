"""The denoiser replayed as CUDA graphs and compiled, and sampling that never waits for the GPU: what a CPU can show of
it, with a recorder that stands in for CUDA's, and with tensors without numbers (meta) that stand in for those on a GPU.
The same on a GPU, where there is one."""

import gc
import json
import pickle
import warnings
import weakref
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from conftest import difference, randomise, small_config, small_pipeline
from helpers_cli import edit as command
from helpers_cli import pixels
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import minip2p
from minip2p import loading
from minip2p.cli import main, metadata
from minip2p.config import UNetConfig
from minip2p.control import LocalBlend, Record, Refine, Replace, Reweight, Share
from minip2p.control.run import AtSites
from minip2p.control.share import SelfAttentionInjection
from minip2p.diffusion import SAMPLERS, Cond, Denoiser, Noise, get_sampler, guided, make_schedule, three_way
from minip2p.models.unet import UNet
from minip2p.nn.attention import Attention
from minip2p.nn.channels_last import without_gradients
from minip2p.nn.site import Site
from minip2p.pipeline import graphs
from minip2p.pipeline.batch_size import MOST, bytes_per_row, default_batch_size, fitting
from minip2p.pipeline.graphs import Compiled, Graphed, SpeedWarning
from minip2p.text.learn import learn_bpe

GREY = Image.new("RGB", (32, 32), "grey")
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
PROMPTS = ["a red boat", "a blue boat"]
WORDS = learn_bpe(["make it night", *PROMPTS], vocab_size=400, max_length=16)
EDITOR = "--weights", "editor.safetensors"


class Recorder:
    """What CUDA's recorder does, on a CPU: the call is kept, and its replay writes into the same output."""

    def __init__(self, limit: int = 1000):
        self.made, self.replays, self.limit = 0, 0, limit

    def __call__(self, run):
        if self.made == self.limit:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore lines")
        self.made += 1
        output = run().clone()

        def replay():
            self.replays += 1
            with torch.inference_mode(False), torch.no_grad():
                output.copy_(run())

        return output, replay


PIPELINES = {channels: small_pipeline(channels) for channels in (4, 8)}


def recorded(channels: int = 8, limit: int = 1000):
    """A pipeline, and the same with a recorder in place of CUDA's."""
    pipe = PIPELINES[channels]
    other, recorder = replace(pipe), Recorder(limit)
    other.denoiser.network = Graphed(pipe.unet, pipe.unet, recorder)
    return pipe, other, recorder


def edit(pipe, **how):
    return pipe.edit(GREY, "make it night", **{"steps": 4, "output": "latent"} | how)


def pair(pipe, **how):
    return torch.stack(pipe.generate_pair(*PROMPTS, **{"steps": 4, "output": "latent"} | how))


# Graphs


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_replayed_calls_are_those_of_the_network_bit_for_bit(sampler):
    """An output that is not copied would be overwritten by the next call: Heun's method has two a step."""
    pipe, other, recorder = recorded()
    for seed in (0, 1):
        assert torch.equal(edit(other, sampler=sampler, seed=seed), edit(pipe, sampler=sampler, seed=seed))
    assert recorder.made == 1 and recorder.replays == (14 if sampler == "heun" else 8)


def test_a_graph_is_kept_for_each_number_of_rows_size_and_tokens():
    pipe, other, recorder = recorded()
    for made, how in ((1, {}), (1, {"seed": 5}), (2, {"image_scale": 1.0}), (3, {"resolution": 48}), (3, {})):
        assert torch.equal(edit(other, **how), edit(pipe, **how))
        assert recorder.made == made
    x, t, text = torch.randn(3, 8, 8, 8), torch.ones(3), torch.randn(3, 16, 32)
    with torch.no_grad():
        for made, more in ((3, text), (4, text[:, :5]), (4, text[:, :5] + 1)):
            assert torch.equal(other.denoiser.network(x, t, more), pipe.unet(x, t, more))
            assert recorder.made == made


def test_as_many_are_kept_as_promised_and_the_one_used_least_recently_goes(monkeypatch):
    monkeypatch.setattr(graphs, "MOST_GRAPHS", 2)
    _, other, recorder = recorded()
    for made, resolution in ((1, 32), (2, 40), (2, 32), (3, 48), (3, 32), (4, 40)):
        edit(other, resolution=resolution, steps=1)
        assert recorder.made == made and len(other.denoiser.network.kept) <= 2


def test_sharing_is_recorded_once_whichever_rows_share():
    """The rows are an input of the graph, as x, t and text are. Without sharing, it is another graph."""
    pipe, other, recorder = recorded(4)
    assert torch.equal(pair(other, share=0.5), pair(pipe, share=0.5)) and recorder.made == 2
    assert torch.equal(pair(other, share=0.0), pair(pipe, share=0.0)) and recorder.made == 2
    many = {"share": [0.2, 0.9, 0.0], "steps": 5, "output": "latent", "batch_size": 3}
    made, plain = (each.generate_pair(["a"] * 3, ["b", "c", "d"], **many) for each in (other, pipe))
    assert all(torch.equal(a, b) for one, two in zip(made, plain) for a, b in zip(one, two))
    assert recorder.made == 4  # 3 pairs a call: the first steps share, the last one does not; 2 sets of rows, 1 graph


@pytest.mark.parametrize(
    "control, replays",
    [(Record(), 0), (Refine(), 0), (Replace(cross=0.5), 1), (Reweight({"boat": 2.0}), 0), (LocalBlend("boat"), 0)],
)
def test_a_control_that_looks_at_attention_takes_the_networks_own_call(control, replays):
    """Of two steps; the window of half of them leaves the second one to the graph."""
    pipe, other, recorder = recorded(4)
    how = {"share": 0.0, "control": [control], "steps": 2}
    ours = pair_of_words(other, **how)
    assert recorder.replays == replays
    assert torch.equal(ours, pair_of_words(pipe, **how))


def pair_of_words(pipe, **how):
    """By a tokenizer of words, and the denoiser's call that the pipeline has."""
    new = replace(pipe, tokenizer=WORDS)
    new.denoiser.network = pipe.denoiser.network
    return pair(new, **how)


def test_calls_with_gradients_are_not_recorded():
    pipe, other, recorder = recorded(4)
    ours, plain = (each.invert(GREY, "x", steps=2, inner=2) for each in (other, pipe))
    assert torch.equal(ours.z, plain.z) and torch.equal(ours.nulls, plain.nulls)
    x, t, text = torch.randn(1, 4, 8, 8), torch.ones(1), torch.randn(1, 16, 32, requires_grad=True)
    before = recorder.made
    other.denoiser.network(x, t, text).sum().backward()
    assert text.grad.abs().sum() > 0 and recorder.made == before


def test_a_failure_falls_back_with_one_note_and_the_same_result():
    pipe, other, _ = recorded(limit=1)
    assert torch.equal(edit(other), edit(pipe))
    with pytest.warns(SpeedWarning, match="^no CUDA graphs: CUDA error: operation not permitted") as noted:
        assert torch.equal(edit(other, resolution=48), edit(pipe, resolution=48))
    assert len(noted) == 1 and "\n" not in str(noted[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(edit(other), edit(pipe)) and not other.denoiser.network.kept


def test_an_error_of_the_network_is_its_own():
    _, other, _ = recorded()
    with warnings.catch_warnings(), pytest.raises(RuntimeError, match="shape|size|channels"):
        warnings.simplefilter("error")
        with torch.no_grad():
            other.denoiser.network(torch.randn(1, 5, 8, 8), torch.ones(1), torch.randn(1, 16, 32))
    assert other.denoiser.network.record is not None


def test_graphs_go_with_the_pipeline_and_are_not_pickled():
    _, other, recorder = recorded()
    edit(other, steps=1)
    again = pickle.loads(pickle.dumps(other.denoiser.network.__getstate__() | {"record": None}))
    assert not again["kept"] and other.denoiser.network.kept
    kept = weakref.ref(next(iter(other.denoiser.network.kept.values())).output)
    gc.disable()
    try:
        del other
        assert kept() is None  # at once: nothing refers to it in a circle
    finally:
        gc.enable()


def test_weights_that_were_replaced_are_recorded_anew():
    network, weights = (randomise(UNet(small_config().unet), seed) for seed in (0, 9))
    pipe = replace(PIPELINES[8], unet=network)
    other, recorder = replace(pipe), Recorder()
    other.denoiser.network = Graphed(network, network, recorder)
    edit(other)
    network.load_state_dict(weights.state_dict(), assign=True)
    assert torch.equal(edit(other), edit(pipe)) and recorder.made == 2


def test_on_a_cpu_the_network_is_called_itself():
    pipe = PIPELINES[8]
    assert pipe.denoiser.network is pipe.unet and pipe.graphs
    assert replace(pipe, graphs=False).denoiser.network is pipe.unet


# Compilation


class OneAttention(torch.nn.Module):
    """As small as a network with a site can be: compiling takes its time."""

    def __init__(self):
        super().__init__()
        self.into, self.out = torch.nn.Conv2d(4, 8, 1), torch.nn.Conv2d(8, 4, 1)
        self.attention = Attention(8, 2, site=Site("mid", "self", 0))
        randomise(self)

    def forward(self, z, t, text, control=()):
        h = self.into(z) * t.reshape(-1, 1, 1, 1) + text.mean()
        h = self.attention(h.flatten(2).transpose(1, 2), None, control)
        return self.out(h.transpose(1, 2).unflatten(2, z.shape[2:]))


CALL = torch.linspace(-1, 1, 512).reshape(2, 4, 8, 8), torch.tensor([0.5, 2.0]), torch.ones(2, 3, 5)
SHARED = SelfAttentionInjection([0, 0])


@pytest.mark.slow
def test_calls_without_control_or_with_share_are_compiled_and_others_are_not():
    """Traced by Dynamo, run by PyTorch."""
    network = OneAttention()
    compiled, calls = Compiled(network, backend="eager"), []
    inner = compiled.compiled
    compiled.compiled = lambda *inputs, **how: calls.append(how["control"]) or inner(*inputs, **how)
    with torch.inference_mode():
        plain = network(*CALL)
        for control in ((), (SHARED,), (SelfAttentionInjection([1, 1]),), ()):
            assert difference(compiled(*CALL, control=control), network(*CALL, control=control)) < 1e-6
        assert len(calls) == 4 and difference(compiled(*CALL, control=(SHARED,)), plain) > 1e-3
        assert torch.equal(compiled(*CALL, control=(AtSites(),)), network(*CALL, control=(AtSites(),)))
    compiled(*CALL).sum().backward()  # with gradients
    assert len(calls) == 5


def test_what_cannot_be_compiled_runs_as_it_is_with_one_note():
    def broken(*inputs, control):
        raise RuntimeError("backend='inductor' raised:\nCppCompileError: no luck\nmore lines")

    pipe = PIPELINES[8]
    other = replace(pipe)
    other.denoiser.network = compiled = Compiled(pipe.unet)
    compiled.compiled = broken
    with pytest.warns(SpeedWarning, match="^not compiled: backend='inductor' raised: CppC.* no luck; samp") as noted:
        assert torch.equal(edit(other), edit(pipe))
    assert len(noted) == 1


def test_compiling_needs_a_compiler_and_says_what_it_costs(monkeypatch, tmp_path):
    from torch._inductor import cpp_builder

    pipe = minip2p.load(compile=True)
    assert isinstance(pipe.denoiser.network, Compiled)
    assert "compiled at its first step" in pipe.notes[-1] and "2 minutes" in pipe.notes[-1]

    def none():
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    with pytest.raises(ValueError, match="compile: there is no C\\+\\+ compiler; install g\\+\\+"):
        minip2p.load(compile=True)
    with pytest.raises(ValueError, match="compile on mps"):
        graphs.check_compiler(torch.device("mps"))
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: False)
    with pytest.raises(ValueError, match="PyTorch finds no Triton for cuda"):
        graphs.check_compiler(torch.device("cuda"))


class TwoConvolutions(torch.nn.Module):
    """What the inductor makes of it are calls of the library's kernels: no C++ compiler has to run."""

    def __init__(self):
        super().__init__()
        self.into, self.out = torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.Conv2d(8, 4, 3, padding=1)
        randomise(self)

    def forward(self, z, t, text, control=()):
        return self.out(torch.relu(self.into(z)))


@pytest.mark.slow
def test_frozen_by_the_inductor_it_is_the_network_to_rounding(tmp_path, monkeypatch):
    """On a CPU, with weights as constants."""
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(config.cpp, "vec_isa_ok", True)  # asking the C++ compiler takes longer than all else here
    network = loading.prepare(TwoConvolutions())
    compiled = Compiled(network)
    call = CALL[0].to(memory_format=torch.channels_last), *CALL[1:]
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("error", SpeedWarning)
        assert difference(compiled(*call), network(*call)) < 1e-6
    source = "".join(file.read_text() for file in tmp_path.rglob("*.py"))
    assert "_frozen_param" in source and "torch.ops.mkldnn._convolution_pointwise" in source


# Nothing in a step waits for the device


class Watch(TorchDispatchMode):
    """Notes what would make the CPU wait for a device: a number read from it, a copy from it, and a copy to it that
    blocks. Tensors without numbers are on the device."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with self:  # inference mode leaves what others are made of to us
            made_of = function.decompose(*args, **kwargs)
        if made_of is not NotImplemented:
            return made_of
        given = [x.device.type for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        out = function(*args, **kwargs)
        name, made = str(function), [x.device.type for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        reads = any(word in name for word in ("_local_scalar_dense", "is_nonzero", "item", "nonzero", "equal.default"))
        if reads and "meta" in given:
            self.waits.append(name)
        if "meta" in given and "cpu" in made:
            self.waits.append(f"{name} from the device")
        copies = "copy" in name and "cpu" in given and ("meta" in made or "meta" in given)
        if copies and not (kwargs.get("non_blocking") or args[2:3] == (True,)):
            self.waits.append(f"{name} blocks")
        return out


@cache
def on_meta(channels: int = 8):
    with torch.device("meta"):
        unet = UNet(small_config(channels).unet)
    return replace(PIPELINES[channels], unet=unet)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("weights", [(7.5, 1.5), (torch.tensor([7.5, 2.0]), torch.tensor([1.5, 1.0]))])
def test_no_sampler_waits_for_the_device(sampler, weights):
    pipe = on_meta()
    text, null, image = (torch.randn(*s, device="meta") for s in ((2, 16, 32), (1, 16, 32), (2, 4, 8, 8)))
    with torch.inference_mode(), Watch() as watch:
        field = guided(pipe.denoiser, three_way(*weights, text, null, image))
        noise = Noise([0, 1], (4, 8, 8), device="meta")
        sigmas = pipe.denoiser.schedule.sigmas_for(2)
        steps = list(get_sampler(sampler)(field, noise.start(sigmas[0]), sigmas, noise=noise))
    assert len(steps) == 2 and steps[-1].z.device.type == "meta"
    assert watch.waits == []


@pytest.mark.parametrize("predict", ["eps", "v", "x0", "flow"])
def test_no_prediction_waits_for_the_device_with_a_level_an_item(predict):
    """As in training: levels are on the CPU, one an item."""
    denoiser = Denoiser(on_meta(4).unet, make_schedule(small_config().schedule), predict)
    z, text = torch.randn(2, 4, 8, 8, device="meta"), torch.randn(2, 16, 32, device="meta")
    with torch.no_grad(), Watch() as watch:
        assert denoiser(z, torch.tensor([1.0, 2.0]), Cond(text)).shape == z.shape
    assert watch.waits == []


@pytest.mark.parametrize(
    "control, once",
    [
        ([], 0),
        ([Share(0.9)], 1),  # rows
        ([Replace(cross=0.9, self=1.0)], 5),  # rows of both kinds, mappers, alphas
        ([Reweight({"boat": 2.0})], 1),
        ([LocalBlend(mask=torch.eye(8), start=0.0)], 3),  # rows, mask
    ],
)
def test_the_pipelines_steps_do_not_wait(control, once):
    """Up to the last step, after which the result is looked at once. What a control brings moves in its first step."""
    pipe = replace(on_meta(4), tokenizer=WORDS)
    text = torch.randn(2, 16, 32, device="meta")
    with Watch() as watch:
        branches = [(7.5, Cond(text)), (-6.5, Cond(text))]
        run = pipe.sample(branches, [0, 0], (8, 8), steps=3, prompts=PROMPTS, sources=[0, 0], control=control)
        for _ in range(3):
            next(run)
    assert len(watch.waits) == once, watch.waits
    with pytest.raises(RuntimeError, match="meta"):
        next(run)


def test_the_watch_sees_what_waits():
    x = torch.ones(2, device="meta")
    for wait in (
        lambda: torch.ones(2).to("meta"),
        lambda: x.copy_(torch.ones(2)),
        lambda: x[0].item(),
        lambda: bool(x[0]),
    ):
        with Watch() as watch:
            try:
                wait()
            except RuntimeError:  # meta has no numbers to read
                continue
        assert len(watch.waits) == 1


# Precision and layout


@pytest.mark.parametrize(
    "capability, found", [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)]
)
def test_auto_is_the_half_precision_in_which_the_card_computes(monkeypatch, capability, found):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert loading.place("cuda", "auto") == (torch.device("cuda"), found)
    assert loading.place("cpu", "auto")[1] == torch.float32


def test_auto_is_the_default_and_float32_on_a_cpu_and_for_training():
    assert minip2p.load().dtype == minip2p.load(dtype="auto").dtype == torch.float32
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            loading, "place", lambda device, dtype: asked.append(dtype) or (torch.device("cpu"), torch.float32)
        )
        minip2p.load(device="cuda")
        minip2p.load(device="cuda", inference=False)
    assert asked == ["auto", torch.float32]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mean", [0, 3])
def test_group_norm_without_gradients_keeps_the_layout_and_has_float32_moments(dtype, mean):
    """Of half precision only the result is rounded: at most one unit in its last place, 2^-8 or 2^-11 of it."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(3, 64, 12, 20, generator=generator) + mean).to(dtype).to(memory_format=torch.channels_last)
    weight, bias = (torch.randn(64, generator=generator).to(dtype) for _ in range(2))
    ours = without_gradients(x, weight, bias, 8, 1e-5)
    exact = torch.nn.functional.group_norm(x.double(), 8, weight.double(), bias.double(), 1e-5)
    assert ours.dtype == dtype and ours.is_contiguous(memory_format=torch.channels_last)
    room = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]
    assert ((ours - exact).abs() <= room * exact.abs() + 1e-5).all()


# Batches


def test_as_many_items_as_fit_from_one_to_eight():
    assert [fitting(free, 10) for free in (0, 19, 20, 59, 60, 10**9)] == [1, 1, 1, 2, 3, MOST]
    sd = replace(small_config(), unet=UNetConfig(in_channels=8))
    row = bytes_per_row(replace(sd, vae=minip2p.config.VAEConfig()), (512, 512), 2)
    assert row == 100 * 320 * 64 * 64 * 2
    assert [fitting(gigabytes << 30, 3 * row) for gigabytes in (2, 6, 8, 24, 80)] == [1, 4, 5, 8, 8]
    assert default_batch_size(PIPELINES[8], (512, 512), 3) == 1


def batches_of(monkeypatch) -> list[int]:
    """The items of every call of the sampler from now on."""
    sizes, sample = [], minip2p.Pipeline.sample

    def counted(pipe, branches, seeds, *more, **how):
        sizes.append(len(seeds))
        return sample(pipe, branches, seeds, *more, **how)

    monkeypatch.setattr(minip2p.Pipeline, "sample", counted)
    return sizes


def test_edit_makes_images_of_one_size_together(here, monkeypatch, capsys):
    """Of a table whose lines differ in all that they may; what is broken behind a good header is left out."""
    Image.new("RGB", (40, 40), "red").save("other.png")
    Path("broken.png").write_bytes(Path("in.png").read_bytes()[:80])
    lines = [
        {"input": "in.png", "edit": "night", "output": "a.png", "text_scale": 3.0},
        {"input": "other.png", "edit": "day", "output": "b.png"},
        {"input": "broken.png", "edit": "day", "output": "x.png"},
        {"input": "in.png", "edit": "x", "output": "c.png", "seed": 5, "image_scale": 2.0},
    ]
    Path("t.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    sizes = batches_of(monkeypatch)
    for folder, words in (("alone", ()), ("both", ("--batch-size", "3"))):
        assert command("--skip-broken", *words, given="t.jsonl", text=None, output=folder) == 0
    assert sizes == [1, 1, 1, 2, 1]
    assert capsys.readouterr().err.count("broken.png") >= 2
    for name in ("a.png", "b.png", "c.png"):
        assert abs(pixels(f"alone/{name}").astype(int) - pixels(f"both/{name}")).max() <= 1
        assert metadata.equal(*(metadata.read(Path(folder, name)) for folder in ("alone", "both")))
    assert metadata.read(Path("both/a.png"))["made_with"]["batch size"] == "2"
    assert main(["show", "both/a.png", "--again", "--output", "both/again.png", "--input", "in.png", *EDITOR]) in (0, 1)
    assert command("--batch-size", "0", output="no.png") == 2
    assert "batch size 0: expected a whole number" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, expected",
    [
        (["generate", "--prompt", "a", "b", "--grid", "seed=0,1,2"], [4, 2]),
        (["generate", "--prompt", "a", "--grid", "seed=0,1", "steps=1,2"], [2, 2]),
        (["pair", "--prompt", "a", "--edited-prompt", "b", "--grid", "share=0,0.5,1"], [6]),
    ],
)
def test_sheets_are_made_in_batches(here, monkeypatch, words, expected):
    """Rows of a pair are two; the number of steps is one for a call."""
    sizes, common = batches_of(monkeypatch), ["--weights", "text2image.safetensors", "--steps", "2"]
    for n, output in (("1", "a.png"), ("4", "b.png")):
        sizes.clear()
        assert main([*words, *common, "--batch-size", n, "--output", output]) == 0
    assert sizes == expected
    assert abs(pixels("a.png").astype(int) - pixels("b.png")).max() <= 1


def test_what_decides_the_pixels_is_recorded(here):
    """The dtype that "auto" was, and that the network was compiled."""
    assert command() == 0
    weights = metadata.read(Path("out.png"))["weights"]
    assert weights["dtype"] == "float32" and "compile" not in weights
    assert command("--compile", "--steps", "1", text="", output="b.png") == 0
    assert metadata.read(Path("b.png"))["weights"]["compile"] is True
    assert main(["show", "b.png", "--again", *EDITOR]) == 0


# On a GPU


@pytest.fixture(scope="module")
def on_gpu():
    return {name: minip2p.load(minip2p.shipped(name), device="cuda") for name in ("editor", "text2image")}


@CUDA
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_on_a_gpu_graphs_are_eager_bit_for_bit(on_gpu, sampler):
    pipe = on_gpu["editor"]
    plain = replace(pipe, graphs=False)
    assert isinstance(pipe.denoiser.network, Graphed) and plain.denoiser.network is pipe.unet
    for size in ((64, 64), (96, 64)):
        how = {"steps": 5, "sampler": sampler, "output": "latent"}
        a, b = (each.edit(Image.new("RGB", size, "red"), "make it night", **how) for each in (pipe, plain))
        assert torch.equal(a, b)
    assert pipe.denoiser.network.kept


@CUDA
def test_on_a_gpu_sharing_is_eager_bit_for_bit(on_gpu):
    pipe = on_gpu["text2image"]
    how = {"steps": 6, "share": [0.3, 0.8], "batch_size": 2, "output": "latent"}
    a, b = (each.generate_pair(["a", "b"], ["c", "d"], **how) for each in (pipe, replace(pipe, graphs=False)))
    assert all(torch.equal(x, y) for one, two in zip(a, b) for x, y in zip(one, two))


@CUDA
def test_on_a_gpu_no_step_synchronises(on_gpu):
    """PyTorch refuses what waits; and the profiler sees no wait of CUDA's between the first step and the last."""
    pipe = on_gpu["editor"]
    text, image = pipe.encode_text(["make it night", ""]), pipe.encode_image(torch.rand(1, 3, 64, 64))
    for each in (pipe, replace(pipe, graphs=False)):
        run = each.sample(three_way(7.5, 1.5, text[:1], text[1:], image), [0], tuple(image.shape[2:]), steps=20)
        next(run)  # records
        torch.cuda.set_sync_debug_mode("error")
        try:
            with torch.profiler.profile() as profile:
                for _ in range(18):
                    next(run)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        names = [event.key for event in profile.key_averages()]
        assert not [name for name in names if name in ("cudaStreamSynchronize", "cudaEventSynchronize")]


@CUDA
def test_on_a_gpu_group_norm_keeps_the_layout():
    from minip2p.nn.blocks import GroupNorm

    norm = GroupNorm(8, 64).cuda().bfloat16()
    x = torch.randn(2, 64, 32, 32, device="cuda").bfloat16().to(memory_format=torch.channels_last)
    with torch.no_grad():
        y = norm(x)
    exact = torch.nn.functional.group_norm(x.double(), 8, eps=1e-5)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert ((y - exact).abs() <= 2**-8 * exact.abs() + 1e-5).all()
