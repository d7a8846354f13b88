"""The weights that ship: they load, edit, paint and read, and are as right as their README says (on a sample)."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

import minip2p
from minip2p.cli import main
from minip2p.data.images import open_image
from minip2p.data.scenes import loose_captions, render, sample_edit, sample_scene
from minip2p.evaluation.edits import judge_editor
from minip2p.evaluation.instructions import judge_writer
from minip2p.evaluation.inversion import reconstruct_scenes
from minip2p.evaluation.paintings import judge_painter, judge_pairs
from minip2p.evaluation.reader import Reading, read, share
from minip2p.training.vae import pixels


@pytest.fixture(scope="module")
def pipe():
    return minip2p.load()


@pytest.fixture(scope="module")
def painter():
    return minip2p.load(minip2p.shipped("painter"))


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


def test_the_painter_paints_what_captions_say(painter):
    """The README's 200 captions in small, by the reader."""
    judged = judge_painter(painter, minip2p.load_reader(), 40, steps=15, batch_size=40)
    attributes, whole = share(judged)
    assert attributes >= 0.9 and whole >= 0.7


def test_the_writer_writes_instructions_that_fit_their_captions():
    """The README's 500 captions in small."""
    judged = judge_writer(minip2p.load_writer(), 60, temperature=0.3, batch_size=30)
    assert np.mean([j.valid for j in judged]) >= 0.85 and np.mean([j.agrees for j in judged]) >= 0.75


def test_pairs_of_one_noise_keep_what_the_captions_do_not_change(painter):
    """With sharing and without far fewer pixels change than with other noise, and targets are read no less."""
    how = {"shares": (0.0, 0.5), "steps": 12, "batch_size": 24}
    free, shared, other, drawn = judge_pairs(painter, minip2p.load_reader(), 24, **how)
    assert drawn.changed < max(free.changed, shared.changed) < 0.7 * other.changed
    assert shared.target >= 0.7 * free.target >= 0.2


def test_null_text_inversion_comes_back_to_the_picture(painter):
    """Within 0.5 dB of what the autoencoder alone keeps; DDIM inversion does not, at this guidance scale."""
    figures = reconstruct_scenes(painter, 2, scale=7.5, learning_rate=0.03, batch_size=2, checkpointing=False)
    for each in figures:
        assert each.null_text > each.vae - 0.5 and each.null_text > each.ddim + 1


def test_a_real_picture_is_edited_by_inversion(painter):
    """Only the time changes: what is read of the result is the picture's own but for that."""
    scene = replace(sample_scene(np.random.default_rng(11)), time="day", medium="plain", weather="clear")
    captions = loose_captions(scene, replace(scene, time="night"), rng=np.random.default_rng(0))
    start = painter.invert(render(scene, 64), captions[0], method="negative_prompt", scale=2.0, steps=30)
    again, night = painter.generate_pair(*captions, share=0.5, start=start)
    first, second = read(minip2p.load_reader(), [again, night])
    assert first == Reading.of(scene) and second.time == "night" and second.setting == scene.setting


@pytest.mark.parametrize(
    "of, words, said",
    [
        ("edits", ["--number", "2", "--output", "{tmp}/sheet.png"], "| **all** | 2 |"),
        ("paintings", ["--number", "2", "--output", "{tmp}/sheet.png"], "sizes, places and weather left open"),
        ("pairs", ["--number", "2", "--output", "{tmp}/curve.png"], "best share"),
        ("inversions", ["--number", "1", "--inner", "1"], "null-text inversion"),
        ("inversions", ["--inner", "1", "--input", "{example}", "--prompt", "a red flower by day"], "| 1 |"),
        ("readings", ["--number", "2"], "through the autoencoder"),
        ("instructions", ["--number", "4"], "| captions | valid | agree |"),
    ],
)
def test_each_is_judged_by_the_command_line(of, words, said, tmp_path, capsys):
    example = minip2p.shipped("editor").parent / "example.png"
    words = [word.format(tmp=tmp_path, example=example) for word in words]
    assert main(["judge", "--of", of, "--steps", "1", *words]) == 0
    assert said in capsys.readouterr().out
    drawn = list(tmp_path.iterdir())
    assert len(drawn) == ("--output" in words) and all(min(open_image(path).size) >= 64 for path in drawn)


@pytest.mark.parametrize(
    "words, said",
    [
        (["--of", "readings", "--output", "x.png"], "there is a table only"),
        (["--of", "inversions", "--input", "x.png"], "expected equally many"),
        (["--of", "edits", "--input", "x.png", "--prompt", "x"], "with --of inversions"),
        (["--of", "paintings", "--number", "0"], "number 0"),
        (["--of", "tea"], "'tea'"),
    ],
)
def test_a_mistake_in_judging_is_one_line(words, said, capsys):
    assert main(["judge", *words]) == 2
    out, err = capsys.readouterr()
    assert not out and said in err and err.splitlines()[-1].startswith("minip2p: error: ")


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
