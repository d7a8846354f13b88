"""An autoencoder of one's own in place of the checkpoint's: from any layout, with latents of the same kind."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import randomise, small_pipeline
from helpers_cli import edit, pixels
from safetensors.torch import load_file, save_file

import minip2p
from minip2p import checkpoints
from minip2p.checkpoints.files import write_safetensors
from minip2p.cli import main, metadata
from minip2p.config import Config
from minip2p.models.vae import AutoencoderKL

VAE = replace(small_pipeline().config.vae, widths=(32, 32, 64), norm_groups=32)
"""another one than the small pipeline's, with the groups that a file without a config is taken to have"""


def vae_tensors(config=VAE, seed=7) -> dict[str, torch.Tensor]:
    return dict(randomise(AutoencoderKL(config), seed).state_dict())


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """The same autoencoder in each layout."""
    at, config, parts = tmp_path_factory.mktemp("vae"), Config(vae=VAE), {"vae": vae_tensors()}
    checkpoints.write(at / "own.safetensors", "minip2p", config, parts)
    checkpoints.write(at / "pipeline", "diffusers", config, parts)
    checkpoints.write(at / "original.safetensors", "original", config, parts)
    original = load_file(at / "original.safetensors")
    bare = {name.removeprefix("first_stage_model."): tensor for name, tensor in original.items()}
    assert all(name.startswith("first_stage_model.") for name in original) and "encoder.conv_in.weight" in bare
    write_safetensors(at / "prefix.safetensors", original, {})
    torch.save({"state_dict": bare | {"loss.logvar": torch.zeros(1)}}, at / "bare.ckpt")
    lone = at / "lone"
    lone.mkdir()
    shutil.copy(at / "pipeline/vae/diffusion_pytorch_model.safetensors", lone / "vae.safetensors")
    return {
        "our own file": at / "own.safetensors",
        "a diffusers folder": at / "pipeline/vae",
        "a diffusers pipeline": at / "pipeline",
        "the file in a diffusers folder": at / "pipeline/vae/diffusion_pytorch_model.safetensors",
        "that file alone": lone / "vae.safetensors",
        "the original's, with its prefix": at / "prefix.safetensors",
        "the original's alone": at / "bare.ckpt",
    }


KINDS = (
    "our own file",
    "a diffusers folder",
    "a diffusers pipeline",
    "the file in a diffusers folder",
    "that file alone",
    "the original's, with its prefix",
    "the original's alone",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lacks", [False, True])
def test_it_replaces_the_checkpoints_or_gives_it_one(kind, lacks, files, weights, tmp_path):
    base = weights / "editor.safetensors"
    if lacks:
        loaded = checkpoints.read(base)
        del loaded.parts["vae"]
        bpe = minip2p.load(base).tokenizer
        checkpoints.write(tmp_path / "base.safetensors", "minip2p", loaded.config, loaded.parts, tokenizer=bpe)
        base = tmp_path / "base.safetensors"
        with pytest.raises(ValueError, match=r"base.*lacks the vae weights; give an autoencoder too: vae=PATH \(--vae"):
            minip2p.load(base)
    pipe, old = minip2p.load(base, vae=files[kind], inference=False), minip2p.load(weights / "editor.safetensors")
    assert pipe.config.vae == VAE and pipe.provenance["vae"] == {"file": files[kind].name}
    wanted = vae_tensors()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in pipe.vae.state_dict().items())
    assert torch.equal(pipe.unet.conv_in.weight, old.unet.conv_in.weight) and pipe.config.unet == old.config.unet


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"latent_channels": 3}, "has 3 channels in its latents, the denoiser of .*editor.safetensors wants 4"),
        ({"scaling_factor": 0.13025}, "0.13025 as the latents' scaling factor, .* wants 0.18215: .* with another"),
        ({"widths": (32, 64)}, "has 2 pixels for each side of a latent, .* wants 4"),
    ],
)
def test_other_latents_are_refused(changes, match, weights, tmp_path):
    vae = replace(VAE, **changes)
    checkpoints.write(tmp_path / "v.safetensors", "minip2p", Config(vae=vae), {"vae": vae_tensors(vae)})
    with pytest.raises(checkpoints.CheckpointError, match=rf"v.safetensors: its autoencoder .*{match}"):
        minip2p.load(weights / "editor.safetensors", vae=tmp_path / "v.safetensors")


def test_a_scaling_factor_that_the_user_vouches_for(weights, tmp_path):
    vae = replace(VAE, scaling_factor=0.5)
    checkpoints.write(tmp_path / "v.safetensors", "minip2p", Config(vae=vae), {"vae": vae_tensors(vae)})
    how = {"vae": tmp_path / "v.safetensors", "config": ["vae.scaling_factor=0.5"]}
    assert minip2p.load(weights / "editor.safetensors", **how).config.vae == vae


def test_files_that_are_no_autoencoder(weights, files, tmp_path):
    base, tensors = weights / "editor.safetensors", load_file(files["that file alone"])
    loaded = checkpoints.read(base)
    checkpoints.write(tmp_path / "unet.safetensors", "minip2p", loaded.config, {"unet": loaded.parts["unet"]})
    save_file({name: t for name, t in tensors.items() if "conv_out" not in name}, tmp_path / "part.safetensors")
    save_file(tensors | {"extra": torch.ones(1)}, tmp_path / "more.safetensors")
    save_file(tensors | {"quant_conv.bias": torch.full((8,), torch.nan)}, tmp_path / "nan.safetensors")
    for name, match in (
        ("unet", "has no autoencoder, but unet; expected a file with one"),
        ("part", "its weights do not fit the network: .* missing: encoder.conv_out.weight"),
        ("more", "1 tensors are unknown beside those of vae: extra"),
        ("nan", "quant_conv.bias holds NaN"),
    ):
        with pytest.raises(checkpoints.CheckpointError, match=f"{name}.safetensors: {match}"):
            minip2p.load(base, vae=tmp_path / f"{name}.safetensors")
    with pytest.raises(FileNotFoundError, match="nothing: no such file"):
        minip2p.load(base, vae="nothing")


def test_edits_record_it_and_are_made_again(files, here, capsys):
    shutil.copy(files["the original's alone"], "vae.ckpt")
    assert edit(output="base.png") == 0 and edit("--vae", "vae.ckpt") == 0
    assert (pixels("base.png") != pixels("out.png")).any()
    assert metadata.read(Path("out.png"))["weights"]["vae"] == "vae.ckpt"
    assert main(["show", "--again", "out.png"]) == 0
    shutil.move("vae.ckpt", "moved.ckpt")
    assert main(["show", "--again", "out.png"]) == 2 and "vae.ckpt: no such file" in capsys.readouterr().err
    assert main(["show", "--again", "out.png", "--vae", "moved.ckpt", "--overwrite"]) == 0
    assert edit("--vae", "text2image.safetensors", "--lora", "x", output="b.png") == 2  # any checkpoint with one
    assert "x: no such LoRA file" in capsys.readouterr().err
