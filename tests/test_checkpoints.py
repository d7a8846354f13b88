"""Weight files: read without running anything, strictly; written in any layout and back bit for bit."""

import json
import os
import pickle
import struct
import subprocess
import sys
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import randomise, small_config

from minip2p import checkpoints
from minip2p.checkpoints import infer
from minip2p.checkpoints.files import open_weights, write_safetensors
from minip2p.checkpoints.tables import ema_name, links, push, text_rows, unet_rows, vae_rows, vision_rows
from minip2p.config import CLIPConfig, Config, TextConfig, UNetConfig, VAEConfig, override
from minip2p.models.clip import CLIP, TextEncoder
from minip2p.models.unet import UNet
from minip2p.models.vae import AutoencoderKL
from minip2p.text.bpe import BPE

NETWORKS = {"unet": UNet, "vae": AutoencoderKL, "text": TextEncoder}
BPE_SMALL = BPE.learn(["make it night", "add a tree"], vocab_size=400, max_length=16)


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
    more = {
        "tokenizer": BPE_SMALL.to_dict(),
        "tokenizer_files": BPE_SMALL.save,
        "provenance": {"from": "a test"},
    } | more
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


@pytest.mark.parametrize("first, dtype", [
    *((file, torch.float32) for file in FILES), (FILES[2], torch.float16), (FILES[3], torch.bfloat16)
], ids=str)  # fmt: skip
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
        path = save(tmp_path / name, layout, {"vae": weights["vae"]}, tokenizer_files=None)
        assert same(checkpoints.read(path).parts, {"vae": weights["vae"]})


def test_an_autoencoders_own_file(weights, tmp_path):
    """Original names without a prefix, with the discriminator of its training beside them."""
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
        both = checkpoints.read(save(tmp_path / f"both {name}", layout, parts, config, ema_parts={"text": parts["text"]}))
        assert same({"text": used}, {"text": both.parts["text"]})
        tower = TextEncoder(back.config.text)
        checkpoints.assign(tower, back.parts["text"], source=name)
        full = TextEncoder(config.text)
        full.load_state_dict(parts["text"])
        tokens = torch.randint(0, 300, (2, 16))
        assert torch.allclose(tower(tokens), full(tokens), atol=1e-6)


@pytest.mark.parametrize("layout", ["original", "diffusers"])
@pytest.mark.parametrize("word", [
    "unet.norm=rms", "unet.feed_forward=swiglu", "unet.attention=('cross', 'none')", "unet.mid_attention=self", "vae.norm=layer",
    "text.projection=32",
])  # fmt: skip
def test_what_a_layout_has_no_word_for_is_one_clear_error(layout, word, tmp_path):
    config = override(config_of(), word)
    parts = weights_of(config)
    with pytest.raises(ValueError, match=word.partition("=")[0]) as error:
        save(tmp_path / "x", layout, parts, config)
    assert "\n" not in str(error.value) and not (tmp_path / "x").exists()
    assert same(checkpoints.read(save(tmp_path / "own", "minip2p", parts, config)).parts, parts)


def test_a_noise_schedule_of_ones_own(weights, tmp_path):
    """diffusers has words for three; an original file says none, and ours in its header all."""
    config = override(config_of(), "schedule.kind=wavy")
    with pytest.raises(ValueError, match="schedule.kind = 'wavy' cannot be written as 'diffusers'"):
        save(tmp_path / "folder", "diffusers", weights, config)
    assert checkpoints.read(save(tmp_path / "a.ckpt", "original", weights, config)).config == config


def test_clip_in_one_file(tmp_path):
    config = CLIPConfig(
        text=replace(config_of().text, projection=24), vision=replace(CLIPConfig().vision, image_size=28, width=32, layers=1,
        heads=2, feed_forward=64, projection=24),
    )  # fmt: skip
    clip = randomise(CLIP(config))
    parts = {part: getattr(clip, part).state_dict() for part in ("text", "vision")} | {"logit_scale": clip.logit_scale}
    checkpoints.write(tmp_path / "clip", "minip2p", config, parts)
    loaded = checkpoints.read(tmp_path / "clip")
    assert loaded.config == config and loaded.joined().keys() == clip.state_dict().keys()
    with torch.device("meta"):
        again = CLIP(config)
    checkpoints.assign(again, loaded.joined(), source="clip")
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in clip.state_dict().items())


def test_averaged_weights(weights, tmp_path):
    """Taken where they are, left with ema=False; only the UNet has them here."""
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


# Architectures from shapes


def on_meta(module, config):
    with torch.device("meta"):
        return dict(module(config).state_dict())


SD2 = UNetConfig(heads=None, head_size=64, linear_projection=True, text_width=1024)


@pytest.mark.parametrize("config", [
    UNetConfig(), UNetConfig(in_channels=8), SD2, UNetConfig(widths=(64, 128), attention=("none", "full"), blocks=3, depth=2),
    UNetConfig(time_injection="scale_shift", out_channels=8),
])  # fmt: skip
def test_unet_from_shapes(config):
    assert infer.unet(push(on_meta(UNet, config), links(unet_rows(config), 1))) == config


@pytest.mark.parametrize("config", [VAEConfig(), VAEConfig(widths=(32, 64, 64), blocks=1, latent_channels=8)])
def test_vae_from_shapes(config):
    assert infer.vae(push(on_meta(AutoencoderKL, config), links(vae_rows(config), 1))) == config


@pytest.mark.parametrize("openai", [True, False])
def test_clip_from_shapes(openai):
    """ViT-L/14 is the default; Stable Diffusion 2's tower is told by its names."""
    config, column = CLIPConfig(), 1 if openai else 2
    tensors = push(on_meta(TextEncoder, config.text), links(text_rows(config.text), column))
    tensors |= push({n.removeprefix("vision."): t for n, t in on_meta(CLIP, config).items() if n.startswith("vision.")},
                    links(vision_rows(config.vision), column))  # fmt: skip
    assert CLIPConfig(text=infer.text(tensors, openai), vision=infer.vision(tensors, openai)) == config
    sd2 = TextConfig(width=1024, heads=16, layers=23, feed_forward=4096, activation="gelu", pad=0)
    tower = push(on_meta(TextEncoder, sd2), links(text_rows(sd2), 1))
    assert infer.text(tower, openai=True, sd2=True) == sd2


PUBLISHED = {
    "unet/config.json": {
        "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.6.0", "act_fn": "silu", "attention_head_dim": 8,
        "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": False, "cross_attention_dim": 768,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], "downsample_padding": 1, "flip_sin_to_cos": True,
        "freq_shift": 0, "in_channels": 4, "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-05,
        "norm_num_groups": 32, "out_channels": 4, "sample_size": 64,
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    },
    "vae/config.json": {
        "_class_name": "AutoencoderKL", "_diffusers_version": "0.6.0", "act_fn": "silu",
        "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4, "in_channels": 3,
        "latent_channels": 4, "layers_per_block": 2, "norm_num_groups": 32, "out_channels": 3, "sample_size": 512,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    },
    "text_encoder/config.json": {
        "_name_or_path": "openai/clip-vit-large-patch14", "architectures": ["CLIPTextModel"], "attention_dropout": 0.0,
        "bos_token_id": 0, "dropout": 0.0, "eos_token_id": 2, "hidden_act": "quick_gelu", "hidden_size": 768,
        "initializer_factor": 1.0, "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77, "model_type": "clip_text_model", "num_attention_heads": 12, "num_hidden_layers": 12,
        "pad_token_id": 1, "projection_dim": 768, "torch_dtype": "float32", "vocab_size": 49408,
    },
    "scheduler/scheduler_config.json": {
        "_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
        "num_train_timesteps": 1000, "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None,
        "clip_sample": False,
    },
}  # fmt: skip
"""Stable Diffusion 1.5's"""
EDITOR = {
    "unet/config.json": {
        "in_channels": 8, "class_embed_type": None, "conv_in_kernel": 3, "conv_out_kernel": 3, "dual_cross_attention": False,
        "mid_block_type": "UNetMidBlock2DCrossAttn", "num_class_embeds": None, "only_cross_attention": False,
        "projection_class_embeddings_input_dim": None, "resnet_time_scale_shift": "default", "time_cond_proj_dim": None,
        "time_embedding_type": "positional", "timestep_post_act": None, "upcast_attention": False, "use_linear_projection": False,
    },
}  # fmt: skip
"""what InstructPix2Pix's says beside"""
SECOND = {
    "unet/config.json": {
        "attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "use_linear_projection": True, "sample_size": 96
    },
    "text_encoder/config.json": {
        "hidden_act": "gelu", "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 23
    },
    "scheduler/scheduler_config.json": {"prediction_type": "v_prediction"},
}  # fmt: skip
"""Stable Diffusion 2.1's differences"""


@pytest.mark.parametrize("differences, words", [
    ({}, []), (EDITOR, ["unet.in_channels=8"]),
    (SECOND, [
        "unet.heads=None", "unet.head_size=64", "unet.text_width=1024", "unet.linear_projection=True", "text.width=1024",
        "text.heads=16", "text.layers=23", "text.feed_forward=4096", "text.activation=gelu", "schedule.prediction=v",
        "sampling.resolution=768",
    ]),
], ids=["1.5", "InstructPix2Pix", "2.1"])  # fmt: skip
def test_published_configs(differences, words, tmp_path):
    """Read and written again they mean the same."""
    from minip2p.checkpoints import described, folders

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
        ("unet", described.unet_json(config.unet, config.sampling.resolution // 8)), ("vae", described.vae_json(config.vae, 512)),
        ("text_encoder", described.text_json(config.text)),
    ):  # fmt: skip
        (tmp_path / name / "config.json").write_text(json.dumps(values))
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(described.schedule_json(config)))
    assert read(tmp_path) == config


def test_config_replaces_what_would_be_guessed(weights, tmp_path):
    """8 groups in the norms is not what shapes can tell: guessed as Stable Diffusion's 32 unless said."""
    path = save(tmp_path / "a.safetensors", "original", weights)
    write_safetensors(tmp_path / "b.safetensors", open_weights(path).tensors, {})
    assert checkpoints.read(tmp_path / "b.safetensors").config.unet.norm_groups == 32
    assert checkpoints.read(tmp_path / "b.safetensors", config=config_of()).config == config_of()
    assert checkpoints.read(path).config == config_of()


# Strictness


def test_assign_names_both_sides(weights, tmp_path):
    loaded = checkpoints.read(save(tmp_path / "a.ckpt", "original", weights))
    with torch.device("meta"):
        unet = UNet(loaded.config.unet)
    tensors = loaded.parts["unet"] | {"conv_out.bias": torch.zeros(7), "extra": torch.zeros(1)}
    del tensors["conv_in.weight"]
    with pytest.raises(checkpoints.CheckpointError) as error:
        checkpoints.assign(unet, tensors, source=loaded.path, names=loaded.names["unet"])
    said = str(error.value)
    assert "\n" not in said and str(tmp_path / "a.ckpt") in said
    assert "1 missing: conv_in.weight (in the file model.diffusion_model.input_blocks.0.0.weight)" in said
    assert "1 unknown to the network: extra" in said and "(7,), in the network (4,)" in said
    assert unet.conv_out.bias.is_meta


@pytest.mark.parametrize("name", ["model.diffusion_model.extra.weight", "control_model.x", "model_ema.nothing", "xyz"])
def test_an_unknown_tensor_is_an_error(weights, tmp_path, name):
    path = save(tmp_path / "a.safetensors", "original", weights)
    opened = open_weights(path)
    write_safetensors(path, opened.tensors | {name: torch.zeros(1)}, opened.metadata)
    with pytest.raises(checkpoints.CheckpointError, match=f"a.safetensors: 1 tensors are unknown .*{name}"):
        checkpoints.read(path)


@pytest.mark.parametrize("part, key, value", [
    ("unet", "act_fn", "gelu"), ("unet", "class_embed_type", "timestep"), ("unet", "addition_embed_type", "text_time"),
    ("unet", "down_block_types", ["AttnDownBlock2D", "DownBlock2D"]), ("unet", "layers_per_block", [1, 2]),
    ("vae", "latents_mean", [0.1]), ("vae", "mid_block_add_attention", False), ("unet", "mid_block_type", None), ("text_encoder", "hidden_act", "relu"),
    ("scheduler", "prediction_type", "flow"), ("scheduler", "rescale_betas_zero_snr", True),
])  # fmt: skip
def test_a_config_word_that_we_do_not_know_is_an_error(weights, tmp_path, part, key, value):
    folder = save(tmp_path / "d", "diffusers", weights)
    file = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(checkpoints.CheckpointError, match=f"{file.name}: {key}"):
        checkpoints.read(folder)


@pytest.mark.parametrize("gone", ["unet", "unet/config.json", "text_encoder/model.safetensors"])
def test_an_incomplete_folder(weights, tmp_path, gone):
    folder = save(tmp_path / "d", "diffusers", weights)
    (folder / gone).rename(tmp_path / "away")
    with pytest.raises(checkpoints.CheckpointError, match=gone.partition("/")[0]):
        checkpoints.read(folder)


# Writing


@pytest.mark.parametrize("layout, name", FILES)
def test_a_write_that_fails_leaves_what_was_there(layout, name, weights, tmp_path, monkeypatch):
    path = save(tmp_path / name, layout, weights)

    def fail(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        save(path, layout, {part: {n: t + 1 for n, t in ts.items()} for part, ts in weights.items()})
    assert same(checkpoints.read(path).parts, weights) and [file.name for file in tmp_path.iterdir()] == [name]


def test_a_mapped_checkpoint_may_be_written_over(weights, tmp_path):
    for layout, name in FILES:
        path = save(tmp_path / name, layout, weights)
        loaded = checkpoints.read(path)
        save(path, layout, {part: {n: t + 1 for n, t in ts.items()} for part, ts in loaded.parts.items()})
        assert same(loaded.parts, weights)
        assert torch.equal(checkpoints.read(path).parts["unet"]["conv_in.bias"], weights["unet"]["conv_in.bias"] + 1)


def test_only_a_diffusers_folder_is_replaced(weights, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(checkpoints.CheckpointError, match="no diffusers folder"):
        save(tmp_path / "photos", "diffusers", weights)


def test_our_safetensors_are_everyones(weights, tmp_path):
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
    with pytest.raises(ValueError, match="8 input channels already"):
        checkpoints.widen(new.state_dict())
