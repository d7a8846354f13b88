"""Editing on small random networks: what it returns, what it depends on, and what it refuses."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROUNDING, difference, small_config, small_pipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import minip2p
from minip2p import loading
from minip2p.config import CLIPConfig, VisionConfig, kind_of, override
from minip2p.control.run import AtSites, Control
from minip2p.data.images import ImageError, to_tensor
from minip2p.diffusion import SAMPLERS
from minip2p.loading import place
from minip2p.models.clip import CLIP
from minip2p.nn.blocks import Upsample
from minip2p.pipeline.batching import finite
from minip2p.text.bpe import BPE
from minip2p.text.learn import learn_bpe
from minip2p.training import stages


def picture(width: int = 60, height: int = 40, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


# Outputs


def test_the_three_outputs_agree(pipe):
    latent, tensor, pil = (
        pipe.edit(picture(), "make it night", steps=2, output=word) for word in ("latent", "tensor", "pil")
    )
    assert latent.shape == (4, 6, 8) and tensor.shape == (3, 24, 32) and pil.size == (32, 24)
    assert torch.equal(pipe.decode(latent[None])[0], tensor)
    assert tensor.min() >= 0 and tensor.max() <= 1
    assert np.array_equal(np.asarray(pil), (255 * tensor).byte().movedim(0, -1).numpy())  # cut down, not rounded
    for x in (latent, tensor):
        assert not x.is_inference() and not x.requires_grad


def test_size(pipe):
    assert pipe.edit(picture(), "x", steps=1, resolution=64).size == (72, 48)
    for fit in ("crop", "pad", "stretch"):
        assert pipe.edit(picture(), "x", steps=1, fit=fit, keep_size=True).size == (60, 40)
    assert pipe.edit(picture(), "x", steps=1, keep_size=True, output="tensor").shape == (3, 40, 60)
    assert pipe.edit(picture(1, 1), "x", steps=1).size == (32, 32)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_instruction_returns_the_fitted_picture(pipe, text):
    fitted = pipe.edit(picture(), text)
    assert fitted.size == (32, 24)
    assert torch.equal(pipe.edit(picture(), text, output="tensor"), to_tensor(fitted))
    mode = pipe.encode_image(to_tensor(fitted)[None])[0]
    assert torch.equal(pipe.edit(picture(), text, output="latent"), 0.18215 * mode)
    some = pipe.edit(picture(), ["", "x", ""], steps=1)
    assert some[0].tobytes() == some[2].tobytes() == fitted.tobytes() != some[1].tobytes()


# Dependence


def test_scales_left_out_are_the_models(pipe):
    sampling = replace(pipe.config.sampling, text_scale=3.0, image_scale=1.25)
    other = replace(pipe, config=replace(pipe.config, sampling=sampling))
    a = other.edit(picture(), "x", steps=2, output="latent")
    assert torch.equal(a, pipe.edit(picture(), "x", steps=2, output="latent", text_scale=3.0, image_scale=1.25))
    assert difference(a, pipe.edit(picture(), "x", steps=2, output="latent")) > 1e-2


@pytest.mark.parametrize(
    "changed", [{"seed": 1}, {"text_scale": 3}, {"image_scale": 2}, {"steps": 4}, {"sampler": "ddim"}]
)
def test_every_setting_matters(pipe, changed):
    common = {"steps": 3, "output": "latent"}
    assert difference(pipe.edit(picture(), "x", **common | changed), pipe.edit(picture(), "x", **common)) > 1e-3


def test_text_and_picture_matter(pipe):
    a = pipe.edit(picture(), "x", steps=2, output="latent")
    assert difference(pipe.edit(picture(), "make it night", steps=2, output="latent"), a) > 1e-3
    assert difference(pipe.edit(picture(seed=1), "x", steps=2, output="latent"), a) > 1e-3


def test_an_item_does_not_depend_on_its_batch(pipe):
    """Sizes, texts, scales and seeds mixed: bit-equal alone and in a list, equal to rounding when batched."""
    pictures = [picture(60, 40, 0), picture(40, 60, 1), picture(60, 40, 2), picture(60, 40, 3)]
    texts, seeds, scales = ["x", "make it night", "", "x"], [5, 0, 1, 2**40], [7.5, 1.0, 2.0, 3.0]
    alone = [
        pipe.edit(p, t, seed=s, text_scale=w, steps=4, output="latent")
        for p, t, s, w in zip(pictures, texts, seeds, scales, strict=True)
    ]
    common = {"seed": seeds, "text_scale": scales, "steps": 4, "output": "latent"}
    assert all(map(torch.equal, pipe.edit(pictures, texts, **common), alone))
    for together, one in zip(pipe.edit(pictures, texts, **common, batch_size=4), alone, strict=True):
        assert difference(together, one) < ROUNDING
    turned = pipe.edit(pictures[::-1], texts[::-1], **common | {"seed": seeds[::-1], "text_scale": scales[::-1]})
    assert all(map(torch.equal, turned[::-1], alone))


def test_lists_meet_single_values(pipe):
    common = {"steps": 1, "output": "latent"}
    one = pipe.edit(picture(), "x", seed=8, **common)
    assert torch.equal(pipe.edit([picture()] * 3, "x", seed=6, **common)[2], one)  # a lone seed counts up
    assert torch.equal(pipe.edit(picture(), ["y", "x"], seed=[3, 8], **common)[1], one)
    assert torch.equal(pipe.edit(picture(), "x", seed=(1, 8), **common)[1], one)
    assert torch.equal(pipe.edit(picture(), "x", seed=[8, 8], image_scale=[1.0, 1.5], **common)[1], one)
    assert pipe.edit([], "x") == [] and len(pipe.edit([picture()], "x", **common)) == 1


def test_low_memory_gives_the_same(pipe):
    a, b = (pipe.edit(picture(), "x", steps=3, output="latent", low_memory=low) for low in (False, True))
    assert difference(b, a) < ROUNDING


def test_equal_scales_run_two_rows_and_ones_run_one(pipe):
    rows = []

    def counted(z, *args, **kwargs):
        rows.append(len(z))
        return pipe.unet(z, *args, **kwargs)

    spy = replace(pipe)
    spy.denoiser.network = counted
    for scales in ((7.5, 1.5), (7.5, 1.0), (1.5, 1.5), (1.0, 1.0)):
        spy.edit(picture(), "x", text_scale=scales[0], image_scale=scales[1], steps=1)
    spy.edit(picture(), "x", steps=1, low_memory=True)
    assert rows == [3, 2, 2, 1, 1, 1, 1]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 3])
def test_every_sampler_ends_finite(pipe, sampler, steps):
    assert pipe.edit(picture(), "x", sampler=sampler, steps=steps, output="latent").isfinite().all()


def test_on_step_is_called_after_every_step(pipe):
    told = []
    pipe.edit([picture(), picture(40, 60), picture()], ["x", "x", ""], steps=3, on_step=told.append)
    assert [(p.done, p.total) for p in told] == [(i + 1, 6) for i in range(6)]
    assert [p.items for p in told] == [(0,)] * 3 + [(1,)] * 3
    assert pipe.decode(told[0].step.denoised).shape == (1, 3, 24, 32)


def test_editing_touches_no_global_generator_and_no_weight(pipe):
    before, weights = torch.get_rng_state(), pipe.fingerprint
    pipe.edit(picture(), "x", steps=2)
    assert torch.equal(torch.get_rng_state(), before) and replace(pipe).fingerprint == weights


def test_a_control_reaches_the_network(pipe):
    class Count(Control, AtSites):
        calls = 0

        def for_call(self, sigma, branches, b):
            assert (branches, b) == ((0, 1, 2), 1)
            return self if sigma > 1 else None

        def inputs(self, q, k, v, site):
            self.calls += 1
            return q, k, v

    control = Count()
    plain = pipe.edit(picture(), "x", steps=3, output="latent")
    assert torch.equal(pipe.edit(picture(), "x", steps=3, output="latent", control=(control,)), plain)
    sites, above = 2 * (1 + 1 + 2), sum(s > 1 for s in pipe.denoiser.schedule.sigmas_for(3))
    assert control.calls == sites * above > 0


# Errors


@pytest.mark.parametrize(
    "bad, words",
    [
        ({"steps": 0}, "steps 0: expected a whole number"),
        ({"steps": 2.5}, "steps 2.5"),
        ({"text_scale": math.nan}, "text scale nan: expected a finite number"),
        ({"image_scale": -1}, "image scale -1"),
        ({"image_scale": math.inf}, "image scale inf"),
        ({"text_scale": "7"}, "text scale '7'"),
        ({"seed": -1}, "seed -1: expected a whole number"),
        ({"seed": 2**64}, "seed 1844"),
        ({"seed": 0.5}, "seed 0.5"),
        ({"sampler": "magic"}, "unknown sampler 'magic'; there are ddpm, ddim"),
        ({"spacing": "wide"}, "unknown spacing 'wide'; there are linspace, leading, karras"),
        ({"fit": "squeeze"}, "unknown fit 'squeeze'; there are crop"),
        ({"output": "jpeg"}, "output 'jpeg': expected pil or tensor or latent"),
        ({"resolution": 0}, "resolution 0"),
        ({"resolution": 10**6}, "resolution 1000000: expected pixels, at least 1 and at most 8192"),
        ({"steps": 10**9}, "steps 1000000000: expected a whole number, at least 1 and at most 10000"),
        ({"steps": True}, "steps True: expected a whole number"),
        ({"seed": 2**64}, "seed 18446744073709551616: expected a whole number from 0"),
        ({"image_scale": 1e300}, "image scale 1e+300: expected a finite number, 0 or more, at most 1000"),
        ({"batch_size": 0}, "batch size 0"),
        ({"image": [picture()] * 2, "seed": [1, 2, 3]}, "unequal length: picture has 2, seed has 3"),
        ({"instruction": None}, "instruction None"),
        ({"image": "nowhere.png"}, "nowhere.png: no such file"),
    ],
)
def test_invalid_options_are_refused_in_one_line(pipe, bad, words):
    with pytest.raises(ValueError) as error:
        pipe.edit(**{"image": picture(), "instruction": "x"} | bad)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert isinstance(error.value, ImageError) == ("nowhere.png" in words)


def test_the_spacing_is_that_of_the_noise_levels(pipe):
    levels = []
    pipe.edit(picture(), "x", steps=4, spacing="karras", on_step=lambda p: levels.append(p.step.sigma))
    assert levels == pytest.approx(pipe.denoiser.schedule.sigmas_for(4, "karras")[:-1].tolist())
    assert levels != pytest.approx(pipe.denoiser.schedule.sigmas_for(4)[:-1].tolist())


@pytest.mark.parametrize(
    "inputs, kind",
    [
        (4, "text-to-image"),
        (8, "editor"),
        (9, "inpainting"),
        (5, "depth"),
        (7, "upscaler"),
        (6, "denoiser with 6 inputs"),
    ],
)
def test_a_model_is_named_as_what_it_is(inputs, kind):
    config = small_config(inputs)
    assert kind_of(config) == kind
    pipe = small_pipeline(inputs)
    assert pipe.kind == kind and kind in repr(pipe)
    for wanted in ("editor", "text-to-image"):
        if wanted == kind:
            pipe.require(wanted)
        else:
            with pytest.raises(ValueError, match=f"kind '{kind}'.* {inputs} input channels.*'{wanted}' is needed"):
                pipe.require(wanted)


def test_sampler_options_reach_the_sampler(pipe):
    common = {"steps": 3, "output": "latent"}
    plain = pipe.edit(picture(), "x", sampler="ddim", **common)
    assert torch.equal(pipe.edit(picture(), "x", sampler="ddim", sampler_options={"eta": 0.0}, **common), plain)
    noisy = pipe.edit(picture(), "x", sampler="ddim", sampler_options={"eta": 1.0}, **common)
    assert difference(noisy, plain) > 1e-3
    assert difference(noisy, pipe.edit(picture(), "x", sampler="euler_ancestral", **common)) < ROUNDING
    for sampler, has in (("ddim", "eta"), ("euler", "none")):
        with pytest.raises(ValueError, match=f"sampler {sampler} has no option 'rho'; it has {has}"):
            pipe.edit(picture(), "x", sampler=sampler, sampler_options={"rho": 7}, **common)


def test_a_text2image_cannot_edit():
    with pytest.raises(ValueError, match="kind 'text-to-image'.* 4 input channels.*InstructPix2Pix.*convert --widen"):
        small_pipeline(in_channels=4).edit(picture(), "x")


@settings(max_examples=12)
@given(st.text(max_size=40), st.integers(1, 2), st.floats(0, 20), st.floats(0, 5), st.integers(0, 2**64 - 1))
def test_any_text_scale_and_seed_give_a_picture(pipe, text, steps, text_scale, image_scale, seed):
    result = pipe.edit(picture(9, 7), text, steps=steps, text_scale=text_scale, image_scale=image_scale, seed=seed)
    assert result.size == (40, 32)


# Loading and saving


@pytest.fixture(scope="module")
def tokenizer():
    return learn_bpe(["make it night", "a red boat"], vocab_size=380, max_length=16)


@pytest.fixture(scope="module")
def ours(pipe, tokenizer, tmp_path_factory):
    """A pipeline in a file of our own, with our own tokenizer."""
    text = replace(pipe.config.text, bos=tokenizer.bos, eos=tokenizer.eos, pad=tokenizer.pad)
    pipe = replace(pipe, tokenizer=tokenizer, config=replace(pipe.config, text=text), provenance={"made": "by hand"})
    path = tmp_path_factory.mktemp("weights") / "editor.safetensors"
    minip2p.save(pipe, path)
    return pipe, path


def test_saved_and_loaded_it_edits_the_same(ours):
    pipe, path = ours
    again = minip2p.load(path)
    assert again.config == pipe.config and again.tokenizer == pipe.tokenizer and again.provenance == pipe.provenance
    assert again.fingerprint == pipe.fingerprint and not again.unet.training
    a, b = (each.edit(picture(), "make it night", steps=3, output="latent") for each in (pipe, again))
    assert difference(b, a) < ROUNDING  # fused upsampling and another memory layout round otherwise


@pytest.mark.parametrize("layout", ["minip2p", "original", "diffusers"])
def test_a_loaded_pipeline_is_saved_bit_for_bit(ours, layout, tmp_path):
    pipe, path = ours
    saved = tmp_path / ("folder" if layout == "diffusers" else "x.safetensors")
    minip2p.save(minip2p.load(path), saved, layout)
    again = minip2p.load(saved, config=pipe.config, tokenizer=pipe.tokenizer, inference=False)
    for part, network in pipe.parts.items():
        state = again.parts[part].state_dict()
        assert state.keys() == network.state_dict().keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())


def test_what_is_loaded_for_training_has_gradients_and_nothing_fused(ours):
    def upsamplers(pipe):
        return [m for m in pipe.unet.modules() if isinstance(m, Upsample)]

    to_run, to_train = minip2p.load(ours[1]), minip2p.load(ours[1], inference=False)
    assert all(m.fused is not None for m in upsamplers(to_run))
    assert all(m.fused is None for m in upsamplers(to_train))
    assert not any(p.requires_grad for p in to_run.unet.parameters())
    assert all(p.requires_grad for p in to_train.unet.parameters())


def test_config_by_words_and_tokenizer_by_folder(ours, tmp_path):
    pipe, path = ours
    assert minip2p.load(path, config=["schedule.prediction=v"]).config == override(pipe.config, "schedule.prediction=v")
    pipe.tokenizer.save(tmp_path)
    tokenizer = minip2p.load(path, tokenizer=tmp_path).tokenizer
    assert torch.equal(tokenizer(["Make it night!"]), pipe.tokenizer(["Make it night!"]))


def test_half_precision_weights(ours, tmp_path):
    pipe, path = ours
    minip2p.save(pipe, tmp_path / "half.safetensors", dtype=torch.float16)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * path.stat().st_size
    half = minip2p.load(tmp_path / "half.safetensors")
    as_it_is = minip2p.load(tmp_path / "half.safetensors", dtype=None)
    assert as_it_is.dtype == torch.float16 and as_it_is.fingerprint == half.fingerprint
    assert half.dtype == torch.float32 and half.fingerprint != pipe.fingerprint
    assert half.edit(picture(), "x", steps=2, output="latent").isfinite().all()


@pytest.mark.skipif(not loading.cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"}, reason="a CPU without bfloat16")
def test_bfloat16_runs_where_the_cpu_has_it(ours):
    pipe = minip2p.load(ours[1], dtype="bfloat16")
    z = pipe.edit(picture(), "x", steps=2, output="latent")
    assert pipe.dtype == torch.bfloat16 and z.dtype == torch.float32 and z.isfinite().all()


def test_what_cannot_be_loaded_is_refused(ours, tmp_path, monkeypatch):
    pipe, path = ours
    with pytest.raises(ValueError, match="tokenizer has 49408 tokens"):
        minip2p.load(path, tokenizer=BPE.clip())
    with pytest.raises(ValueError, match="load reads it"):
        minip2p.load_clip(path)
    with pytest.raises(FileNotFoundError):
        minip2p.load(tmp_path / "nowhere.safetensors")
    with pytest.raises(ValueError, match="unknown dtype 'int8'"):
        minip2p.load(path, dtype="int8")
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        minip2p.load(path, device="gpu")
    with pytest.raises(ValueError, match="cuda:77: PyTorch .* finds"):
        minip2p.load(path, device="cuda:77")
    with pytest.raises(ValueError, match="float16 is 6 times slower"):
        minip2p.load(path, dtype=torch.float16)
    with pytest.raises(FileNotFoundError, match="no shipped weights 'nobody'"):
        minip2p.shipped("nobody")
    with pytest.raises(ValueError, match="cannot save a tokenizer"):
        minip2p.save(small_pipeline(), tmp_path / "x.safetensors")
    monkeypatch.setattr(loading, "cpu_flags", lambda: {"avx2", "fma"})
    with pytest.raises(ValueError, match="bfloat16 is 8 times slower"):
        minip2p.load(path, dtype=torch.bfloat16)


def test_cpu_flags_by_linux_names(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu avx2 amx_bf16\n\nFeatures : fp bf16\n")
    assert loading.cpu_flags(tmp_path / "cpuinfo") == {"fpu", "avx2", "amx_bf16", "fp", "bf16"}
    assert loading.cpu_flags(tmp_path / "nowhere") <= {"avx512_bf16", "amx_bf16"}


def test_load_clip(tokenizer, tmp_path):
    from minip2p import checkpoints

    text = replace(small_config().text, bos=tokenizer.bos, eos=tokenizer.eos, pad=tokenizer.pad, projection=24)
    vision = VisionConfig(image_size=16, patch_size=8, width=32, layers=1, heads=2, feed_forward=64, projection=24)
    clip = CLIP(CLIPConfig(text=text, vision=vision), tokenizer)
    parts = {"text": clip.text.state_dict(), "vision": clip.vision.state_dict(), "logit_scale": {"": clip.logit_scale}}
    checkpoints.write(tmp_path / "clip.safetensors", "minip2p", clip.config, parts, tokenizer=tokenizer)
    again = minip2p.load_clip(tmp_path / "clip.safetensors")
    images, texts = (torch.rand(2, 3, 20, 30), torch.rand(2, 3, 20, 30)), (["a", "a boat"], ["x", "red"])
    for a, b in zip(again.similarities(*images, *texts), clip.similarities(*images, *texts), strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(ValueError, match="load_clip reads it"):
        minip2p.load(tmp_path / "clip.safetensors")


GREY = Image.new("RGB", (32, 32), "grey")
BREAKS = {
    "text encoder": lambda pipe: pipe.text_encoder.norm.weight,
    "denoiser": lambda pipe: pipe.unet.conv_out.bias,
    "autoencoder's decoder": lambda pipe: pipe.vae.decoder.conv_out.bias,
    "autoencoder's encoder": lambda pipe: pipe.vae.quant.bias,
}
RUNS = {
    "edit": (8, lambda pipe, output: pipe.edit(GREY, "x", steps=2, output=output)),
    "generate": (4, lambda pipe, output: pipe.generate("x", steps=2, output=output)),
    "pair": (4, lambda pipe, output: pipe.generate_pair("x", "y", steps=2, output=output)),
    "sdedit": (4, lambda pipe, output: pipe.sdedit(GREY, "x", steps=4, output=output)),
    "invert": (4, lambda pipe, output: pipe.invert(GREY, "x", steps=2, inner=1)),
}
SEES_NO = {"generate": "autoencoder's encoder", "pair": "autoencoder's encoder", "invert": "autoencoder's decoder"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", BREAKS)
@pytest.mark.parametrize("verb", RUNS)
def test_numbers_that_are_not_finite_are_an_error_that_names_the_part(verb, part, value):
    """Never a black or white picture; where the latent is asked for, the decoder never runs."""
    channels, call = RUNS[verb]
    broken = small_pipeline(channels)
    with torch.no_grad():
        BREAKS[part](broken).fill_(value)
    for output in ("pil", "tensor", "latent"):
        if SEES_NO.get(verb) == part or (output == "latent" and "decoder" in part):
            call(broken, output)
        else:
            with pytest.raises(ValueError, match=f"the {part} gave numbers that are not finite in float32"):
                call(broken, output)


def test_float16_that_overflows_says_which_dtypes_do_not():
    with pytest.raises(ValueError, match="in float16: load the model with dtype bfloat16 or float32"):
        finite(torch.tensor([1e5]).half(), "autoencoder's decoder")
    assert finite(torch.tensor([65504.0]).half(), "denoiser") == 65504.0


@pytest.mark.parametrize(
    "dtype, before, after",
    [("float32", True, False), (torch.float32, True, False), (None, True, False), ("tf32", False, True)],
)
def test_float32_is_float32_on_cuda_and_tf32_is_a_word(monkeypatch, dtype, before, after):
    """PyTorch sets TF32 for convolutions by itself; half precision leaves the switches alone."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    was = cudnn.allow_tf32, matmul.allow_tf32
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    try:
        cudnn.allow_tf32 = matmul.allow_tf32 = before
        place("cpu", "float32")
        place("cuda", "bfloat16")
        assert cudnn.allow_tf32 == matmul.allow_tf32 == before
        assert place("cuda", dtype)[1] in (torch.float32, None)
        assert cudnn.allow_tf32 == matmul.allow_tf32 == after
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = was


@pytest.mark.parametrize(
    "device", ["meta", "xla", "vulkan", "xpu:0", "hpu", "mkldnn", "mps:1", "cpu:2", "cuda:-1", "CPU", "", 3.5, None]
)
def test_a_device_that_cannot_be_used_is_unknown(device):
    with pytest.raises(ValueError, match="unknown device '.*'; expected auto, cpu, cuda, cuda:1 or mps"):
        place(device, "float32")
    with pytest.raises(ValueError, match="unknown device"):
        stages.start(stages.STAGES["editor"], None, Path("nowhere"), device=device)


def test_tf32_is_refused_where_there_is_none():
    with pytest.raises(ValueError, match="only CUDA GPUs have it; use float32"):
        place("cpu", "tf32")
