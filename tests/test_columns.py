"""Columns of any name, and Hugging Face's folders of images read as they are."""

import io
import json
import tarfile

import pytest
from helpers_training import FEW
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from minip2p.cli import main
from minip2p.data.edits import Columns, EditsError, open_edits
from minip2p.data.layouts.common import NAMES, plain
from minip2p.data.layouts.table import open_table

ROWS = [{"do": f"make it {i}", "cap": f"caption {i}", "cap two": f"after {i}"} for i in range(3)]
NAMED = ["source=one", "target=two", "edit=do", "input=cap", "output=cap two"]


def picture(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (40 * number, 0, 0)).save(file, "PNG")
    return file.getvalue()


def write_folder(folder):
    """Hugging Face's layout, with a part for training and one of a single pair for validation."""
    for part, rows in (("train", ROWS), ("val", ROWS[:1])):
        (folder / part).mkdir(parents=True)
        lines = [row | {"one_file_name": f"{i}a.png", "two_file_name": f"{i}b.png"} for i, row in enumerate(rows)]
        (folder / part / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
        for i in range(len(rows)):
            (folder / part / f"{i}a.png").write_bytes(picture(2 * i))
            (folder / part / f"{i}b.png").write_bytes(picture(2 * i + 1))
    return folder


def write_csv(folder):
    write_folder(folder)
    lines = [f"{i}a.png;{i}b.png;{row['do']};{row['cap']};{row['cap two']}" for i, row in enumerate(ROWS)]
    table = folder / "train/pairs.csv"
    table.write_text("\n".join(["one;two;do;cap;cap two", *lines]))
    return table


def write_tar(path, text="json"):
    with tarfile.open(path, "w") as tar:
        for i, row in enumerate(ROWS):
            texts = (
                {"json": json.dumps(row).encode()} if text == "json" else {"do.txt": row["do"].encode(), "txt": b"x"}
            )
            for name, data in ({"one.png": picture(2 * i), "two.png": picture(2 * i + 1)} | texts).items():
                member = tarfile.TarInfo(f"{i:03}.{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def write_parquet(path, **more):
    datasets = pytest.importorskip("datasets")
    images = {
        name: [{"bytes": picture(2 * i + k), "path": None} for i in range(3)] for k, name in enumerate(("one", "two"))
    }
    datasets.Dataset.from_dict(images | {name: [row[name] for row in ROWS] for name in ROWS[0]} | more).to_parquet(path)
    return path


def made(kind, tmp_path):
    if kind == "folder":
        return write_folder(tmp_path / "set")
    if kind == "csv":
        return write_csv(tmp_path / "set")
    return (write_tar if kind == "tar" else write_parquet)(tmp_path / f"set.{kind}")


@pytest.mark.parametrize("kind", ["folder", "csv", "tar", "parquet"])
def test_columns_of_any_name(kind, tmp_path):
    edits = open_edits(made(kind, tmp_path), columns=Columns.parse(NAMED))
    assert [(p.instruction, p.input, p.output) for p in edits] == [tuple(row.values()) for row in ROWS]
    for i, pair in enumerate(edits):
        assert [image.getpixel((0, 0))[0] for image in (pair.source, pair.target)] == [80 * i, 80 * i + 40]
        assert edits.size(i) == (8, 6)


@pytest.mark.parametrize("kind", ["folder", "csv", "tar", "parquet"])
@pytest.mark.parametrize("wrong", [*NAMES])
def test_a_wrong_name_is_one_line_with_the_names_that_are_there(kind, wrong, tmp_path):
    names = Columns.parse([*(word for word in NAMED if not word.startswith(wrong)), f"{wrong}=nowhere"])
    with pytest.raises(EditsError, match="nowhere.* for the .*; there are .*(one|do)") as found:
        open_edits(made(kind, tmp_path), columns=names)
    assert len(str(found.value).splitlines()) == 1


def test_a_text_file_of_a_tar_may_have_any_name(tmp_path):
    edits = open_edits(write_tar(tmp_path / "a.tar", "txt"), columns=Columns.parse(NAMED[:3]))
    assert [text.instruction for text in edits.texts()] == ["make it 0", "make it 1", "make it 2"]


def test_a_column_of_another_kind_is_refused(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", number=[1, 2, 3])
    for words, said in ((["edit=two"], "'two' for the edit holds no texts"), (["source=number"], "holds no images")):
        with pytest.raises(EditsError, match=said):
            open_edits(path, columns=Columns.parse(["source=one", "target=two", "edit=do"][len(words) :] + words))


def test_a_named_column_wins_over_a_known_one(tmp_path):
    """Of a table with two instructions and two sources, the ones that are named."""
    for name in "abc":
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    table = tmp_path / "table.csv"
    table.write_text("source,before,target,edit,rewritten\na.png,b.png,c.png,short,long\n")
    (row,) = open_table(table=table, columns=Columns(source="before", edit="rewritten")).rows
    assert row[0].instruction == "long" and [path.name for path in row[1]] == ["b.png", "c.png"]
    (row,) = open_table(table=table).rows
    assert row[0].instruction == "short" and [path.name for path in row[1]] == ["a.png", "c.png"]


@given(
    st.dictionaries(st.sampled_from([name for names in NAMES.values() for name in names]), st.integers(), min_size=1),
    st.data(),
)
def test_renaming_keeps_all_other_columns(row, data):
    """Of a named role, the named column and no other that the role is known by; of all others, every column."""
    role, name = data.draw(st.sampled_from([*NAMES])), data.draw(st.sampled_from([*row]))
    found = Columns(**{role: name}).rename(row, "here")
    assert found[role] == row[name]
    for each in row:
        kept = each not in NAMES[role] and each != name
        assert (each in found and found[each] == row[each]) if kept else each == role or each not in found
    assert Columns().rename(row, "here") == row and all(plain(each) == each for each in row)


def test_words_that_name_no_column():
    for words, said in ((["one"], "'one': expected ROLE=NAME"), (["sorce=a"], "unknown key 'sorce'; there are source")):
        with pytest.raises(ValueError, match=said):
            Columns.parse(words)


# Hugging Face's folders of images


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
@pytest.mark.parametrize("second", ["target_file_name", "edited_image_file_name", "output_file_name"])
def test_a_folder_of_images_is_read_as_it_is(second, ending, tmp_path):
    """`file_name`, as Hugging Face's library has it, is the source."""
    write_folder(tmp_path)
    (tmp_path / "train/metadata.jsonl").unlink()
    rows = [{"file_name": f"{i}a.png", second: f"{i}b.png", "edit": row["do"]} for i, row in enumerate(ROWS)]
    lines = map(json.dumps, rows) if ending == "jsonl" else [",".join(rows[0]), *(",".join(r.values()) for r in rows)]
    (tmp_path / f"train/metadata.{ending}").write_text("\n".join(lines))
    edits = open_edits(tmp_path)
    assert len(edits) == 3 and edits[2].instruction == "make it 2"
    assert [image.getpixel((0, 0))[0] for image in (edits[2].source, edits[2].target)] == [160, 200]


def test_parts_of_a_folder_of_images(tmp_path):
    names = Columns.parse(NAMED)
    write_folder(tmp_path / "a")
    lengths = {part: len(open_edits(tmp_path / "a", part=part, columns=names)) for part in (None, "train", "val")}
    assert lengths == {None: 3, "train": 3, "val": 1}
    assert len(open_edits(tmp_path / "a", part="validation", columns=names)) == 1
    with pytest.raises(EditsError, match="no part 'test'; there are train, val"):
        open_edits(tmp_path / "a", part="test", columns=names)
    (tmp_path / "a/train").rename(tmp_path / "a/other")
    assert len(open_edits(tmp_path / "a", columns=names)) == 1, "the only part"
    assert len(open_edits(tmp_path / "a/other", columns=names)) == 3


# Commands


@pytest.mark.slow
def test_a_set_of_other_names_is_checked_imported_precomputed_and_trained_on(tmp_path, editor, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "set")
    named = ["--columns", *NAMED]
    assert main(["check", "set", *named]) == 0 and "with captions    3" in capsys.readouterr().out
    assert main(["import", "--data", "set", *named, "--output", "new"]) == 0
    assert [text.instruction for text in open_edits("new").texts()] == [row["do"] for row in ROWS]
    size = ["--size", "32", "64", "--crops", "1", "--flip", "no", "--texts", "no"]
    assert main(["precompute", "--data", "set", *named, "--weights", str(editor), *size, "--output", "latents"]) == 0
    header = json.loads((tmp_path / "latents/precomputed.json").read_text())
    assert (header["size"], header["resize"], header["shape"]) == ([32, 64], [32, 36], [8, 8, 4])
    start = ["train", "editor", "--init-from", str(editor), "--device", "cpu", "--set", *FEW, "train.steps=1"]
    assert main([*start, "size=32,64", "--data", "latents", "--out", "one"]) == 0
    assert main([*start, "size=32,64", "--data", "set", *named, "--out", "two"]) == 0
    assert json.loads((tmp_path / "two/config.json").read_text())["columns"]["output"] == "cap two"
    assert main([*start, "size=64", "--data", "latents", "--out", "three"]) == 2
    assert "was precomputed at 32,64 pixels, not 64: --set size=32,64" in capsys.readouterr().err
    assert main([*start, "--data", "set", "--columns", "edit=nothing", "--out", "three"]) == 2
    assert "no column 'nothing'" in capsys.readouterr().err
    assert main([*start, "--data", "new", *named, "--out", "three"]) == 2
    assert "a set of layout 'folder' has none" in capsys.readouterr().err
