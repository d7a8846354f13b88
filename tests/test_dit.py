"""The diffusion transformer: laws of the network, and everything that a UNet does done by it too."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ROUNDING, difference, randomise, small_config
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import minip2p
from minip2p import checkpoints
from minip2p.cli import main
from minip2p.config import PRESETS as MODELS
from minip2p.config import Config, DiTConfig, override
from minip2p.control import LocalBlend, Record, Refine, Replace, Reweight, Share
from minip2p.diffusion import SAMPLERS
from minip2p.models.denoisers import DENOISERS, build_denoiser
from minip2p.models.dit import DiT, positions
from minip2p.models.text_encoder import TextEncoder
from minip2p.models.vae import AutoencoderKL
from minip2p.nn.attention import FEED_FORWARD, Attention
from minip2p.pipeline import Pipeline
from minip2p.text.learn import learn_bpe
from minip2p.training.config import TrainConfig

RED, BLUE, MORE = "a red house by the sea", "a blue house by the sea", "a red house with a boat, by the sea"
TOKENIZER = learn_bpe([RED, BLUE, MORE] * 3, vocab_size=400, max_length=16)
SMALL = DiTConfig(width=32, depth=2, heads=2, text_width=32)


def dit(**changes) -> DiT:
    return randomise(DiT(replace(SMALL, **changes)))


def pipeline(in_channels: int = 4) -> Pipeline:
    """Like conftest's small pipeline; its attention to the text is peaked, so that words have places."""
    config = replace(small_config(), denoiser="dit", dit=replace(SMALL, in_channels=in_channels))
    parts = build_denoiser(config), AutoencoderKL(config.vae), TextEncoder(config.text)
    pipe = Pipeline(*(randomise(part, i) for i, part in enumerate(parts)), TOKENIZER, config)
    for module in pipe.unet.modules():
        if isinstance(module, Attention) and module.site.kind == "cross":
            module.q.weight.data *= 6
    return pipe


@pytest.fixture(scope="module")
def text2image():
    return pipeline()


# The network


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.sampled_from(sorted(FEED_FORWARD)))
def test_any_size_that_patches_divide(p, y, x, feed_forward):
    network = dit(patch=p, in_channels=3, out_channels=2, feed_forward=feed_forward)
    z, text = torch.randn(2, 3, y * p, x * p), torch.randn(2, 5, 32)
    with torch.inference_mode():
        out = network(z, torch.tensor([3.7, 900.0]), text)
        assert out.shape == (2, 2, y * p, x * p) and out.isfinite().all()
        assert torch.allclose(network(z[:1], 3.7, text[:1]), out[:1], atol=1e-4), "a row does not depend on its batch"
        assert not torch.allclose(network(z[:1], 4.7, text[:1]), out[:1], atol=1e-6)
        assert not torch.allclose(network(z[:1], 3.7, text[1:]), out[:1], atol=1e-6)
    assert network.map_sizes((y * p, x * p)) == [(y, x)]


def test_blocks_change_nothing_at_first():
    """adaLN-zero: with the gates at 0 a network of any depth is one of none, whatever its other weights."""
    torch.manual_seed(0)
    block = DiT(SMALL).blocks[0]
    h, time, text = torch.randn(1, 6, 32), torch.randn(1, 32), torch.randn(1, 5, 32)
    assert torch.equal(block(h, time, text, ()), h)


def test_each_place_has_a_position_of_its_own():
    grid = positions(6, 5, 32, torch.zeros(1))
    assert grid.shape == (30, 32)
    assert (torch.cdist(grid, grid) + torch.eye(30)).min() > 0.1
    assert torch.equal(grid[:5, :16], grid[:1, :16].expand(5, -1)), "a row has one first half"
    assert torch.equal(positions(9, 5, 32, grid)[:30], grid), "more rows move no position"


def test_checkpointing_gives_the_same_gradients():
    gradients = []
    for on in (False, True):
        network = dit().train()
        network.checkpointing = on
        z = torch.randn(1, 4, 6, 8, generator=torch.Generator().manual_seed(0))
        network(z, 7.0, torch.ones(1, 5, 32)).square().sum().backward()
        gradients.append([p.grad for p in network.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


def test_a_width_that_sinusoids_do_not_fill_is_refused():
    with pytest.raises(ValueError, match="width = 36: expected a multiple of 8"):
        DiT(replace(SMALL, width=36))


def test_the_published_size():
    """DiT-XL/2 of 675 M parameters (Peebles & Xie 2023, table 1), with cross-attention on the text added to it."""
    with torch.device("meta"):
        network = DiT(DiTConfig())
    own = sum(
        p.numel() for name, p in network.named_parameters() if "attention_2" not in name and "adaln_2" not in name
    )
    assert 660e6 < own < 690e6


# The model around it


def test_the_word_picks_the_denoiser():
    assert isinstance(build_denoiser(MODELS["tiny"]), DENOISERS["unet"])
    with torch.device("meta"):
        for name, preset in MODELS.items():
            config = override(preset, "denoiser=dit")
            network = build_denoiser(config)
            assert isinstance(network, DiT), name
            shape, unet = config.denoiser_config, config.unet
            assert (shape.in_channels, shape.out_channels) == (unet.in_channels, unet.out_channels), name
            assert shape.text_width == config.text.width, name
    with pytest.raises(ValueError, match="denoiser = 'mlp': expected one of unet, dit"):
        build_denoiser(override(MODELS["tiny"], "denoiser=mlp"))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_edits_with_it(sampler):
    image = Image.new("RGB", (32, 24), (200, 30, 60))
    z = pipeline(8).edit(image, "a blue house", steps=3, sampler=sampler, output="latent")
    assert z.shape == (4, 6, 8) and z.isfinite().all()


def test_a_pair_shares_its_attention(text2image):
    options = {"steps": 4, "seed": 7, "size": (32, 24), "output": "latent"}
    alone = text2image.generate(RED, **options)
    for share, control in ((1.0, []), (0, [Share(0.5)]), (0, [Replace()]), (0, [Refine(), Reweight({"blue": 3.0})])):
        source, edited = text2image.generate_pair(RED, BLUE, share=share, control=control, **options)
        plain = text2image.generate_pair(RED, BLUE, share=0, **options)[1]
        assert difference(source, alone) < ROUNDING, "the source is as if alone"
        assert difference(edited, plain) > 1e-3, "the edited image follows it"


def test_local_blend_masks_by_its_maps(text2image):
    options = {"share": 0, "steps": 5, "seed": 7, "size": (64, 48), "output": "latent"}
    control = [LocalBlend(("red", "blue"), threshold=0.6)]
    source, edited = text2image.generate_pair(RED, BLUE, control=control, **options)
    plain = text2image.generate_pair(RED, BLUE, **options)[1]
    outside = (source - edited).abs().amax(0) < 1e-6
    assert 0 < outside.float().mean() < 1 and difference(edited, plain) > 1e-3


def test_a_record_has_maps_of_its_patches(text2image):
    record = Record()
    text2image.generate(RED, steps=2, size=(32, 24), control=[record], output="latent")
    ((size, maps),) = record.maps().items()
    assert size == (3, 4) and maps.shape == (1, 16, 3, 4)
    assert torch.allclose(maps.sum(1), torch.ones(1, 3, 4), atol=1e-5)


def test_an_image_is_inverted(text2image):
    image = Image.new("RGB", (32, 24), (200, 30, 60))
    inversion = text2image.invert(image, RED, steps=2, method="null_text")
    assert inversion.nulls.shape == (2, 16, 32) and inversion.z.isfinite().all()


def test_its_attention_is_drawn(text2image, tmp_path, capsys):
    minip2p.save(text2image, tmp_path / "dit.safetensors")
    words = ["attention", "--weights", str(tmp_path / "dit.safetensors"), "--prompt", RED, "--steps", "2"]
    assert main([*words, "--words", "red", "--output", str(tmp_path / "figure.png")]) == 0, capsys.readouterr()
    assert Image.open(tmp_path / "figure.png").width > 100


# Checkpoints


def test_our_own_file_holds_it_and_other_layouts_refuse_it(text2image, tmp_path):
    minip2p.save(text2image, tmp_path / "dit.safetensors")
    again = minip2p.load(tmp_path / "dit.safetensors")
    assert again.config == text2image.config and list(again.parts) == ["dit", "vae", "text"]
    options = {"steps": 2, "size": (32, 24), "output": "latent"}
    assert difference(again.generate(RED, **options), text2image.generate(RED, **options)) < ROUNDING
    for layout in ("original", "diffusers"):
        with pytest.raises(ValueError, match=f"denoiser 'dit' cannot be written as '{layout}'"):
            minip2p.save(text2image, tmp_path / "other", layout)


def test_a_file_of_another_denoiser_is_refused(text2image, tmp_path):
    minip2p.save(text2image, tmp_path / "dit.safetensors")
    with pytest.raises(ValueError, match="lacks the unet weights"):
        minip2p.load(tmp_path / "dit.safetensors", config=["denoiser=unet"])


def test_a_widened_one_predicts_the_same_whatever_the_new_inputs_are(text2image):
    narrow, wide = text2image.unet, DiT(replace(SMALL, in_channels=8)).eval()
    wide.load_state_dict(checkpoints.widen(narrow.state_dict(), 8))
    z, text = torch.randn(1, 8, 6, 8), torch.randn(1, 5, 32)
    with torch.inference_mode():
        torch.testing.assert_close(wide(z, 7.0, text), narrow(z[:, :4], 7.0, text))


# Training on the tiny world

THIN_DIT = ("model.denoiser=dit", "model.dit.width=32", "model.dit.depth=2", "model.dit.heads=2")
THIN_FLOW = (
    "model.unet.widths=(16, 16, 16)",
    "model.schedule.kind=flow",
    "model.schedule.prediction=flow",
    "times=logit_normal",
)


def train(words: tuple[str, ...], out: Path, init_from: list[Path]) -> list[float]:
    """30 steps of an editor, whose losses are returned, an average of 10 steps each."""
    from minip2p.tinyworld.training.stages import STAGES
    from minip2p.training.stages import start

    few = ("steps=30", "batch_size=16", "warmup=0", "log_every=10", "save_every=30", "preview_every=1000")
    config = override(
        STAGES["editor"].presets["tiny"],
        *(f"train.{word}" for word in (*few, "learning_rate=3e-3", "ema=0.9")),
        *("model.text.layers=1", "size=64", "sources=12", "edits=2", "held_out=4"),
        *words,
    )
    logs = start(STAGES["editor"], config, out, init_from=init_from)
    return [log.figures["loss"] for log in logs if "loss" in log.figures]


@pytest.fixture(scope="module")
def vae_file(tmp_path_factory):
    """A thin autoencoder of random weights."""
    from minip2p.training.checkpoint_parts import write_parts

    torch.manual_seed(0)
    config = replace(MODELS["tiny"].vae, widths=(8, 8, 8, 8))
    path = tmp_path_factory.mktemp("vae") / "vae.safetensors"
    write_parts(path, Config(vae=config), {"vae": AutoencoderKL(config)}, None, TrainConfig())
    return path


@pytest.mark.slow
@pytest.mark.parametrize("words", [THIN_DIT, THIN_FLOW, (*THIN_DIT, *THIN_FLOW)], ids=["dit", "flow", "both"])
def test_it_learns_is_saved_and_edits(words, tmp_path, vae_file):
    losses = train(words, tmp_path, [vae_file])
    assert losses[-1] < 0.9 * losses[0], losses
    pipe = minip2p.load(tmp_path / "model.safetensors")
    assert pipe.config.denoiser == ("dit" if words[0] == THIN_DIT[0] else "unet")
    assert pipe.config.schedule.prediction == ("flow" if "times=logit_normal" in words else "v")
    image = Image.new("RGB", (64, 64), (90, 120, 200))
    z = pipe.edit(image, "make it night", steps=3, output="latent")
    minip2p.save(pipe, tmp_path / "again.safetensors")
    again = minip2p.load(tmp_path / "again.safetensors")
    assert torch.equal(again.edit(image, "make it night", steps=3, output="latent"), z) and z.isfinite().all()


def test_an_editor_starts_from_a_text_to_image_transformer(text2image, tmp_path):
    """Its weights, its config, and new inputs of weight zero: the first prediction is the text-to-image model's."""
    from minip2p.tinyworld.training.presets import EDITOR
    from minip2p.training.build import build_pipeline, resolve_config

    minip2p.save(text2image, tmp_path / "dit.safetensors")
    config = resolve_config(EDITOR, [tmp_path / "dit.safetensors"], edits=True)
    editor = build_pipeline(config, [tmp_path / "dit.safetensors"])
    assert editor.config.denoiser == "dit" and editor.config.denoiser_config.in_channels == 8
    z, text = torch.randn(1, 8, 6, 8), torch.randn(1, 5, 32)
    with torch.inference_mode():
        torch.testing.assert_close(editor.unet(z, 7.0, text), text2image.unet(z[:, :4], 7.0, text))
