"""What the page computes (`minip2p app`), without gradio: the command line's pixels, limits of uploads, stopping."""

import ast
import io
import socket
import struct
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_cli import pixels
from PIL import Image
from test_structure import imports

import minip2p
from minip2p.app import attention, edit, jobs, pairs, results, uploads, world
from minip2p.app.models import Models
from minip2p.app.serve import free_port
from minip2p.cli import main, metadata
from minip2p.cli.arguments import Loading
from minip2p.control import Record
from minip2p.text.align import positions
from minip2p.tinyworld import evaluate

ROOT = Path(__file__).parent.parent


@pytest.fixture
def models(here) -> Models:
    return Models(Loading(weights="editor.safetensors", device="cpu"), "text2image.safetensors")


def asked(**changes) -> edit.Request:
    how = {"picture": "in.png", "instruction": "make it night", "text_scale": 5.0, "image_scale": 1.5}
    return edit.Request(**how | {"steps": 2, "seed": 3} | changes)


def last(steps, keep: Path):
    """The last thing that a generator yields, with its files copied to `keep`, as the page copies them."""
    keep.mkdir(exist_ok=True)
    for found in steps:
        for value in found if isinstance(found, tuple) else [found]:
            for path in value if isinstance(value, list) else [value]:
                if isinstance(path, Path):
                    (keep / path.name).write_bytes(path.read_bytes())
    return found


SCALES = ("--text-scale", "5", "--image-scale", "1.5", "--steps", "2", "--seed", "3")
EDIT = ("edit", "--edit", "make it night", "--weights", "editor.safetensors", "--input", "in.png", *SCALES)


def test_an_edit_is_that_of_the_command_line_and_can_be_made_again(models, here, capsys):
    found = last(edit.edit(models, asked()), here / "page")
    assert main([*EDIT, "--output", "cli.png"]) == 0
    assert np.array_equal(pixels("page/edited.png"), pixels("cli.png"))
    assert metadata.equal(metadata.read(Path("page/edited.png")), metadata.read(Path("cli.png")))
    assert pixels("page/source.png").shape == pixels("page/edited.png").shape != pixels("in.png").shape
    assert [path.name for path in found.inputs] == ["input.png"] and not found.source.exists()
    again = ["show", "page/edited.png", "--again", "--weights", "editor.safetensors"]
    assert main(again) == 0 and "equal" in capsys.readouterr().out
    assert main([*again, "--input", "in.png", "--overwrite"]) == 0  # the user's own file is as good


def test_several_seeds_and_a_grid_are_those_of_the_command_line(models, here):
    found = last(edit.edit(models, asked(), n=2), here / "page")
    assert [path.name for path in found.images] == ["edited-3.png", "edited-4.png"]
    assert main([*EDIT, "--output", "cli.png", "--seed", "4"]) == 0
    assert np.array_equal(pixels("page/edited-4.png"), pixels("cli.png"))
    last(edit.grid(models, asked(), "1, 2", "1"), here / "page")
    assert main([*EDIT, "--output", "sheet.png", "--grid", "text-scale=1,2", "image-scale=1"]) == 0
    assert np.array_equal(pixels("page/grid.png"), pixels("sheet.png"))
    with pytest.raises(ValueError, match="--grid 'text-scale=1,x': expected numbers"):
        last(edit.grid(models, asked(), "1, x", ""), here / "page")


def test_a_drawn_mask_is_that_of_the_command_line(models, here):
    layer = np.zeros((64, 96, 4), np.uint8)
    layer[:, 48:] = 255, 255, 255, 255
    drawn = io.BytesIO()
    Image.fromarray(layer).save(drawn, "PNG")
    found = last(edit.edit(models, asked(layers=[drawn.getvalue()])), here / "page")
    assert [path.name for path in found.inputs] == ["input.png", "mask.png"]
    mask = pixels("page/mask.png")[..., 0]
    assert mask.shape == (32, 48) and not mask[:, :23].any() and (mask[:, 25:] == 255).all()
    assert main([*EDIT, "--output", "cli.png", "--mask", "page/mask.png"]) == 0
    assert np.array_equal(pixels("page/edited.png"), pixels("cli.png"))
    empty = Image.new("RGBA", (96, 64))
    empty.save("empty.png")
    assert uploads.mask_of([Path("empty.png")], (48, 32)) is None


def test_random_scales_lie_about_the_models_own(models):
    own = models.editor.config.sampling
    drawn = [edit.random_scales(models) for _ in range(50)]
    assert len(set(drawn)) > 10
    for text, image in drawn:
        assert abs(text / own.text_scale - 1) < 0.21 and abs(image / own.image_scale - 1) < 0.21


# Uploads


def png(width: int, height: int, *, whole: bool = False) -> bytes:
    """A black PNG of any size in few bytes: with all its pixels, or only a few of them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = bytes(height * (width // 8 + 1)) if whole else b"\0"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "data, expected",
    [
        (b"<svg onload='alert(1)'/>", "the picture is not a picture that can be read"),
        (png(60000, 60000), "the picture has over .* pixels"),
        (png(8000, 8000, whole=True), "the picture has 8,000 x 8,000 pixels; the limit is 34 megapixels"),
        (b"\x89PNG\r\n\x1a\n", "the picture is"),
        (bytes(uploads.MOST_BYTES + 1), "the picture has 32 MiB; the limit is 32 MiB"),
    ],
    ids=["not a picture", "bomb", "8000x8000", "cut short", "bytes"],
)
def test_hostile_uploads_are_one_line(models, here, data, expected):
    Path("upload.png").write_bytes(data)
    with pytest.raises(ValueError, match=expected) as error:
        last(edit.edit(models, asked(picture="upload.png")), here / "page")
    assert "\n" not in str(error.value) and "upload" not in str(error.value)
    assert jobs.BUSY.acquire(blocking=False) is True
    jobs.BUSY.release()


def test_an_input_is_stored_under_our_name_and_its_own_format(models, here):
    Image.open("in.png").save("x.jpg")
    Path("x.jpg").rename("; rm -rf ~.gif")
    found = last(edit.edit(models, asked(picture="; rm -rf ~.gif")), here / "page")
    assert [path.name for path in found.inputs] == ["input.jpg"]
    assert metadata.read(here / "page" / "edited.png")["input"]["path"] == "input.jpg"


def test_no_folder_of_this_machine_is_in_metadata():
    m = {"weights": {"path": "../../home/me/a.safetensors", "vae": "/x/vae", "lora": [{"path": "b/c", "weight": 1.0}]}}
    found = results._beside(m)["weights"]
    assert found == {"path": "a.safetensors", "vae": "vae", "lora": [{"path": "c", "weight": 1.0}]}


# Jobs


def test_closing_a_computation_stops_it_before_its_next_step(models):
    before, seen = threading.active_count(), []
    computing = edit.edit(models, asked(steps=200))
    for each in computing:
        seen.append(each)
        if len(seen) == 2:
            break
    computing.close()
    assert threading.active_count() == before and not jobs.BUSY.locked()
    assert all(each.total == 200 for each in seen) and 0 < seen[0].done < seen[1].done < 200


def test_previews_are_the_denoised_latents(models):
    pipe, latents = models.editor, []

    def work(on_step):
        def both(progress):
            latents.append(progress.step.denoised)
            on_step(progress)

        return pipe.edit("in.png", "make it night", steps=3, on_step=both)

    found = [each for each in jobs.compute(pipe, work) if not each.note]
    assert [each.done for each in found] == [1, 2, 3]
    x = torch.floor(255 * pipe.decode(latents[1])[0]).byte().movedim(0, -1).numpy()
    assert np.array_equal(np.asarray(found[1].images[0]), x)


def test_an_error_in_a_computation_is_raised_where_its_result_is_awaited(models):
    with pytest.raises(ValueError, match="unknown sampler 'none'"):
        list(edit.edit(models, asked(sampler="none")))
    assert not jobs.BUSY.locked()


def test_what_is_lost_of_a_long_text_is_a_note(models):
    *_, previewed, _ = edit.edit(models, asked(instruction="make it night " * 9))
    assert previewed.note.startswith("the text 'make it night") and "is cut to 14 tokens" in previewed.note


# The other tabs


def test_a_pair_is_that_of_the_command_line(models, here):
    how = {"prompt": "make it night", "edited_prompt": "make it dark", "scale": 3.0, "steps": 2, "seed": 1}
    request = pairs.Request(kind="replace", cross=0.5, self=0.25, reweight="dark=2", blend="night dark", **how)
    last(pairs.pair(models, request), here / "page")
    command = ["pair", "--weights", "text2image.safetensors", "--prompt", how["prompt"], "--edited-prompt"]
    command += [how["edited_prompt"], "--scale", "3", "--steps", "2", "--seed", "1", "--control", "replace"]
    command += ["--cross", "0.5", "--self", "0.25", "--reweight", "dark=2", "--blend", "night", "dark"]
    assert main([*command, "--output", "cli.png"]) == 0
    assert np.array_equal(pixels("page/pair.png"), pixels("cli.png"))
    assert metadata.equal(metadata.read(Path("page/pair.png")), metadata.read(Path("cli.png")))
    with pytest.raises(ValueError, match="needs two prompts"):
        list(pairs.pair(models, pairs.Request(**how | {"edited_prompt": " "})))
    with pytest.raises(ValueError, match="unknown kind 'all'"):
        list(pairs.pair(models, pairs.Request(kind="all", **how)))


def test_a_word_looks_where_the_records_say(models):
    text, pipe, record = "make it night", models.editor, Record(during=(0.5, 1.0))
    *_, found = attention.look(models, text, "in.png", steps=2, seed=5)
    image = pipe.edit("in.png", text, steps=2, seed=5, control=[record])
    assert found.words == ("make", "it", "night") and found.steps == 2 and found.image.size == image.size
    maps = found.maps[2]
    assert np.allclose(maps[2], record.word(positions(pipe.tokenizer, text, "night"))[0], atol=1e-6)
    assert np.allclose(maps[0], (maps[1] + maps[2]) / 2, atol=1e-6) and not np.allclose(maps[1], maps[2], atol=1e-4)
    shown, top = found.show("night", 1)
    assert max(shown.size) == attention.SIDE and top == pytest.approx(maps[1].max())
    with pytest.raises(ValueError, match="expected one of make, it, night"):
        found.show("day")
    with pytest.raises(ValueError, match="step 3: expected 1 to 2"):
        found.show("night", 3)


def test_the_world_knows_its_truth(models, here):
    drawn = last(world.draw(models, 3), here / "page")
    assert np.array_equal(pixels("page/truth.png"), np.asarray(world.render(drawn.edit.target, 32)))
    evaluated = last(world.evaluate_edit(models, 3, text_scale=5.0, image_scale=1.5, steps=2, seed=0), here / "page")
    known, rng = world.edit_of(3)
    assert known == drawn.edit
    assert (evaluated.correct, evaluated.psnr) == evaluate(Image.open("page/edited.png"), known, rng)
    with pytest.raises(ValueError, match="scene -1: expected"):
        world.edit_of(-1)


# The verb


def test_only_what_is_shown_imports_gradio():
    """So that the command line starts at once, and the tests above need no gradio."""
    found = {
        file.relative_to(ROOT / "minip2p").as_posix()
        for file in (ROOT / "minip2p").rglob("*.py")
        if "gradio" in file.read_text(encoding="utf-8") and any(name[0].startswith("gradio") for name in imports(file))
    }
    tabs = {f"app/tabs/{name}.py" for name in ("attention", "edit", "pairs", "parts", "world")}
    assert found == tabs | {"app/page.py", "app/serve.py"}
    tree = ast.parse((ROOT / "minip2p/app/serve.py").read_text(encoding="utf-8"))
    late = [ast.unparse(node) for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert not any("gradio" in line or "page" in line for line in late)


def test_without_gradio_the_verb_says_what_to_install(models, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["app", "--weights", "editor.safetensors"]) == 2
    assert capsys.readouterr().err == (
        "minip2p: error: minip2p app needs gradio, which is missing: pip install 'minip2p[app]'\n"
    )


def test_a_place_that_is_taken_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ValueError, match=f"--port {port}: address already in use; choose others"):
            free_port("127.0.0.1", port)
    with pytest.raises(ValueError, match="--port 70000: .*choose others"):
        free_port("127.0.0.1", 70000)
    assert 0 < free_port("127.0.0.1", 0) < 65536


def test_a_text_to_image_model_is_no_editor(here):
    with pytest.raises(ValueError, match="'editor' is needed"):
        _ = Models(Loading(weights="text2image.safetensors", device="cpu")).editor
    models = Models(Loading(device="cpu"), "text2image.safetensors")
    assert models.text2image_scale == minip2p.load("text2image.safetensors").config.sampling.text_scale
