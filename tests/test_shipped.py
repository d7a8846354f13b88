"""The weights that ship: they load, they edit, and they are as right as their README says (on a sample)."""

import time

import numpy as np
import pytest
import torch

import minip2p
from minip2p.cli import main
from minip2p.data.scenes import render, sample_edit, sample_scene
from minip2p.evaluation.edits import judge_editor
from minip2p.training.vae import pixels


@pytest.fixture(scope="module")
def pipe():
    return minip2p.load()


def test_files_are_small():
    sizes = [path.stat().st_size for path in minip2p.shipped("editor").parent.iterdir() if path.is_file()]
    assert max(sizes) < 20e6 and sum(sizes) < 40e6


def test_the_editor_is_mostly_right(pipe):
    """The README's 200 edits in small: 30 of them with fewer steps."""
    judged = judge_editor(pipe, 30, steps=10)
    assert np.mean([j.right for j in judged]) >= 0.6 and np.median([j.psnr for j in judged]) >= 20


def test_an_empty_instruction_gives_the_picture_itself(pipe):
    picture = render(sample_scene(np.random.default_rng(0)), 64)
    assert pipe.edit(picture, "").tobytes() == picture.tobytes()


def test_the_autoencoder_keeps_scenes(pipe):
    rng = np.random.default_rng(7)
    x = pixels([sample_edit(rng).target for _ in range(24)], 64) / 2 + 0.5
    y = pipe.decode(pipe.config.vae.scaling_factor * pipe.encode_image(x))
    psnr = -10 * torch.log10((x - y).square().mean(dim=(1, 2, 3)))
    assert psnr.median() > 25


def test_its_latents_have_unit_variance(pipe):
    rng = np.random.default_rng(8)
    z = pipe.config.vae.scaling_factor * pipe.encode_image(pixels([sample_scene(rng) for _ in range(24)], 64) / 2 + 0.5)
    assert 0.85 < float(z.std()) < 1.15


def test_clip_tells_scenes_apart():
    clip, rng = minip2p.load_clip(), np.random.default_rng(9)
    scenes = [sample_scene(rng) for _ in range(48)]
    with torch.inference_mode():
        images = clip.encode_images(pixels(scenes, 64) / 2 + 0.5)
        texts = clip.encode_texts([scene.caption for scene in scenes])
    found = (images @ texts.T).argmax(-1) == torch.arange(48)
    assert found.float().mean() > 0.6


def test_the_command_line_edits_with_it(tmp_path, capsys):
    began = time.perf_counter()
    output = tmp_path / "night.png"
    example = minip2p.shipped("editor").parent / "example.png"
    assert (
        main(["edit", "--input", str(example), "--edit", "make it night", "--output", str(output), "--steps", "10"])
        == 0
    )
    assert output.exists() and time.perf_counter() - began < 60
    assert main(["show", str(output), "--again", "--output", str(tmp_path / "again.png")]) == 0
    assert "equal" in capsys.readouterr().out
