"""Sets as people have them, and hostile ones: read, or refused in one line, soon and in little memory."""

import errno
import gzip
import io
import json
import multiprocessing
import os
import random
import signal
import tarfile
import time
import tracemalloc
from pathlib import Path

import pytest
from conftest import contents
from PIL import Image

from minip2p.cli import main
from minip2p.data import import_pairs as library
from minip2p.data.edits import EditsError, open_edits
from minip2p.data.images import ImageError
from minip2p.data.import_pairs import import_pairs
from minip2p.data.latents import Latents
from minip2p.data.layouts.common import plain
from minip2p.datagen import clip_filter
from minip2p.datagen.plan import read_prompts
from minip2p.files import lock_folder

EDITS = ["make it 0", "make it 1", "make it 2"]


def picture(number: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (80 * number, 40, 200)).save(file, kind)
    return file.getvalue()


def put(path: Path, data: bytes | str | list | dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = data if isinstance(data, (bytes, str)) else json.dumps(data)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def write_folder(folder: Path, ending: str = "jpg", kind: str = "JPEG", seeds: object = None) -> Path:
    """Three prompts of one pair as the authors have them."""
    for i, edit in enumerate(EDITS):
        put(folder / f"{i:07}" / "prompt.json", {"input": f"caption {i}", "edit": edit, "output": "after"})
        for side in (0, 1):
            put(folder / f"{i:07}" / f"{12 + i}_{side}.{ending}", picture(i + side, kind))
    if seeds is not None:
        put(folder / "seeds.json", seeds)
    return folder


@pytest.fixture
def images(tmp_path) -> Path:
    """before/0.png ... and after/0.png ..."""
    for name, at in (("before", 0), ("after", 1)):
        for i in range(3):
            put(tmp_path / name / f"{i}.png", picture(i + at))
    return tmp_path


def check(path: Path, edits=EDITS) -> None:
    """That the set holds these pairs, whose source and target differ."""
    found = open_edits(path)
    assert [text.instruction for text in found.texts()] == edits
    for i, pair in enumerate(found):
        colours = [image.getpixel((0, 0))[0] for image in (pair.source, pair.target)]
        assert [round(colour / 80) for colour in colours] == [i, i + 1]


# The authors' folders


@pytest.mark.parametrize(
    "ending, kind",
    [("JPG", "JPEG"), ("JPEG", "JPEG"), ("Png", "PNG"), ("jfif", "JPEG"), ("bmp", "BMP"), ("TIF", "TIFF")],
)
@pytest.mark.parametrize("listed", [True, False])
def test_images_of_any_ending_in_small_or_capital_letters(tmp_path, ending, kind, listed):
    seeds = [[f"{i:07}", [12 + i]] for i in range(3)] if listed else None
    check(write_folder(tmp_path, ending, kind, seeds))


@pytest.mark.parametrize("seed", [str, float, int, " {} ".format])
def test_seeds_as_texts_and_as_numbers_of_any_kind(tmp_path, seed):
    check(write_folder(tmp_path, seeds=[[f"{i:07}", [seed(12 + i)]] for i in range(3)]))


def test_prompts_that_kept_nothing(tmp_path):
    """In the list of seeds, and in the authors' output, which has no scores of such a prompt."""
    check(write_folder(tmp_path, seeds=[["0000009", []], *([f"{i:07}", [12 + i]] for i in range(3)), ["0000010", []]]))
    score = dict.fromkeys(("clip_sim_0", "clip_sim_1", "clip_sim_dir", "clip_sim_image"), 0.9)
    for i, seed in enumerate((12, "13", 14.0)):
        put(tmp_path / f"{i:07}" / "metadata.jsonl", score | {"seed": seed, "p2p_threshold": 0.5, "cfg_scale": 9.0})
    put(tmp_path / "0000009" / "prompt.json", {"caption": "a", "edit": "b", "output": "c"})
    put(tmp_path / "0000010" / "prompt.json", {"caption": "a", "edit": "b", "output": "c"})
    put(tmp_path / "0000010" / "metadata.jsonl", "")
    with pytest.raises(ValueError, match="seeds.json is a list that minip2p filter did not make"):
        clip_filter.run(tmp_path)
    assert clip_filter.run(tmp_path, overwrite=True).prompts == 5
    assert json.loads((tmp_path / "seeds.json").read_text()) == [[f"{i:07}", [12 + i]] for i in range(3)]
    check(tmp_path)


@pytest.mark.parametrize("name", ["a b", "a[b]c", "[0-9]", "a#b", "50%20", "ünï 🏠", "a*b?", "-rf"])
def test_a_set_on_a_path_of_any_name(tmp_path, name, capsys):
    check(write_folder(tmp_path / name))
    assert main(["import", "--data", str(tmp_path / name), "--output", str(tmp_path / name / ".." / "new set")]) == 0
    assert len(open_edits(tmp_path / "new set")) == 3


# Tables


def lines(separator: str = ",", header=("source", "target", "edit"), end: str = "\n", at: str = "{}/{}.png") -> str:
    rows = [(at.format("before", i), at.format("after", i), edit) for i, edit in enumerate(EDITS)]
    return end.join(separator.join(row) for row in (header, *rows))


TABLES = {
    "semicolons.csv": lines(";"),
    "tabs.csv": lines("\t"),
    "tabs.tsv": lines("\t"),
    "bars.csv": lines("|"),
    "spaces.csv": lines(", ", end=" \n"),
    "windows.csv": lines(end="\r\n").encode("utf-8-sig"),
    "old mac.csv": lines(end="\r"),
    "excel.csv": ("sep=;\r\n" + lines(";", end="\r\n")).encode("utf-8-sig"),
    "excel.tsv": lines("\t", end="\r\n").encode("utf-16"),
    "capitals.csv": lines(header=("SOURCE", "Target", "Edit")),
    "padded.csv": lines(" ; ", ("Source ", " Target", "Edit Prompt ")),
    "other names.csv": lines(header=("Input Image", "edited-image", "editInstruction")),
    "of captions.csv": lines(header=("input", "output", "instruction")),
    "files.csv": lines(header=("source_file_name", "target_path", "edit")),
    "backslashes.csv": lines(at="{}\\{}.png"),
    "no endings.csv": lines(at="{}/{}"),
    "unnamed.csv": ("\n" + lines()).replace("\n", "\n0,").replace("0,source", ",source").lstrip("\n"),
    "blank.csv": "\n\n" + lines() + "\n,,\n\n",
    "empty cells.csv": lines(header=("source", "target", "edit,input")).replace("\n", ",\n").replace(",\n", "\n", 1)
    + ",",
    "quoted.csv": lines().replace("make it 1", '"make it\r\n1"'),
    "text.csv": lines(header=("source_image", "target", "edit"))
    .replace("\n", "\nlaion,")
    .replace("source_", "source,source_"),
    "list.json": [{"Source": f"before/{i}.png", "Target": f"after/{i}.png", "edit": e} for i, e in enumerate(EDITS)],
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_any_make(images, name):
    path = put(images / name, TABLES[name])
    check(path, [edit if name != "quoted.csv" else edit.replace("it 1", "it\r\n1") for edit in EDITS])


@pytest.mark.parametrize(
    "name",
    ["Source Image", "sourceImage", "source-image ", "SOURCE_IMAGE", "source_image_file_name", "source image path"],
)
def test_names_of_one_field(name):
    assert plain(name) == "source_image"


FOLDERS = {
    "metadata.jsonl": "".join(
        json.dumps({"input_image_file_name": f"before/{i}.png", "edited_image_file_name": f"after/{i}.png", "edit": e})
        + "\n"
        for i, e in enumerate(EDITS)
    ),
    "metadata.csv": lines(header=("file_name", "edited_image", "edit_prompt")),
    "train/metadata.jsonl": "".join(
        json.dumps({"file_name": f"../before/{i}.png", "target": f"../after/{i}.png", "source": "laion", "edit": e})
        + "\n"
        for i, e in enumerate(EDITS)
    ),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_of_images_with_metadata(images, name):
    put(images / name, FOLDERS[name])
    check(images)


def test_duplicate_rows_are_pairs_and_check_names_them(images, capsys):
    table = put(images / "t.csv", lines() + "\nbefore/0.png,after/0.png,make it 0")
    assert len(open_edits(table)) == 4 and main(["check", str(table)]) == 0
    assert f"1: {table}, line 5 (as {table}, line 2)" in capsys.readouterr().out
    assert main(["import", "--table", str(table), "--output", str(images / "out")]) == 0
    assert len(open_edits(images / "out")) == 4


@pytest.mark.parametrize(
    "name, data, said",
    [
        ("t.csv", lines(";", ("before it", "after it", "text")), "'before it', 'after it', 'text', separated by ';'"),
        (
            "t.csv",
            lines("\t", ("source", "target", "words")),
            "there are 'source', 'target', 'words', separated by '\\t'",
        ),
        (
            "t.csv",
            lines().split("\n", 1)[1],
            "'before/0.png', 'after/0.png', 'make it 0', separated by ','; all 2 rows",
        ),
        ("t.csv", lines("#"), "there are 'source#target#edit', separated by ','"),
        (
            "t.jsonl",
            '{"picture_a": "before/0.png"}',
            "line 1: neither 'source' nor 'target' names an image; there are 'pict",
        ),
        ("t.json", [{"text": "a"}], "t.json, entry 1: neither 'source' nor 'target' names an image; there are 'text'"),
        ("t.csv", "source,target,edit,input\nbefore/0.png,after/0.png,x", "3 values, where the header has 4 names"),
        ("t.csv", lines() + ",make it red, and blue", None),
        ("t.csv", "source,Source,edit\na,b,c", "two columns are called 'source'"),
        ("t.csv", "source,target,edit\nbefore/0.png,before/0.png,x", "source and target are one file"),
        ("t.csv", lines().replace("it 0", "it é").encode("latin-1"), "is not UTF-8 text"),
        ("t.csv", "source,target,edit\n", "t.csv is empty; expected rows like"),
    ],
)
def test_a_table_that_cannot_be_read_names_its_columns(images, name, data, said):
    path = put(images / name, data)
    if said is None:
        with pytest.raises(EditsError, match="line 4: 5 values, where the header has 3 names, separated by ','"):
            open_edits(path)[2]
        return
    with pytest.raises(EditsError) as error:
        open_edits(path)
    assert said in str(error.value) and str(error.value).isprintable() and len(str(error.value)) < 700


def test_prompts_and_captions_are_read_from_the_same_kinds_of_tables(tmp_path):
    expected = [{"input": "a", "edit": "b", "output": "c", "by": "me", "id": 0}]
    for name, text in (
        ("a.csv", "Original Prompt ;edit_prompt;Edited Prompt;by;id\na;b;c;me;7"),
        ("a.tsv", "caption\tedit\toutput\tby\tid\r\na\tb\tc\tme\t7.0"[:-2]),
        ("a.jsonl", '{"input": "a", "edit": "b", "output": "c", "by": "me", "id": 7.0}'),
        ("a.json", '[{"original_prompt": "a", "edit": "b", "output": "c", "by": "me", "id": "7"}]'),
    ):
        assert read_prompts(put(tmp_path / name, text)) == expected, name


# Parquet


@pytest.fixture
def parquet(tmp_path, monkeypatch):
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    library.disable_progress_bars()
    arrow, writer = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def write(path: Path, **columns) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer.write_table(arrow.table(columns), path, use_dictionary=False)
        return path

    return write


def cells(at: int) -> list[dict]:
    return [{"bytes": picture(i + at), "path": None} for i in range(3)]


@pytest.mark.slow
def test_columns_of_parquet_are_known_by_what_they_hold(tmp_path, parquet):
    two, text = (cells(0), cells(1)), ["laion"] * 3
    names = {
        "hidden": {"source": text, "source_image": two[0], "target_image": two[1], "target": text, "edit": EDITS},
        "captions": {"input": two[0], "output": two[1], "instruction": EDITS},
        "capitals": {"Source Image": two[0], "Edited Image": two[1], "Edit Prompt": EDITS},
    }
    for name, columns in names.items():
        check(parquet(tmp_path / name / "a.parquet", **columns).parent)


@pytest.mark.slow
def test_paths_in_parquet_are_relative_to_it_in_folders_of_any_name(images, parquet):
    folder = images.rename(images.with_name("a [b] *c"))
    edits = {"edit": EDITS}
    for name, written in {
        "a.parquet": "before/{}.png after/{}.png",
        "data/train-0.parquet": "../before/{}.png ..\\after\\{}.png",
        "data/deep/b.parquet": "before/{}.png after/{}.png",
    }.items():
        source, target = ([part.format(i) for i in range(3)] for part in written.split())
        path = parquet(folder / name, source_image=source, target_image=target, **edits)
        check(folder if "deep" in name else path)
        path.unlink()


@pytest.mark.slow
def test_parquet_that_claims_more_than_it_holds(tmp_path, parquet):
    path = parquet(tmp_path / "a.parquet", source=cells(0), target=cells(1), edit=["a" * 30_000_000] * 3)
    data = path.read_bytes()
    for broken, said in (
        (data, "claims to unpack to"),
        (data[:1000], "magic bytes not found"),
        (data[:-100] + bytes(92) + data[-8:], "OSError|ArrowInvalid"),
        (data[:-8] + b"\xff\xff\xff\x7fPAR1", "OSError|ArrowInvalid"),
    ):
        path.write_bytes(broken)
        refused(lambda: open_edits(path), said)
    parquet(path, source=[], target=[], edit=[])
    refused(lambda: open_edits(path), "a set of no pairs")


def repeated(value: bytes, n: int, kind: str = "binary"):
    arrow = pytest.importorskip("pyarrow")
    values = arrow.array([value], kind)
    return arrow.DictionaryArray.from_arrays(arrow.array([0] * n, arrow.int32()), values)


NOISE = random.Random(0).randbytes(3_000_000)
PAGE, PLAIN = {"dictionary_pagesize_limit": 1 << 30}, {"use_dictionary": False}
DELTA = PLAIN | {"column_encoding": {"source": "DELTA_BYTE_ARRAY"}}
BOMBS = {
    "a value 600 times": (lambda pa: repeated(NOISE, 600), PAGE),
    "in a struct": (lambda pa: pa.StructArray.from_arrays([repeated(NOISE, 600)], ["bytes"]), PAGE),
    "texts 600 times": (lambda pa: repeated("x" * 1_000_000, 600, "string"), PAGE),
    "beginnings that are repeated": (lambda pa: [b"a" * 1_000_000 + str(i).encode() for i in range(100)], DELTA),
    "zstd": (lambda pa: [bytes(70_000_000)], PLAIN | {"compression": "zstd"}),
    "snappy": (lambda pa: [bytes(70_000_000)], PLAIN),
    "a list of nothings": (lambda pa: pa.array([[None] * 8_000_000], pa.list_(pa.int64())), {}),
    "lists in lists": (lambda pa: pa.array([[[]] * 8_000_000], pa.list_(pa.list_(pa.string()))), {}),
    "rows of nothing": (lambda pa: pa.nulls(1_000_000, pa.string()), {}),
    "rows of one text": (lambda pa: repeated(b"make it night", 1_000_000), {}),
}
"""kind -> a column, and options of the writer, of a small file that unpacks to more than 64 MB"""


@pytest.mark.parametrize("kind", BOMBS)
def test_a_small_parquet_file_cannot_ask_for_gigabytes(tmp_path, parquet, kind):
    """Nor by a footer that lies: sizes are read from the pages."""
    arrow, writer = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    column, options = BOMBS[kind]
    writer.write_table(arrow.table({"source": column(arrow)}), tmp_path / "a.parquet", **options)
    before = arrow.total_allocated_bytes()
    refused(lambda: open_edits(tmp_path / "a.parquet"), "claims to (unpack to|have) .*: it is damaged, or no images")
    assert arrow.total_allocated_bytes() - before < 100 << 20


def test_what_a_parquet_file_unpacks_to_is_counted_where_it_must_be(tmp_path, parquet):
    """Many texts that share a dictionary: its size times their number is too much, and what they are is not."""
    from minip2p.data.layouts.huggingface import _rows_in

    arrow, writer = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    texts = [f"make number {i % 5000} of all the numbers" for i in range(50_000)]
    for version in ("1.0", "2.0"):
        writer.write_table(arrow.table({"edit": texts}), tmp_path / "a.parquet", data_page_version=version)
        assert _rows_in(tmp_path / "a.parquet") == 50_000
        for cut in (4, 40, 400):
            data = (tmp_path / "a.parquet").read_bytes()
            (tmp_path / "b.parquet").write_bytes(data[:cut] + bytes(60) + data[cut + 60 :])
            try:
                _rows_in(tmp_path / "b.parquet")
            except EditsError as error:
                assert str(error).isprintable()


# Hostile sets


def refused(call, said: str) -> None:
    """That it raises one printable line with these words, within 2 s and 300 MB of Python's memory."""
    started = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises((EditsError, ImageError), match=said) as error:
            call()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.monotonic() - started < 2 and peak < 300 << 20
    assert str(error.value).isprintable() and len(str(error.value)) < 700


@pytest.fixture(autouse=True)
def no_hang():
    """A pipe or a device that is opened would end never."""
    signal.alarm(60)
    yield
    signal.alarm(0)


@pytest.mark.parametrize(
    "seeds, said",
    [
        ([["0000000", [12, *range(3000), "1" * 1_000_000]]], "'1111.* cannot be the name of a file in the set"),
        ([["0000000", ["1\0"]]], "cannot be the name"),
        ([["../../etc", [1]]], "'../../etc' cannot be the name"),
        ([["/etc", [1]]], "'/etc' cannot be the name"),
        ([["0000000", ["\x1b[31m"]]], r"'\\x1b\[31m' cannot be the name"),
        ([["0000000", [1.5]]], "expected"),
        ([["0000000", [[1]]]], "expected"),
        ([["0000000", None]], "expected"),
        ([["", [1]]], "cannot be the name"),
        (b'[["\\ud800", [1]]]', "not JSON"),
        (b"[" * 300_000, "not JSON"),
        (b"[" + b"1," * 20_000_000, "has 40,000,001 bytes; expected at most"),
    ],
)
def test_hostile_lists_of_seeds(tmp_path, seeds, said):
    path = put(write_folder(tmp_path) / "seeds.json", seeds)
    refused(lambda: open_edits(tmp_path), said)
    assert path.exists()


def test_one_long_seed_among_many_takes_no_memory(tmp_path):
    put(tmp_path / "0000000" / "prompt.json", {"edit": "x"})
    put(tmp_path / "seeds.json", [["0000000", ["1" * 200, *range(30_000)]]])
    tracemalloc.start()
    assert len(open_edits(tmp_path)) == 30_001
    assert tracemalloc.get_traced_memory()[1] < 30 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "make", [lambda path: os.symlink("/dev/zero", path), os.mkfifo, lambda path: os.symlink(path, path)]
)
@pytest.mark.parametrize("name", ["1_0.jpg", "prompt.json", "seeds.json", "a.tar", "a.jsonl", "a.csv", "a.parquet"])
def test_devices_pipes_and_links_to_themselves_are_not_opened(tmp_path, make, name):
    if name in ("1_0.jpg", "prompt.json"):
        put(tmp_path / "0000000" / "1_1.jpg", picture(1))
        put(tmp_path / "0000000" / ("prompt.json" if name == "1_0.jpg" else "1_0.jpg"), '{"edit": "x"}')
        put(tmp_path / "seeds.json", [["0000000", [1]]])
        make(tmp_path / "0000000" / name)
    else:
        write_folder(tmp_path) if name == "seeds.json" else None
        make(tmp_path / name)
    path = tmp_path if name in ("1_0.jpg", "prompt.json", "seeds.json", "a.tar") else tmp_path / name
    refused(lambda: open_edits(path)[0], "device|pipe|symbolic links|no such file")


def tar(members: list[tuple[tarfile.TarInfo, bytes | None]]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as opened:
        for member, data in members:
            member.size = len(data or b"")
            opened.addfile(member, None if data is None else io.BytesIO(data))
    return file.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


def pair_in_tar(key: str) -> list[tuple[tarfile.TarInfo, bytes]]:
    files = ((".source.png", picture(0)), (".target.png", picture(1)), (".json", b'{"edit": "x"}'))
    return [(member(key + name), data) for name, data in files]


def test_links_devices_and_folders_in_a_tar_are_no_files_and_nothing_is_written(tmp_path):
    others = [
        (member("2.source.png", tarfile.SYMTYPE, "/etc/passwd"), None),
        (member("2.target.png", tarfile.LNKTYPE, "1.target.png"), None),
        (member("3.source.png", tarfile.CHRTYPE), None),
        (member("4.source.png", tarfile.FIFOTYPE), None),
        (member("5", tarfile.DIRTYPE), None),
    ]
    put(tmp_path / "set" / "a.tar", tar([*pair_in_tar("1"), *others, *pair_in_tar("../../x"), *pair_in_tar("/y")]))
    edits = open_edits(tmp_path / "set")
    assert [edits.key(i) for i in range(len(edits))] == ["1", "../../x", "/y"]
    assert import_pairs(edits, tmp_path / "out").pairs == 3
    assert {path.name for path in tmp_path.iterdir()} == {"set", "out"}


def with_size(size: bytes) -> bytes:
    """A tar whose first header claims this size."""
    data = bytearray(tar(pair_in_tar("1")))
    data[124:136] = size
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


def extended(text: bytes, times: int = 1, size: int | None = None) -> bytes:
    """A tar that begins with extended headers."""
    header = member("x", tarfile.XHDTYPE)
    header.size = len(text) if size is None else size
    return (header.tobuf(tarfile.USTAR_FORMAT) + text.ljust(512, b"\0")) * times + tar(pair_in_tar("1"))


@pytest.mark.parametrize(
    "data",
    [
        with_size(b"\xff" * 12),
        with_size(b"\xff" + (-1536).to_bytes(11, "big", signed=True)),
        with_size(b"\xff" + (-512).to_bytes(11, "big", signed=True)),
        with_size(b"\x80" + (2**62).to_bytes(11, "big")),
        with_size(b"77777777777\0"),
        extended(b"16 size=-100000\n"),
        extended(b"999999 size=1\n"),
        extended(b"11 a=b...\n", times=20_000),
        extended(b"", size=8**11 - 1),
        gzip.compress(tar(pair_in_tar("1"))),
        tar(pair_in_tar("1"))[:700],
    ],
    ids=range(11),
)
def test_tars_whose_headers_lie(tmp_path, data):
    put(tmp_path / "a.tar", data)
    refused(lambda: open_edits(tmp_path)[0].source.load(), "a.tar")


@pytest.mark.parametrize(
    "name, data, said",
    [
        ("a.jsonl", b'{"source": "' + b"a" * 100_000_000, "line 1 has more than 1,048,576 characters"),
        ("a.jsonl", b'{"source": ' + b"[" * 500_000, "line 1: not JSON"),
        ("a.jsonl", b'{"source": ' + b"1" * 500_000 + b"}", "line 1: not JSON"),
        ("a.jsonl", b'{"source": "a\\u0000.png", "edit": "x"}', "line 1: .*null"),
        ("a.jsonl", b'{"source": "\\ud800.png", "edit": "x"}', r"line 1: .*\\ud800"),
        ("a.jsonl", json.dumps({"source": "a" * 5000 + ".png", "edit": "x"}).encode(), "file name too long"),
        (
            "a.jsonl",
            b'{"source": "before/0.png", "target": "after/0.png", "edit": "\\ud800"}',
            "holds half a character",
        ),
        ("a.csv", b"source,target,edit\na.png,b.png," + b"x" * 10_000_000, "line 2 has more than"),
        ("a.csv", b'source,target,edit\na.png,b.png,"' + b"x\n" * 1_000_000, "field larger than field limit"),
        ("a.csv", b"source,target,edit\n\x1b[31m.png,b.png,x", r"\\x1b\[31m\.png: no such file"),
        ("a.csv", b"\xff\xfea", "is not UTF-8 text"),
        ("a.csv", bytes(100_000), "a.csv"),
        ("a.json", b"[" * 100_000, "a.json: not JSON"),
        ("metadata.jsonl", b'{"file_name": "/dev/zero", "target": "/dev/zero", "edit": "x"}', "device|no .*image"),
    ],
    ids=range(14),
)
def test_hostile_tables(images, name, data, said):
    path = put(images / name, data)
    refused(lambda: open_edits(path), said)


def test_files_and_texts_of_any_size(tmp_path):
    """Sparse files of 40 GB, in a folder and in a tar, and texts of megabytes."""
    write_folder(tmp_path / "a")
    for name in ("0000000/12_0.jpg", "0000001/prompt.json"):
        with open(tmp_path / "a" / name, "wb") as file:
            file.truncate(40 << 30)
    put(tmp_path / "a" / "0000002" / "prompt.json", {"edit": "x" * 5_000_000})
    edits = open_edits(tmp_path / "a")
    for i, said in enumerate(("12_0.jpg has 42,949", "prompt.json has 42,949", "'edit' has 5,000,000 characters")):
        refused(lambda i=i: edits[i], said)
    with open(put(tmp_path / "b" / "a.tar", with_size(b"\x80" + (40 << 30).to_bytes(11, "big"))), "r+b") as file:
        file.truncate(41 << 30)
    refused(lambda: open_edits(tmp_path / "b").files(0), "source image of 1 has 42,949,672,960 bytes|a.tar")


def test_hostile_names_in_magicbrush(tmp_path):
    for name in ("../../etc/passwd", "/etc/passwd", "7\0", "x" * 5000):
        turn = {"input": name, "output": "7-output1.png", "instruction": "x"}
        put(tmp_path / "train" / "edit_turns.json", [turn])
        refused(lambda: open_edits(tmp_path), "edit_turns.json, entry 0: .*cannot be the name of a file in the set")


def test_sets_that_are_empty_or_of_one_pair_or_full_of_loops(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    loops = tmp_path / "loops"
    loops.mkdir()
    os.symlink(loops, loops / "self")
    os.symlink("b", loops / "a")
    os.symlink("a", loops / "b")
    for path in ("empty", "loops"):
        refused(lambda path=path: open_edits(tmp_path / path), "no known set of edit pairs")
    put(loops / "0000000" / "prompt.json", {"edit": "x"})
    for side in (0, 1):
        put(loops / "0000000" / f"1_{side}.png", picture(side))
    assert len(open_edits(loops)) == 1 and main(["check", str(loops)]) == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_named(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "0000001" / "13_0.jpg").chmod(0)
    refused(lambda: open_edits(tmp_path)[1], "13_0.jpg: permission denied")


HEADER = {"size": 32, "crops": 1, "flips": False, "vae": "a", "data": "b", "shape": [4, 4, 4], "pairs": 1, "unit": 1}


@pytest.mark.parametrize(
    "change, said",
    [
        ({"pairs": 1_000_000_000}, "pairs = 1000000000: expected at most"),
        ({"pairs": 90_000_000}, "90,000,000 of 90,000,000 tars are missing"),
        ({"pairs": -1}, "pairs = -1: expected at least 1"),
        ({"unit": 0}, "unit = 0: expected at least 1"),
        ({"pairs": "5"}, "pairs = '5': expected a whole number"),
        ({"crops": None}, "crops = None: expected a whole number"),
        ({"flips": 7}, "flips = 7: expected true or false"),
        ({"shape": [4, 4]}, "shape"),
        ({"shape": [2**40, 4, 4]}, "expected at most"),
        ({"size": 0}, "size = 0: expected at least 1"),
    ],
)
def test_hostile_headers_of_latents(tmp_path, change, said):
    put(tmp_path / "precomputed.json", HEADER | change)
    refused(lambda: Latents.open(tmp_path), f"precomputed.json: .*{said}.*precompute the set again|{said}; run")


# Two at once, and killed


def test_an_import_into_a_folder_in_use_says_so(tmp_path, capsys):
    data, out = str(write_folder(tmp_path / "data")), tmp_path / "out"
    with lock_folder(out):
        assert main(["import", "--data", data, "--output", str(out)]) == 2
    assert f"{out}: another process is writing in it; wait for it" in capsys.readouterr().err
    assert not out.exists()
    assert main(["import", "--data", data, "--output", str(out)]) == 0


@pytest.mark.slow
def test_an_import_that_is_killed_between_any_two_files_ends_the_same(tmp_path):
    """Killed before or after each rename and in the middle of each file, the same command makes the same bytes, and
    nothing else is left."""
    edits = open_edits(write_folder(tmp_path / "data", "png", "PNG"))
    import_pairs(edits, tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    left = 0

    def fatal(count: int, out: Path):
        calls, rename, write = iter(range(10**6)), os.replace, Path.write_bytes

        def kill_at(call):
            def killing(*given):
                now = next(calls)
                if now == count and call is write:
                    write(given[0], given[1][:9])
                if now == count:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*given)

            return killing

        os.replace, Path.write_bytes = kill_at(rename), kill_at(write)
        import_pairs(edits, out)

    processes = multiprocessing.get_context("fork")
    for count in range(100):
        out = tmp_path / str(count)
        process = processes.Process(target=fatal, args=(count, out))
        process.start()
        process.join()
        left += any(out.glob(".*"))
        assert process.exitcode in (0, -signal.SIGKILL)
        import_pairs(edits, out)
        assert contents(out) == whole and not list(out.rglob(".*"))
        if process.exitcode == 0:
            break
    assert count > 15 and left > 10


def test_a_full_disk_is_named_by_an_import(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "cannot be written: no space left on device", str(path))

    monkeypatch.setattr(library, "write_content", full)
    with pytest.raises(OSError, match="no space left"):
        import_pairs(open_edits(write_folder(tmp_path / "data")), tmp_path / "out")
    with lock_folder(tmp_path / "out"):  # the lock is free again
        assert set(os.listdir(tmp_path / "out")) == {"run.json"}


@pytest.mark.slow
def test_check_prints_the_means_of_clips_similarities(tmp_path, capsys):
    assert main(["check", str(write_folder(tmp_path)), "--clip", "tiny"]) == 0
    rows = [
        line for line in capsys.readouterr().out.splitlines() if "CLIP " in line and ": mean" in line or "mean " in line
    ]
    assert len(rows) == 4 and all(" mean 0." in row or " mean -0." in row or " mean 1." in row for row in rows), rows
