"""`minip2p import` and `minip2p check`: own pairs become a set, a stopped import continues, broken rows are named."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minip2p.cli import check, figures, import_pairs, in_words
from minip2p.cli.arguments import parse
from minip2p.data import contact_sheet
from minip2p.data import import_pairs as library
from minip2p.data.edits import open_edits
from minip2p.data.split import split
from minip2p.tinyworld.scenes import render, sample_edit

COUNT = 4
OWN = ["--source", "a", "--target", "b", "--output", "out"]
TABLE = [*OWN, "--table", "t.jsonl"]


def call(verb, *words: str) -> int:
    """The exit status of `minip2p`; a user's mistake is one line on stderr."""
    import sys

    try:
        return verb.run(parse(verb.Options, list(words), "minip2p")) or 0
    except Exception as error:
        if (message := in_words(error)) is None:
            raise
        print(f"minip2p: error: {message}", file=sys.stderr)
        return 2


def write_table(rows: list[dict]) -> None:
    Path("t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def tree(folder: str = "out") -> dict[str, bytes]:
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def rows(tmp_path, monkeypatch) -> list[dict]:
    """Own images in a/ (PNG, which must become JPEG) and b/ (JPEG), and a table that names them."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = []
    for folder in "ab":
        Path(folder).mkdir()
    for i in range(COUNT):
        edit = sample_edit(rng)
        render(edit.source, 32).save(f"a/{i}.png")
        render(edit.target, 32).save(f"b/{i}.jpg", quality=80)
        rows.append(
            {
                "source": f"{i}.png",
                "edit": edit.instruction,
                "input": edit.source.caption,
                "output": edit.target.caption,
            }
        )
    write_table(rows)
    return rows


# Importing


def test_own_pairs_become_the_authors_folders(rows, capsys):
    assert call(import_pairs, *TABLE) == 0
    assert "out: 4 pairs; see minip2p check out" in capsys.readouterr().out
    listed = json.loads(Path("out/seeds.json").read_text())
    assert [name for name, _ in listed] == [f"{i:07}" for i in range(COUNT)]
    for (name, [seed]), row, i in zip(listed, rows, range(COUNT), strict=True):
        assert 0 <= seed < 2**31
        prompt = json.loads(Path("out", name, "prompt.json").read_text())
        assert [prompt[key] for key in ("input", "edit", "output")] == [row[key] for key in ("input", "edit", "output")]
        [metadata] = map(json.loads, Path("out", name, "metadata.jsonl").read_text().splitlines())
        assert metadata == {"seed": seed, "source": f"{i}.png", "target": f"{i}.jpg"}
        source, target = (Path("out", name, f"{seed}_{side}.jpg") for side in (0, 1))
        assert target.read_bytes() == Path(f"b/{i}.jpg").read_bytes(), "a JPEG stays as it is"
        off = np.asarray(Image.open(source), int) - np.asarray(Image.open(f"a/{i}.png"))
        assert Image.open(source).format == "JPEG" and abs(off).mean() < 1


def test_lossless_keeps_every_pixel(rows):
    assert call(import_pairs, *TABLE, "--lossless") == 0
    for i, pair in enumerate(open_edits("out")):
        assert (np.asarray(pair.source) == np.asarray(Image.open(f"a/{i}.png"))).all()


def test_images_that_programs_decode_differently_are_encoded_again(rows):
    """A rotated JPEG, a grey one and an image with an alpha channel become upright, RGB and opaque."""
    turned, exif = Image.new("RGB", (20, 10), "red"), Image.Exif()
    turned.paste("blue", (0, 0, 10, 10))
    exif[0x0112] = 6
    turned.save("a/0.jpg", exif=exif)
    Image.new("L", (10, 10), 90).save("a/1.jpg")
    Image.new("RGBA", (10, 10), (0, 0, 0, 0)).save("a/2.png")
    write_table([{"source": name, "target": "0.jpg", "edit": "x"} for name in ("0.jpg", "1.jpg", "2.png")])
    assert call(import_pairs, *TABLE) == 0
    sources = [Image.open(path) for path in sorted(Path("out").glob("*/*_0.jpg"))]
    assert [(image.mode, image.size) for image in sources] == [("RGB", (10, 20)), ("RGB", (10, 10)), ("RGB", (10, 10))]
    assert not any(image.getexif() for image in sources)
    assert sources[0].getpixel((5, 2))[2] > 200 and sources[2].getpixel((5, 5)) == (255, 255, 255)


def test_equal_names_with_one_instruction(rows):
    assert call(import_pairs, *OWN, "--edit", "make it night") == 0
    assert [pair.instruction for pair in open_edits("out")] == ["make it night"] * COUNT
    groups = {text.group for text in open_edits("out").texts()}
    assert groups == {f"{i}.png" for i in range(COUNT)}, "a split keeps pairs of one picture together"


def test_a_stopped_import_continues_to_the_same_bytes(rows, monkeypatch):
    assert call(import_pairs, *TABLE) == 0
    whole = tree()
    real, calls = library.write_content, []

    def killed(folder, contents):
        calls.append(folder)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(folder, contents)

    monkeypatch.setattr(library, "write_content", killed)
    with pytest.raises(KeyboardInterrupt):
        call(import_pairs, *TABLE[:4], "--table", "t.jsonl", "--output", "half")
    assert not Path("half/seeds.json").exists() and len(open_edits("half")) == 2
    Path("half/.0000002.killed.part").mkdir()
    calls[:] = [None] * 3
    assert call(import_pairs, *TABLE[:4], "--table", "t.jsonl", "--output", "half") == 0
    assert tree("half") == whole and len(calls) == 5 and not list(Path("half").glob(".*"))


def test_a_table_that_grows_adds_its_rows_and_no_pair_changes_its_split(rows):
    write_table(rows[:2])
    assert call(import_pairs, *TABLE) == 0
    before = tree()
    keys = [text.key for text in open_edits("out").texts()]
    write_table(rows)
    assert call(import_pairs, *TABLE) == 0
    after = tree()
    assert {name: after[name] for name in before if name != "seeds.json"} == {
        name: data for name, data in before.items() if name != "seeds.json"
    }
    assert [text.key for text in open_edits("out").texts()][:2] == keys and len(open_edits("out")) == COUNT


def test_a_changed_table_or_setting_is_an_error(rows, capsys):
    assert call(import_pairs, *TABLE) == 0
    before = tree()
    assert call(import_pairs, *TABLE, "--lossless") == 2 and '"lossless": false}, now' in capsys.readouterr().err
    write_table([*rows[:2], rows[3]])
    assert call(import_pairs, *TABLE) == 2 and "holds 0000003, which is beyond the 3 rows" in capsys.readouterr().err
    write_table([*rows[:3], rows[3] | {"edit": "other"}])
    assert call(import_pairs, *TABLE) == 2 and "0000003 is another pair than t.jsonl, line 4" in capsys.readouterr().err
    assert tree() == before


def test_a_folder_with_other_files_is_refused(rows, capsys):
    Path("out").mkdir()
    Path("out/thesis.txt").write_text("mine")
    assert call(import_pairs, *TABLE) == 2
    assert "out holds other files, such as thesis.txt" in capsys.readouterr().err
    Path("out/run.json").write_text('{"verb": "pairs"}')
    assert call(import_pairs, *TABLE) == 2 and "was started with" in capsys.readouterr().err


def test_sets_in_other_layouts_are_converted(rows):
    assert call(import_pairs, *TABLE) == 0
    assert call(import_pairs, "--data", "out", "--output", "again") == 0
    first, second = open_edits("out"), open_edits("again")
    assert [text.key for text in first.texts()] == [text.key for text in second.texts()]
    assert split(first, (0.5, 0.5)) == split(second, (0.5, 0.5))
    for i in range(COUNT):
        assert [f.data for f in first.files(i)] == [f.data for f in second.files(i)]


BROKEN = {
    "a picture that is missing": ({"source": "9.png"}, "a/9.png: no such file"),
    "a picture cut short": ({"source": "cut.png", "target": "0.jpg"}, "cut.png is damaged or cut short"),
    "no picture": ({"source": "text.png", "target": "0.jpg"}, "text.png is not a picture"),
    "no partner": ({"source": "lone.png"}, "lone: no target image of that name in b"),
    "an empty instruction": ({"edit": "  "}, "the instruction is empty"),
    "no instruction": ({"edit": None}, "there is no instruction"),
    "a number": ({"edit": 3}, "'edit' is 3; expected a text"),
    "10,000 characters": ({"edit": "x" * 10_000}, "'edit' has 10,000 characters; expected at most 2,000"),
    "a long caption": ({"input": "x" * 10_000}, "'input' has 10,000 characters"),
    "half a character": ({"edit": "\ud800"}, "half a character"),
    "a caption for a picture": ({"source": None, "input": "a red cat"}, "'input' is a caption here"),
    "a list": ({"source": ["0.png"]}, "expected a file's name"),
}


@pytest.fixture
def traps(rows):
    Image.new("RGB", (8, 8)).save("a/lone.png")
    Path("a/text.png").write_text("hello")
    Path("a/cut.png").write_bytes(Path("a/0.png").read_bytes()[:300])
    return rows


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_row_is_named_before_anything_is_written(traps, capsys, name):
    change, said = BROKEN[name]
    write_table([*traps[:2], traps[2] | change, *traps[3:]])
    assert call(import_pairs, *TABLE) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("minip2p: error: t.jsonl, line 3: ") and said in line and "--skip-broken" in line
    assert not Path("out").exists()


def test_all_broken_rows_are_named_and_the_others_imported(traps, capsys):
    changes = [change for change, _ in BROKEN.values()]
    write_table([*traps, *(traps[0] | change for change in changes), traps[0] | {"edit": "again"}])
    with open("t.jsonl", "a") as file:
        file.write('{"source": \n')
    assert call(import_pairs, *TABLE) == 2
    assert f"{len(BROKEN)} more of {COUNT + len(BROKEN) + 2} are broken" in capsys.readouterr().err.splitlines()[-1]
    assert call(import_pairs, *TABLE, "--skip-broken") == 0
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if "skipped:" in line]
    for (_, said), line, number in zip(BROKEN.values(), lines, range(COUNT + 1, 99)):
        assert f"t.jsonl, line {number}: " in line and said in line
    assert len(lines) == len(BROKEN) + 1 and "not JSON" in lines[-1]
    assert f"{COUNT + 1} pairs; {len(BROKEN) + 1} broken rows left out" in printed.out
    assert len(open_edits("out")) == COUNT + 1


def test_missing_and_ambiguous_names_are_errors(rows, capsys):
    Image.new("RGB", (8, 8)).save("b/9.png")
    Image.new("RGB", (8, 8)).save("b/0.png")
    assert call(import_pairs, *OWN, "--edit", "x") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "0: which target image in b, 0.jpg or 0.png?; 1 more of 5" in line


@pytest.mark.parametrize(
    "words, said",
    [
        (["--output", "out"], "missing --source DIR"),
        (["--source", "a", "--output", "out"], "missing the folder of target images"),
        ([*OWN], "missing the instruction"),
        (["--source", "a", "--target", "a", "--edit", "x", "--output", "out"], "one folder"),
        (["--source", "no", "--target", "b", "--edit", "x", "--output", "out"], "source no: no such folder"),
        ([*OWN, "--table", "no.jsonl"], "no.jsonl: no such file"),
        ([*OWN, "--table", "empty.jsonl"], "empty.jsonl is empty"),
        ([*OWN, "--table", "a/0.png"], "unknown ending '.png'; expected one of .jsonl"),
        ([*OWN, "--data", "a"], "choose one"),
        ([*TABLE, "--part", "dev"], "--part goes with --data"),
        (["--data", "a", "--output", "out"], "no known set of edit pairs"),
        ([*TABLE[:4], "--table", "t.jsonl", "--output", "t.jsonl/out"], "is a file, not a directory"),
    ],
)
def test_errors_are_one_line_and_nothing_is_written(rows, capsys, words, said):
    Path("empty.jsonl").write_text("\n\n")
    assert call(import_pairs, *words) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("minip2p: error: ") and said in line
    assert not Path("out").exists()


def test_a_full_disk_leaves_no_partial_pair(rows, monkeypatch, capsys):
    real = Path.write_bytes

    def full(path, data):
        if path.parent.name.startswith(".0000002") and path.suffix == ".jpg":
            raise OSError(28, "No space left on device")
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert call(import_pairs, *TABLE) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "0000002" in line and "no space left on device" in line
    assert sorted(os.listdir("out")) == ["0000000", "0000001", "run.json"]


# Checking


def report_of(out: str) -> dict[str, str]:
    """The lines of the report, by name."""
    return {line[2:].split("  ")[0]: line.strip().split("  ")[-1].strip() for line in out.splitlines()[1:]}


def test_a_whole_set_is_reported_and_drawn(rows, capsys):
    assert call(import_pairs, *TABLE) == 0
    capsys.readouterr()
    assert call(check, "out", "--output", "sheet.png", "--number", "3") == 0
    found = report_of(capsys.readouterr().out)
    assert (found["pairs"], found["broken"], found["sizes"], found["cut by CLIP"]) == ("4", "none", "32x32 (4)", "none")
    assert found["with captions"] == "4"
    lengths = sorted(len(row["edit"].split()) for row in rows)
    assert found["words"].startswith(f"{lengths[0]} to {lengths[-1]}, median {lengths[2]} ")
    sheet = Image.open("sheet.png")
    assert (
        sheet.mode == "RGB" and sheet.width > 3 * 2 * contact_sheet.CELL and len(set(sheet.convert("L").tobytes())) > 20
    )


def test_findings_are_counted_and_named(rows, capsys):
    """A repeat, two instructions for the same images, equal images, images of two sizes, and a long instruction."""
    Image.new("RGB", (32, 32), "red").save("a/red.png")
    Image.new("RGB", (32, 32), "red").save("b/red.png")
    Image.new("RGB", (16, 8), "red").save("b/small.png")
    long = " ".join(f"and a cat {i}" for i in range(40))
    extra = [
        {"source": "red.png", "target": "red.png", "edit": long},
        {"source": "red.png", "target": "small.png", "edit": "smaller"},
    ]
    write_table([*rows, rows[0], rows[0] | {"edit": "in other words"}, *extra])
    assert call(import_pairs, *TABLE) == 0
    capsys.readouterr()
    assert call(check, "out") == 0
    found = report_of(capsys.readouterr().out)
    keys = [text.name for text in open_edits("out").texts()]
    assert found["repeated pairs"] == f"1: {keys[4]} (as {keys[0]})"
    assert found["repeated images"] == f"1, with other instructions: {keys[5]} (as {keys[0]})"
    assert found["equal images"] == f"1: {keys[6]}" and found["cut by CLIP"] == f"1: {keys[6]}"
    assert found["unequal sizes"] == f"1: {keys[7]} (32x32 and 16x8)"
    read, lost = found["the longest"].split("not read: ")
    assert "and a cat" in read and lost and long.replace(" ", "").find(lost.replace(" ", "")[:20]) > 0


def test_broken_pairs_are_named_and_the_exit_status_is_one(rows, capsys):
    assert call(import_pairs, *TABLE) == 0
    seeds = dict(json.loads(Path("out/seeds.json").read_text()))
    Path(f"out/0000001/{seeds['0000001'][0]}_1.jpg").unlink()
    Path("out/0000002/prompt.json").write_text("{")
    capsys.readouterr()
    assert call(check, "out", "--output", "sheet.png") == 1
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if "broken:" in line]
    assert len(lines) == 2 and "0000001" in lines[0] and "no such file" in lines[0] and "0000002" in lines[1]
    assert report_of(out)["broken"] == "2, named above" and Path("sheet.png").exists()


@pytest.mark.parametrize(
    "words, said",
    [
        (["no"], "no: no such file or folder"),
        (["a"], "no known set of edit pairs"),
        (["a", "--output", "sheet.doc"], "ends in .png"),
        (["a", "--number", "0"], "number 0"),
        ([], "missing"),
    ],
)
def test_errors_of_check_are_one_line(rows, capsys, words, said):
    assert call(check, *words) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("minip2p: error: ") and said in line


def test_sheets_of_odd_pairs(rows):
    """Long words, no words, other scripts, images of very different shapes."""
    from minip2p.data.edits import EditPair

    shapes = [(300, 20), (20, 300), (8, 8), (500, 500)]
    words = ["x" * 3000, "", "мир 世界 ☃ " * 60, "make it night"]
    pairs = [
        EditPair(source=Image.new("RGB", size), target=Image.new("RGB", size[::-1]), instruction=text, name=text)
        for size, text in zip(shapes, words)
    ]
    for number in (1, 2, 4):
        sheet = figures.pair_sheet("pairs", pairs[:number])
        assert sheet.width <= 2000 and sheet.height <= 2000
        data = io.BytesIO()
        sheet.save(data, "PNG")


def test_clip_similarities_are_those_of_the_metrics(rows, capsys, monkeypatch):
    import minip2p
    from minip2p.cli import check as verb
    from minip2p.evaluation.metrics import similarities

    assert call(import_pairs, *TABLE) == 0
    capsys.readouterr()
    monkeypatch.setattr(verb, "BATCH", 3)
    assert call(verb, "out", "--clip", "tiny", "--device", "cpu") == 0
    found, pairs = report_of(capsys.readouterr().out), list(open_edits("out"))
    columns = [[getattr(pair, name) for pair in pairs] for name in ("source", "target", "input", "output")]
    for name, values in vars(similarities(minip2p.load_clip(), *columns)).items():
        row = found[f"CLIP {name.replace('_', ' ')}"]
        assert row.startswith(f"mean {float(values.mean()):.3f}, ") and verb.spread(values.tolist(), ".3f") in row
