"""Checkpoints: read strictly, written in any layout and back bit for bit."""

import json
import os
import time
from dataclasses import replace

import pytest
import torch
from conftest import randomise, small_config

from minip2p import checkpoints, files
from minip2p.checkpoints import infer
from minip2p.checkpoints.clip import sd2_text_of, text_of, vision_of
from minip2p.checkpoints.files import open_weights, write_safetensors
from minip2p.checkpoints.folders import weights_file
from minip2p.checkpoints.tables import ema_name, links, push, text_rows, unet_rows, vae_rows, vision_rows
from minip2p.config import CLIPConfig, Config, TextConfig, UNetConfig, VAEConfig, override
from minip2p.loading import shipped
from minip2p.models.clip import CLIP
from minip2p.models.text_encoder import TextEncoder
from minip2p.models.unet import UNet
from minip2p.models.vae import AutoencoderKL
from minip2p.text.bpe import BPE
from minip2p.text.learn import learn_bpe
from minip2p.text.pieces import Pieces
from minip2p.tinyworld.classifier import ClassifierConfig

NETWORKS = {"unet": UNet, "vae": AutoencoderKL, "text": TextEncoder}
BPE_SMALL = learn_bpe(["make it night", "add a tree"], vocab_size=400, max_length=16)


def config_of(in_channels=8):
    ids = {"bos": BPE_SMALL.bos, "eos": BPE_SMALL.eos, "pad": BPE_SMALL.pad, "vocab_size": len(BPE_SMALL.vocab)}
    c = small_config(in_channels)
    return replace(c, text=replace(c.text, **ids))


def weights_of(config, dtype=torch.float32, seed=0):
    networks = {part: randomise(make(getattr(config, part)), seed) for part, make in NETWORKS.items()}
    return {part: {n: t.to(dtype) for n, t in net.state_dict().items()} for part, net in networks.items()}


@pytest.fixture(scope="module")
def weights():
    return weights_of(config_of())


def save(path, layout, parts, config=None, **more):
    more = {"tokenizer": BPE_SMALL, "provenance": {"from": "a test"}} | more
    checkpoints.write(path, layout, config or config_of(), parts, **more)
    return path


def same(parts, others):
    return parts.keys() == others.keys() and all(
        parts[p].keys() == others[p].keys()
        and all(t.dtype == others[p][n].dtype and torch.equal(t, others[p][n]) for n, t in parts[p].items())
        for p in parts
    )


# Layouts


FILES = [("minip2p", "m.safetensors"), ("original", "o.safetensors"), ("original", "o.ckpt"), ("diffusers", "folder")]


@pytest.mark.parametrize(
    "first, dtype",
    [*((file, torch.float32) for file in FILES), (FILES[2], torch.float16), (FILES[3], torch.bfloat16)],
    ids=str,
)
def test_any_layout_to_any_other_and_back(first, dtype, tmp_path):
    """Bit for bit, with config, tokenizer and provenance."""
    config, parts = config_of(), weights_of(config_of(), dtype)
    loaded = checkpoints.read(save(tmp_path / first[1], first[0], parts))
    for layout, name in FILES:
        path = save(tmp_path / "second" / name, layout, loaded.parts, loaded.config)
        back = checkpoints.read(path)
        assert back.layout == layout and same(back.parts, parts) and back.config == config and not back.notes
        assert back.provenance == {"from": "a test"}
        tokenizer = back.tokenizer
        assert (BPE.from_dict(tokenizer) if isinstance(tokenizer, dict) else BPE.from_folder(tokenizer)) == BPE_SMALL


def test_dtype_on_writing_changes_floats_only(weights, tmp_path):
    parts = {"vae": weights["vae"] | {"quant.bias": torch.arange(8)}}
    checkpoints.write(tmp_path / "a", "minip2p", config_of(), parts, dtype=torch.float16)
    read = checkpoints.read(tmp_path / "a").parts["vae"]
    assert read.pop("quant.bias").dtype == torch.int64
    assert all(torch.equal(t, weights["vae"][n].half()) for n, t in read.items())


def test_a_part_alone(weights, tmp_path):
    for layout, name in FILES:
        path = save(tmp_path / name, layout, {"vae": weights["vae"]}, tokenizer=None)
        assert same(checkpoints.read(path).parts, {"vae": weights["vae"]})


def test_an_autoencoders_own_file(weights, tmp_path):
    """Original names without a prefix, and the discriminator that trained it."""
    config = replace(config_of(), vae=VAEConfig(widths=(32, 64), blocks=1))
    vae = weights_of(config)["vae"]
    tensors = push(vae, links(vae_rows(config.vae), 1)) | {"loss.discriminator.main.0.weight": torch.zeros(2)}
    write_safetensors(tmp_path / "vae.safetensors", tensors, {})
    loaded = checkpoints.read(tmp_path / "vae.safetensors")
    assert same(loaded.parts, {"vae": vae}) and loaded.config.vae == config.vae


def test_old_names_of_the_autoencoders_attention(weights, tmp_path):
    folder = save(tmp_path / "d", "diffusers", weights)
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = open_weights(file).tensors
    for new, name in old.items():
        tensors = {n.replace(f"attentions.0.{new}.", f"attentions.0.{name}."): t for n, t in tensors.items()}
    assert any("proj_attn" in name for name in tensors)
    write_safetensors(file, tensors, {})
    assert same(checkpoints.read(folder).parts, weights)


def test_unused_layers_of_the_text_tower_are_not_written_elsewhere(tmp_path):
    config = override(config_of(), "text.layers=3", "text.skip_last=1", "text.activation=gelu")
    parts = weights_of(config)
    used = {n: t for n, t in parts["text"].items() if not n.startswith("layers.2.")}
    for layout, name in FILES[1:]:
        back = checkpoints.read(save(tmp_path / name, layout, parts, config))
        if layout == "diffusers":
            assert (back.config.text.layers, back.config.text.skip_last) == (2, 0)
        assert same({"text": used}, {"text": back.parts["text"]})
        both = checkpoints.read(
            save(tmp_path / f"both {name}", layout, parts, config, ema_parts={"text": parts["text"]})
        )
        assert same({"text": used}, {"text": both.parts["text"]})
        tower = TextEncoder(back.config.text)
        checkpoints.assign(tower, back.parts["text"], source=name)
        full = TextEncoder(config.text)
        full.load_state_dict(parts["text"])
        tokens = torch.randint(0, 300, (2, 16))
        assert torch.allclose(tower(tokens), full(tokens), atol=1e-6)


@pytest.mark.parametrize("layout", ["original", "diffusers"])
@pytest.mark.parametrize(
    "word",
    [
        "unet.norm=rms",
        "unet.feed_forward=swiglu",
        "unet.attention=('cross', 'none')",
        "unet.mid_attention=self",
        "vae.norm=layer",
        "text.projection=32",
    ],
)
def test_a_config_that_a_layout_cannot_describe_is_an_error(layout, word, tmp_path):
    config = override(config_of(), word)
    parts = weights_of(config)
    with pytest.raises(ValueError, match=word.partition("=")[0]) as error:
        save(tmp_path / "x", layout, parts, config)
    assert "\n" not in str(error.value) and not (tmp_path / "x").exists()
    assert same(checkpoints.read(save(tmp_path / "own", "minip2p", parts, config)).parts, parts)


def test_a_noise_schedule_of_another_name(weights, tmp_path):
    """diffusers has three; an original file of ours names any in its header."""
    config = override(config_of(), "schedule.kind=wavy")
    with pytest.raises(ValueError, match="schedule.kind = 'wavy' cannot be written as 'diffusers'"):
        save(tmp_path / "folder", "diffusers", weights, config)
    assert checkpoints.read(save(tmp_path / "a.ckpt", "original", weights, config)).config == config


def test_clip_in_one_file(tmp_path):
    config = CLIPConfig(
        text=replace(config_of().text, projection=24),
        vision=replace(CLIPConfig().vision, image_size=28, width=32, layers=1, heads=2, feed_forward=64, projection=24),
    )
    clip = randomise(CLIP(config))
    parts = {part: getattr(clip, part).state_dict() for part in ("text", "vision")} | {"logit_scale": clip.logit_scale}
    checkpoints.write(tmp_path / "clip", "minip2p", config, parts)
    loaded = checkpoints.read(tmp_path / "clip")
    assert loaded.config == config and loaded.joined().keys() == clip.state_dict().keys()
    with torch.device("meta"):
        again = CLIP(config)
    checkpoints.assign(again, loaded.joined(), source="clip")
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in clip.state_dict().items())


def test_models_share_an_autoencoder_beside_them(weights, tmp_path):
    """Read it is the same model; what is beside it is checked, and must be there."""
    whole, part = save(tmp_path / "whole", "minip2p", weights), tmp_path / "part.safetensors"
    save(tmp_path / "vae.safetensors", "minip2p", {"vae": weights["vae"]})
    checkpoints.share(whole, part, {"vae": "vae.safetensors"})
    assert not any(name.startswith("vae.") for name in open_weights(part).tensors)
    one, other = checkpoints.read(whole), checkpoints.read(part)
    assert same(one.parts, other.parts) and other.shared == {"vae": "vae.safetensors"} and not one.shared
    assert (one.config, one.tokenizer, one.provenance) == (other.config, other.tokenizer, other.provenance)
    save(tmp_path / "again", "minip2p", other.parts, other.config)
    (tmp_path / "vae.safetensors").unlink()
    with pytest.raises(checkpoints.CheckpointError, match="vae weights are in vae.safetensors beside it.*missing"):
        checkpoints.read(part)
    assert same(checkpoints.read(tmp_path / "again").parts, one.parts), "written again it is whole"
    save(tmp_path / "vae.safetensors", "minip2p", {"unet": weights["unet"]})
    with pytest.raises(checkpoints.CheckpointError, match="has no vae weights; part.safetensors"):
        checkpoints.read(part)


def test_only_what_is_equal_and_beside_it_is_shared(weights, tmp_path):
    whole = save(tmp_path / "whole", "minip2p", weights)
    save(tmp_path / "vae.safetensors", "minip2p", {"vae": weights_of(config_of(), seed=1)["vae"]})
    with pytest.raises(checkpoints.CheckpointError, match=r"its vae\..* is not that of"):
        checkpoints.share(whole, tmp_path / "part", {"vae": "vae.safetensors"})
    with pytest.raises(checkpoints.CheckpointError, match="minip2p's own layout"):
        checkpoints.share(save(tmp_path / "o.ckpt", "original", weights), tmp_path / "part", {"vae": "vae.safetensors"})
    assert not (tmp_path / "part").exists()
    file = open_weights(whole)
    for name in ("../vae.safetensors", "/vae.safetensors", "..", "", "a/"):
        write_safetensors(tmp_path / "bad", file.tensors, file.metadata | {"shared": json.dumps({"vae": name})})
        with pytest.raises(checkpoints.CheckpointError, match="outside its folder"):
            checkpoints.read(tmp_path / "bad")
    for shared in (3, {"vae": 3}, ["vae"]):
        write_safetensors(tmp_path / "bad", file.tensors, file.metadata | {"shared": json.dumps(shared)})
        with pytest.raises(checkpoints.CheckpointError, match="header does not fit"):
            checkpoints.read(tmp_path / "bad")


@pytest.mark.parametrize(
    "name, old, new", [("classifier", "reader", "classifier"), ("instructions", "writer", "language_model")]
)
def test_files_of_version_0_1_have_other_names(name, old, new, tmp_path, monkeypatch):
    """The shipped files were written by it; read and written again, they have today's names and the same tensors."""
    monkeypatch.setitem(checkpoints.KINDS, "classifier", ClassifierConfig)
    file = open_weights(shipped(name))
    parts = {n.removeprefix("ema.").partition(".")[0] for n in file.tensors}
    if file.metadata["kind"] == old:  # until they are trained again
        assert parts == {old}
    loaded = checkpoints.read(shipped(name))
    assert loaded.parts.keys() == {new}
    tokenizer = loaded.tokenizer and Pieces.from_dict(loaded.tokenizer)
    checkpoints.write(tmp_path / "new", "minip2p", loaded.config, loaded.parts, tokenizer=tokenizer)
    assert open_weights(tmp_path / "new").metadata["kind"] == new
    assert {n.partition(".")[0] for n in open_weights(tmp_path / "new").tensors} == {new}
    again = checkpoints.read(tmp_path / "new")
    assert same(again.parts, loaded.parts) and (again.config, again.tokenizer) == (loaded.config, loaded.tokenizer)
    former = file.metadata | {"kind": old}  # and as version 0.1 wrote it
    tensors = {f"{old}.{n}": t for n, t in loaded.parts[new].items()}
    write_safetensors(tmp_path / "old", tensors, former)
    assert same(checkpoints.read(tmp_path / "old").parts, loaded.parts)


def test_a_kind_that_nobody_added(weights, tmp_path, monkeypatch):
    monkeypatch.setitem(checkpoints.KINDS, "else", VAEConfig)
    checkpoints.write(tmp_path / "a", "minip2p", VAEConfig(), {"vae": weights["vae"]})
    assert checkpoints.read(tmp_path / "a").config == VAEConfig()
    monkeypatch.delitem(checkpoints.KINDS, "else")
    with pytest.raises(ValueError, match="holds a 'else'; expected one of model, clip, "):
        checkpoints.read(tmp_path / "a")


def test_averaged_weights(weights, tmp_path):
    """They are taken unless ema=False; here only the UNet has them."""
    average = {"unet": {n: t + 1 for n, t in weights["unet"].items()}}
    for layout, name in FILES:
        path = save(tmp_path / name, layout, weights, ema_parts=average)
        assert same(checkpoints.read(path).parts, weights | average)
        assert same(checkpoints.read(path, ema=False).parts, weights)
    tensors = open_weights(tmp_path / "o.safetensors").tensors
    assert "model_ema.diffusion_modelinput_blocks00weight" in tensors
    bookkeeping = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(3)}
    write_safetensors(tmp_path / "lit.safetensors", tensors | bookkeeping, {})
    given = checkpoints.read(tmp_path / "lit.safetensors", config=config_of())
    assert same(given.parts, weights | average)
    del tensors[ema_name("model.diffusion_model.out.2.bias")]
    write_safetensors(tmp_path / "part.safetensors", tensors, {})
    with pytest.raises(ValueError, match="EMA.* lack 1 tensors, e.g. model.diffusion_model.out.2.bias"):
        checkpoints.read(tmp_path / "part.safetensors", config=config_of())
    assert same(checkpoints.read(tmp_path / "part.safetensors", config=config_of(), ema=False).parts, weights)


@pytest.mark.parametrize("name", ["a.safetensors", "a.ckpt"])
def test_an_original_file_has_averages_equal_to_the_unets_weights(name, weights, tmp_path):
    """The authors' code runs the averages: each weight of the UNet has one, under the name that LitEma gives it."""
    tensors = open_weights(save(tmp_path / name, "original", weights)).tensors
    unet = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.diffusion_model.")}
    averages = {n.removeprefix("model_ema."): t for n, t in tensors.items() if n.startswith("model_ema.")}
    assert averages.pop("decay").dtype == torch.float32 and averages.pop("num_updates").dtype == torch.int32
    assert averages.keys() == {n.replace(".", "") for n in unet}
    assert all(torch.equal(averages[n.replace(".", "")], t) for n, t in unet.items())
    for ema in (True, False):
        assert same(checkpoints.read(tmp_path / name, ema=ema).parts, weights)
    half = open_weights(save(tmp_path / f"half-{name}", "original", weights, dtype=torch.float16)).tensors
    assert (
        half["model_ema.decay"] == torch.tensor(0.9999)
        and half[ema_name("model.diffusion_model.out.2.bias")].dtype == torch.float16
    )
    save(tmp_path / f"without-{name}", "original", weights, ema_parts={})
    assert not any(n.startswith("model_ema") for n in open_weights(tmp_path / f"without-{name}").tensors)
    growth = (tmp_path / name).stat().st_size - (tmp_path / f"without-{name}").stat().st_size
    size = sum(t.nbytes for t in unet.values())
    assert size < growth < 1.2 * size if name == "a.safetensors" else growth < 0.1 * size


def test_a_ckpt_has_the_same_bytes_each_time(weights, tmp_path):
    for name in ("a.ckpt", "b.ckpt", "folder/a.ckpt"):
        save(tmp_path / name, "original", weights)
        assert (tmp_path / name).read_bytes() == (tmp_path / "a.ckpt").read_bytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_that_are_not_finite_are_neither_read_nor_written(value, dtype, tmp_path):
    broken = torch.zeros(3, 5, dtype=dtype)
    broken[1, 2] = value
    with torch.device("meta"):
        network = torch.nn.Linear(5, 3, bias=False)
    with pytest.raises(checkpoints.CheckpointError, match=r"^a.ckpt: theirs.weight holds NaN or infinity.*bfloat16"):
        checkpoints.assign(network, {"weight": broken}, source="a.ckpt", names={"weight": "theirs.weight"})
    for layout, name in FILES:
        with pytest.raises(checkpoints.CheckpointError, match=f"{name}.* holds NaN or infinity.*bfloat16 or float32"):
            save(tmp_path / name, layout, {"vae": {"quant.bias": broken}})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("layout, name", FILES)
def test_weights_too_large_for_float16(layout, name, tmp_path):
    """1e6 is infinite there; bfloat16 has the range of float32."""
    parts = {"vae": {"quant.bias": torch.tensor([0.5, -1e6])}}
    with pytest.raises(checkpoints.CheckpointError, match="holds 1e.06, too large for float16; use bfloat16 or float"):
        save(tmp_path / name, layout, parts, dtype=torch.float16)
    assert not list(tmp_path.iterdir())
    path = save(tmp_path / name, layout, parts, dtype=torch.bfloat16)
    path = path / "vae" / "diffusion_pytorch_model.safetensors" if path.is_dir() else path
    (back,) = (t for n, t in open_weights(path).tensors.items() if n.endswith("quant_conv.bias") or "quant.bias" in n)
    assert back.tolist() == [0.5, -999424]
    linear = torch.nn.Linear(1, 2, device="meta")
    tensors = {"weight": torch.zeros(2, 1), "bias": parts["vae"]["quant.bias"]}
    with pytest.raises(checkpoints.CheckpointError, match="a: bias holds 1e.06, too large for float16"):
        checkpoints.assign(linear, tensors, dtype=torch.float16, source="a")


def test_a_killed_write_leaves_nothing_behind_for_ever(weights, tmp_path):
    """The next run of the same command removes what the killed one wrote, and nothing of others."""
    for layout, name in FILES:
        (tmp_path / f".{name}.abc123.part").mkdir()
        (tmp_path / f".{name}.abc123.part" / "half").touch()
        (tmp_path / f".other-{name}.x.part").touch()
        save(tmp_path / name, layout, weights)
    assert {each.name for each in tmp_path.iterdir()} == {
        n for _, name in FILES for n in (name, f".other-{name}.x.part")
    }


# Architectures from shapes


def on_meta(module, config):
    with torch.device("meta"):
        return dict(module(config).state_dict())


SD2 = UNetConfig(heads=None, head_size=64, linear_projection=True, text_width=1024)


@pytest.mark.parametrize(
    "config",
    [
        UNetConfig(),
        UNetConfig(in_channels=8),
        SD2,
        UNetConfig(widths=(64, 128), attention=("none", "full"), blocks=3, depth=2),
        UNetConfig(time_injection="scale_shift", out_channels=8),
    ],
)
def test_unet_from_shapes(config):
    assert infer.unet(push(on_meta(UNet, config), links(unet_rows(config), 1))) == config


@pytest.mark.parametrize("config", [VAEConfig(), VAEConfig(widths=(32, 64, 64), blocks=1, latent_channels=8)])
def test_vae_from_shapes(config):
    assert infer.vae(push(on_meta(AutoencoderKL, config), links(vae_rows(config), 1))) == config


@pytest.mark.parametrize("openai", [True, False])
def test_clip_from_shapes(openai):
    """The default config is ViT-L/14's; names tell Stable Diffusion 2's tower from OpenAI's."""
    config, column = CLIPConfig(), 1 if openai else 2
    tensors = push(on_meta(TextEncoder, config.text), links(text_rows(config.text), column))
    tensors |= push(
        {n.removeprefix("vision."): t for n, t in on_meta(CLIP, config).items() if n.startswith("vision.")},
        links(vision_rows(config.vision), column),
    )
    assert CLIPConfig(text=text_of(tensors, column), vision=vision_of(tensors, column)) == config
    sd2 = TextConfig(width=1024, heads=16, layers=23, feed_forward=4096, activation="gelu", pad=0)
    tower = push(on_meta(TextEncoder, sd2), links(text_rows(sd2), 1))
    assert sd2_text_of(tower) == sd2


PUBLISHED = {
    "unet/config.json": {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.6.0",
        "act_fn": "silu",
        "attention_head_dim": 8,
        "block_out_channels": [320, 640, 1280, 1280],
        "center_input_sample": False,
        "cross_attention_dim": 768,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "out_channels": 4,
        "sample_size": 64,
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    },
    "vae/config.json": {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": "0.6.0",
        "act_fn": "silu",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": 512,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    },
    "text_encoder/config.json": {
        "_name_or_path": "openai/clip-vit-large-patch14",
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "hidden_act": "quick_gelu",
        "hidden_size": 768,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "pad_token_id": 1,
        "projection_dim": 768,
        "torch_dtype": "float32",
        "vocab_size": 49408,
    },
    "scheduler/scheduler_config.json": {
        "_class_name": "PNDMScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
        "clip_sample": False,
    },
}
"""Stable Diffusion 1.5's"""
EDITOR = {
    "unet/config.json": {
        "in_channels": 8,
        "class_embed_type": None,
        "conv_in_kernel": 3,
        "conv_out_kernel": 3,
        "dual_cross_attention": False,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "num_class_embeds": None,
        "only_cross_attention": False,
        "projection_class_embeddings_input_dim": None,
        "resnet_time_scale_shift": "default",
        "time_cond_proj_dim": None,
        "time_embedding_type": "positional",
        "timestep_post_act": None,
        "upcast_attention": False,
        "use_linear_projection": False,
    }
}
"""InstructPix2Pix's differences"""
SECOND = {
    "unet/config.json": {
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
        "sample_size": 96,
    },
    "text_encoder/config.json": {
        "hidden_act": "gelu",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 23,
    },
    "scheduler/scheduler_config.json": {"prediction_type": "v_prediction"},
}
"""Stable Diffusion 2.1's differences"""


@pytest.mark.parametrize(
    "differences, words",
    [
        ({}, []),
        (EDITOR, ["unet.in_channels=8"]),
        (
            SECOND,
            [
                "unet.heads=None",
                "unet.head_size=64",
                "unet.text_width=1024",
                "unet.linear_projection=True",
                "text.width=1024",
                "text.heads=16",
                "text.layers=23",
                "text.feed_forward=4096",
                "text.activation=gelu",
                "schedule.prediction=v",
                "sampling.resolution=768",
            ],
        ),
    ],
    ids=["1.5", "InstructPix2Pix", "2.1"],
)
def test_published_configs(differences, words, tmp_path):
    """Read, written and read again they give the same config."""
    from minip2p.checkpoints import clip, configs, folders

    def read(folder):
        return folders._config(
            folder, {"unet": folder / "unet", "vae": folder / "vae", "text": folder / "text_encoder"}
        )

    for name, values in PUBLISHED.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(json.dumps(values | differences.get(name, {})))
    config = read(tmp_path)
    assert config == override(Config(), *words)
    for name, values in (
        ("unet", configs.unet_json(config.unet, config.sampling.resolution // 8)),
        ("vae", configs.vae_json(config.vae, 512)),
        ("text_encoder", clip.text_json(config.text)),
    ):
        (tmp_path / name / "config.json").write_text(json.dumps(values))
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(configs.schedule_json(config)))
    assert read(tmp_path) == config


def test_config_replaces_the_guess(weights, tmp_path):
    """Shapes do not show the number of groups in the norms: the guess is Stable Diffusion's 32."""
    path = save(tmp_path / "a.safetensors", "original", weights)
    write_safetensors(tmp_path / "b.safetensors", open_weights(path).tensors, {})
    assert checkpoints.read(tmp_path / "b.safetensors").config.unet.norm_groups == 32
    assert checkpoints.read(tmp_path / "b.safetensors", config=config_of()).config == config_of()
    assert checkpoints.read(path).config == config_of()


@pytest.mark.parametrize(
    "word", ["text.layers=1000", "vae.blocks=1000", "unet.blocks=100", "unet.depth=200", "unet.blocks=60"]
)
def test_more_layers_than_the_file_has_tensors_for(word, weights, tmp_path):
    """Refused before a network is built, which would take half a minute."""
    for layout, name in FILES[:3]:
        path = save(tmp_path / name, layout, weights, config_of())
        start = time.process_time()
        with pytest.raises(checkpoints.CheckpointError, match="layers in the .*, too many for .* tensors|unknown"):
            checkpoints.read(path, config=override(config_of(), word))
        assert time.process_time() - start < 2


# Strictness


def test_assign_names_both_sides(weights, tmp_path):
    loaded = checkpoints.read(save(tmp_path / "a.ckpt", "original", weights))
    with torch.device("meta"):
        unet = UNet(loaded.config.unet)
    tensors = loaded.parts["unet"] | {"conv_out.bias": torch.zeros(7), "extra": torch.zeros(1)}
    del tensors["conv_in.weight"]
    with pytest.raises(checkpoints.CheckpointError) as error:
        checkpoints.assign(unet, tensors, source=loaded.path, names=loaded.names["unet"])
    message = str(error.value)
    assert "\n" not in message and str(tmp_path / "a.ckpt") in message
    assert "1 missing: conv_in.weight (in the file model.diffusion_model.input_blocks.0.0.weight)" in message
    assert "1 unknown to the network: extra" in message and "(7,), in the network (4,)" in message
    assert unet.conv_out.bias.is_meta


@pytest.mark.parametrize("name", ["model.diffusion_model.extra.weight", "model_ema.nothing", "xyz"])
def test_an_unknown_tensor_is_an_error(weights, tmp_path, name):
    path = save(tmp_path / "a.safetensors", "original", weights)
    opened = open_weights(path)
    write_safetensors(path, opened.tensors | {name: torch.zeros(1)}, opened.metadata)
    with pytest.raises(checkpoints.CheckpointError, match=f"a.safetensors: 1 tensors are unknown .*{name}"):
        checkpoints.read(path)


@pytest.mark.parametrize(
    "part, key, value",
    [
        ("unet", "act_fn", "gelu"),
        ("unet", "class_embed_type", "timestep"),
        ("unet", "addition_embed_type", "text_time"),
        ("unet", "down_block_types", ["AttnDownBlock2D", "DownBlock2D"]),
        ("unet", "layers_per_block", [1, 2]),
        ("vae", "latents_mean", [0.1]),
        ("vae", "mid_block_add_attention", False),
        ("unet", "mid_block_type", None),
        ("text_encoder", "hidden_act", "relu"),
        ("scheduler", "prediction_type", "flow"),
        ("scheduler", "trained_betas", [0.1, 0.2]),
    ],
)
def test_an_unsupported_value_in_a_config_is_an_error(weights, tmp_path, part, key, value):
    folder = save(tmp_path / "d", "diffusers", weights)
    file = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(checkpoints.CheckpointError, match=f"{file.name}: {key}"):
        checkpoints.read(folder)


def test_zero_terminal_snr_of_a_folder(weights, tmp_path):
    """Taken from the scheduler's config and written there; refused where its rescaling would have another meaning."""
    config = override(config_of(), "schedule.kind=zero_snr", "schedule.prediction=v")
    folder = save(tmp_path / "d", "diffusers", weights, config)
    file = folder / "scheduler" / "scheduler_config.json"
    values = json.loads(file.read_text())
    assert values["rescale_betas_zero_snr"] and values["beta_schedule"] == "scaled_linear"
    assert checkpoints.read(folder).config == config
    for key, value in (("beta_schedule", "linear"), ("prediction_type", "epsilon"), ("rescale_betas_zero_snr", "yes")):
        file.write_text(json.dumps(values | {key: value}))
        with pytest.raises(checkpoints.CheckpointError, match=f"{file}: .*(rescale_betas_zero_snr|prediction = 'eps')"):
            checkpoints.read(folder)


def test_without_averages_the_plain_weights_of_full_precision_are_taken(weights, tmp_path):
    folder = save(tmp_path / "d", "diffusers", weights) / "vae"
    plain = folder / "diffusion_pytorch_model.safetensors"
    for word in ("fp16", "bf16", "ema", "non_ema"):
        (folder / f"diffusion_pytorch_model.{word}.safetensors").write_bytes(plain.read_bytes())
    names = {each.name for each in folder.iterdir()}
    for ema, order in ((True, ["ema", "", "fp16", "bf16", "non_ema"]), (False, ["non_ema", "", "fp16", "bf16", "ema"])):
        left = set(names)
        for word in order:
            found = weights_file(left, ema)
            assert found == f"diffusion_pytorch_model{'.' * bool(word)}{word}.safetensors"
            left.remove(found)
        assert weights_file(left, ema) is None


@pytest.mark.parametrize("gone", ["unet", "unet/config.json", "text_encoder/model.safetensors"])
def test_an_incomplete_folder(weights, tmp_path, gone):
    folder = save(tmp_path / "d", "diffusers", weights)
    (folder / gone).rename(tmp_path / "away")
    with pytest.raises(checkpoints.CheckpointError, match=gone.partition("/")[0]):
        checkpoints.read(folder)


# Writing


@pytest.mark.parametrize("layout, name", FILES)
def test_a_write_that_fails_leaves_the_old_file(layout, name, weights, tmp_path, monkeypatch):
    path = save(tmp_path / name, layout, weights)

    def fail(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    with pytest.raises(OSError, match="no space"):
        save(path, layout, {part: {n: t + 1 for n, t in ts.items()} for part, ts in weights.items()})
    assert same(checkpoints.read(path).parts, weights) and [file.name for file in tmp_path.iterdir()] == [name]


def test_a_mapped_checkpoint_can_be_replaced(weights, tmp_path):
    for layout, name in FILES:
        path = save(tmp_path / name, layout, weights)
        loaded = checkpoints.read(path)
        save(path, layout, {part: {n: t + 1 for n, t in ts.items()} for part, ts in loaded.parts.items()})
        assert same(loaded.parts, weights)
        assert torch.equal(checkpoints.read(path).parts["unet"]["conv_in.bias"], weights["unet"]["conv_in.bias"] + 1)


def test_only_a_diffusers_folder_is_replaced(weights, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(checkpoints.CheckpointError, match="not a diffusers folder"):
        save(tmp_path / "photos", "diffusers", weights)


def test_our_safetensors_are_read_by_the_library(weights, tmp_path):
    from safetensors.torch import load_file

    theirs = load_file(save(tmp_path / "a", "minip2p", weights))
    assert len(theirs) == sum(map(len, weights.values()))
    assert all(torch.equal(theirs[f"{part}.{n}"], t) for part, ts in weights.items() for n, t in ts.items())


# Widening


@torch.inference_mode()
def test_widening_keeps_the_output_for_any_image_latent(weights):
    config = config_of(4)
    old = randomise(UNet(config.unet))
    with torch.device("meta"):
        new = UNet(replace(config.unet, in_channels=8))
    checkpoints.assign(new, checkpoints.widen(old.state_dict()), source="widened")
    z, image, t, text = (
        torch.randn(2, 4, 8, 8),
        5 * torch.randn(2, 4, 8, 8),
        torch.tensor([3.5, 900.0]),
        torch.randn(2, 7, 32),
    )
    assert torch.allclose(new.eval()(torch.cat([z, image], dim=1), t, text), old(z, t, text), atol=1e-6)
    assert torch.equal(new.conv_in.bias, old.conv_in.bias)
    with pytest.raises(ValueError, match="8 input channels"):
        checkpoints.widen(new.state_dict())
