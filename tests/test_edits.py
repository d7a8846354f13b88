"""Edit data sets: every layout gives the same pairs, errors name the pair, and splits never change."""

import io
import json
import math
import pickle
import sys
import tarfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers_pairs import split_of, write_pair_unit
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from minip2p.data.edits import Edits, EditsError, EditText, open_edits
from minip2p.data.images import ImageError
from minip2p.data.inspect import Inspection, difference
from minip2p.data.layouts.table import open_table
from minip2p.data.layouts.webdataset import part_of
from minip2p.data.pair_files import AUTHORS, PairUnit, unit_name
from minip2p.data.split import split
from minip2p.tinyworld.scenes import render, sample_edit

COUNT = 5


def stored(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def made(count: int = COUNT) -> list[dict]:
    """Pairs of the tiny world: two pictures, an instruction and both captions."""
    rng = np.random.default_rng(0)
    edits = [sample_edit(rng) for _ in range(count)]
    return [
        {
            "source": render(e.source, 32),
            "target": render(e.target, 32),
            "edit": e.instruction,
            "input": e.source.caption,
            "output": e.target.caption,
        }
        for e in edits
    ]


PAIRS = made()
TEXTS = [{name: pair[name] for name in ("input", "edit", "output")} for pair in PAIRS]


def put(path, data) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())


def write_folder(folder, listed: bool = True, ending: str = "png") -> None:
    """A folder as the authors'; two pairs are of one prompt."""
    kind = {"png": "PNG", "jpg": "PNG", "webp": "WEBP"}[ending]
    options = {"lossless": True} if ending == "webp" else {}
    for i, pair in enumerate(PAIRS):
        at = folder / f"{i:07}"
        put(at / "prompt.json", TEXTS[i])
        for side, name in enumerate(("source", "target")):
            put(at / f"{100 + i}_{side}.{ending}", stored(pair[name], kind, **options))
    if listed:
        put(folder / "seeds.json", [[f"{i:07}", [100 + i]] for i in range(COUNT)])


def write_tar(path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def members(i: int, name: str) -> dict[str, bytes]:
    """A pair with one of the ways to name files; the last two have no captions."""
    source, target = (stored(PAIRS[i][side]) for side in ("source", "target"))
    text = json.dumps(TEXTS[i]).encode()
    ours = f"000000{i}-{100 + i}"
    return {
        "ours": {
            f"{ours}.source.jpg": source,
            f"{ours}.target.jpg": target,
            f"{ours}.json": text,
            f"__scores__/000000{i}.json": b"{}",
        },
        "numbers": {f"./{i:03}.0.jpg": source, f"./{i:03}.1.jpg": target, f"./{i:03}.json": text},
        "words": {f"s{i}/input.png": source, f"s{i}/output.png": target, f"s{i}/metadata.json": text},
        "authors": {f"d/{i:03}/7_0.jpg": source, f"d/{i:03}/7_1.jpg": target, f"d/{i:03}/prompt.json": text},
        "columns": {
            f"{i}.original_image.webp": source,
            f"{i}.edited_image.webp": target,
            f"{i}.mask.png": source,
            f"{i}.edit_prompt.txt": PAIRS[i]["edit"].encode(),
        },
        "plain": {f"{i}.input.JPG": source, f"{i}.output.JPG": target, f"{i}.txt": PAIRS[i]["edit"].encode()},
    }[name]


def check(edits: Edits, captions: bool = True) -> None:
    """That these are the PAIRS, pixel by pixel and word by word; and so in another process."""
    assert len(edits) == COUNT and len({edits.key(i) for i in range(COUNT)}) == COUNT
    assert [text.instruction for text in edits.texts()] == [pair["edit"] for pair in PAIRS]
    again = pickle.loads(pickle.dumps(edits))
    for i, pair in enumerate(PAIRS):
        for got in (edits[i], edits[i - COUNT], again[np.int64(i)]):
            assert got.source.mode == got.target.mode == "RGB"
            assert (np.asarray(got.source) == np.asarray(pair["source"])).all()
            assert (np.asarray(got.target) == np.asarray(pair["target"])).all()
            assert got.instruction == pair["edit"]
            assert (got.input, got.output) == ((pair["input"], pair["output"]) if captions else (None, None))
    with pytest.raises(IndexError):
        edits[COUNT]


# Layouts


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_the_authors_folder(tmp_path, listed, ending):
    write_folder(tmp_path, listed, ending)
    put(tmp_path / ".0000009.host.1.part" / "prompt.json", b"half")
    check(open_edits(tmp_path))


def test_seeds_json_lists_the_pairs_in_order_and_is_all_that_is_read(tmp_path):
    write_folder(tmp_path)
    put(tmp_path / "seeds.json", [["0000003", [103]], ["0000001", ["101"]], ["0000009", [1, 2]]])
    edits = open_edits(tmp_path)
    assert [edits[i].instruction for i in range(2)] == [PAIRS[3]["edit"], PAIRS[1]["edit"]]
    assert edits.key(0) == "0000003/103"
    with pytest.raises(EditsError, match=r"0000009.prompt\.json: no such file"):
        edits[2]


def test_both_names_of_the_caption_are_read(tmp_path):
    write_folder(tmp_path)
    put(tmp_path / "0000000" / "prompt.json", {"caption": " a cat ", "edit": "e", "output": ""})
    text = open_edits(tmp_path).text(0)
    assert (text.input, text.output, text.group) == ("a cat", None, "a cat")


@pytest.mark.parametrize("name", ["ours", "numbers", "words", "authors", "columns", "plain"])
def test_tars_by_any_of_the_common_names(tmp_path, name):
    write_tar(tmp_path / "a.tar", members(0, name) | members(1, name))
    write_tar(tmp_path / "b.tar", {k: v for i in (2, 3, 4) for k, v in members(i, name).items()})
    edits = open_edits(tmp_path)
    check(edits, captions=name not in ("columns", "plain"))
    assert len(open_edits(tmp_path / "a.tar")) == 2


def test_of_a_tar_only_the_requested_pair_is_read(tmp_path):
    """Random access by offsets: with all other bytes overwritten, the pair still reads the same."""
    write_tar(tmp_path / "a.tar", {k: v for i in range(COUNT) for k, v in members(i, "ours").items()})
    edits = open_edits(tmp_path)
    before, data = edits.files(2), bytearray((tmp_path / "a.tar").read_bytes())
    keep = bytearray(len(data))
    for offset, size in edits.layout.spans[2]:
        keep[offset : offset + size] = data[offset : offset + size]
    (tmp_path / "a.tar").write_bytes(keep)
    assert edits.files(2) == before and edits[2].instruction == PAIRS[2]["edit"]


@pytest.mark.parametrize(
    "name, place",
    [
        ("0.input.png", ("0", "source", "png")),
        ("train/0.1.jpg", ("train/0", "target", "jpg")),
        ("0000012-5.scores.json", None),
        ("a.mask.png", None),
        ("a.cls", None),
        ("a.b.c/d.before.jpg", ("a.b.c/d", "source", "jpg")),
    ],
)
def test_a_member_belongs_to_a_pair_by_its_name(name, place):
    assert part_of(name) == place


MAGIC = [
    {"input": "7-input.png", "mask": "7-mask1.png", "output": "7-output1.png", "instruction": "a"},
    {"input": "7-output1.png", "mask": "7-mask2.png", "output": "7-output2.png", "instruction": "b"},
    {"input": "8-input.png", "mask": "8-mask1.png", "output": "8-output1.png", "instruction": "c"},
]


def test_magicbrush_turns_of_one_picture_stay_together(tmp_path):
    put(tmp_path / "dev" / "edit_turns.json", MAGIC)
    put(tmp_path / "dev" / "global_descriptions.json", {"7": {"7-input.png": "x", "7-output1.png": "y"}})
    for i, name in enumerate(("7-input", "7-output1", "7-output2", "8-input", "8-output1")):
        put(tmp_path / "dev" / "images" / name[0] / f"{name}.png", stored(Image.new("RGB", (8, 8), (i, i, i))))
    edits = open_edits(tmp_path, part="dev")
    assert [(p.source.getpixel((0, 0))[0], p.target.getpixel((0, 0))[0]) for p in edits] == [(0, 1), (1, 2), (3, 4)]
    assert [(p.instruction, p.input, p.output) for p in edits] == [("a", "x", "y"), ("b", "y", None), ("c", None, None)]
    assert [text.group for text in edits.texts()] == ["7", "7", "8"]


def test_what_minip2p_pairs_writes(tmp_path):
    """Of the samples only the candidates are pairs."""
    names = [unit_name(i) for i in range(12, 17)]
    for i, (name, pair) in enumerate(zip(names, PAIRS)):
        rows = [dict.fromkeys(AUTHORS, 0.5) | {"sample": k, "seed": 10 * i + k, "candidate": k == 1} for k in range(3)]
        pictures = {10 * i + 1: (stored(pair["source"]), stored(pair["target"]))}
        write_pair_unit(tmp_path, PairUnit(name=name, prompt=TEXTS[i] | {"id": 12}, scores=rows, images=pictures))
    put(tmp_path / "run.json", {})
    check(open_edits(tmp_path))
    put(tmp_path / "seeds.json", [[names[1], [11]], [names[4], [41]]])
    assert [pair.instruction for pair in open_edits(tmp_path)] == [PAIRS[1]["edit"], PAIRS[4]["edit"]]


# Hugging Face's tables

COLUMNS = {
    "released": ("original_image", "edit_prompt", "edited_image", "original_prompt", "edited_prompt"),
    "bare": ("input_image", "edit_prompt", "edited_image"),
    "magicbrush": ("source_img", "instruction", "target_img"),
}


def columns(name: str, picture) -> dict[str, list]:
    """The PAIRS in a published set's columns; `picture` makes a cell of a picture."""
    names = COLUMNS[name]
    roles = dict(zip(names, ("source", "edit", "target", "input", "output")))
    table = {n: [picture(p[r]) if r in ("source", "target") else p[r] for p in PAIRS] for n, r in roles.items()}
    if name == "magicbrush":
        table |= {"img_id": ["1", "1", "2", "2", "3"], "turn_index": [1, 2, 1, 2, 1], "mask_img": table["source_img"]}
    return table


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    library.disable_progress_bars()
    return library


@pytest.mark.parametrize("name", COLUMNS)
def test_parquet_in_the_known_columns(tmp_path, datasets, name):
    """As the library writes it (pictures by type), and as plain structs of bytes and path."""
    cells = columns(name, lambda image: {"bytes": stored(image), "path": None})
    datasets.Dataset.from_dict(cells).to_parquet(tmp_path / "plain.parquet")
    typed = datasets.Dataset.from_dict(cells)
    for column in (COLUMNS[name][0], COLUMNS[name][2]):
        typed = typed.cast_column(column, datasets.Image())
    typed.to_parquet(tmp_path / "set" / "data" / "test-00000-of-00001.parquet")
    typed.to_parquet(tmp_path / "set" / "data" / "train-00000-of-00001.parquet")
    typed.save_to_disk(tmp_path / "saved")
    for path in ("plain.parquet", "set", "saved"):
        edits = open_edits(tmp_path / path)
        check(edits, captions=name == "released")
        if name == "magicbrush":
            assert [text.group for text in edits.texts()] == ["1", "1", "2", "2", "3"] and edits.key(1) == "1-2"
    with pytest.raises(EditsError, match="no part 'dev'; there are"):
        open_edits(tmp_path / "set", part="dev")


class FakeTable:
    """The part of `datasets.Dataset` that is used."""

    def __init__(self, cells):
        self.cells, self.features = cells, dict.fromkeys(cells)
        self.column_names = list(cells)

    def __len__(self):
        return len(next(iter(self.cells.values())))

    def __getitem__(self, i):
        return {name: column[i] for name, column in self.cells.items()}

    def select_columns(self, names):
        return FakeTable({name: self.cells[name] for name in names})


def fake(monkeypatch, cells):
    asked = []
    load = lambda *words, **options: asked.append((words, options)) or {"train": FakeTable(cells)}  # noqa: E731
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load, Image=Image.Image))
    return asked


@pytest.mark.parametrize("cell", ["bytes", "path", "struct"])
def test_a_hub_s_name_goes_to_the_library_and_pictures_come_in_any_form(tmp_path, monkeypatch, cell):
    monkeypatch.chdir(tmp_path)
    paths = iter(range(100))

    def path(image):
        name = tmp_path / f"{next(paths)}.png"
        image.save(name)
        return str(name)

    forms = {"bytes": stored, "path": path, "struct": lambda image: {"bytes": None, "path": path(image)}}
    asked = fake(monkeypatch, columns("released", forms[cell]))
    check(open_edits("someone/pairs"))
    assert asked == [(("someone/pairs",), {})]


def test_tables_without_pairs_say_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake(monkeypatch, {"image": [1], "text": ["a"]})
    with pytest.raises(EditsError, match="no column for the source .*there are image, text"):
        open_edits("someone/pairs")
    fake(monkeypatch, {"source": [None], "target": [b""], "edit": ["a"]})
    with pytest.raises(EditsError, match="someone/pairs, row 0, source: expected an image, found nothing"):
        open_edits("someone/pairs")[0]
    fake(monkeypatch, {"source": [b""], "target": [b""], "edit": [None]})
    with pytest.raises(EditsError, match="someone/pairs, row 0: no instruction"):
        open_edits("someone/pairs")[0]


def test_without_the_library_one_line_says_what_to_install(tmp_path, monkeypatch):
    table = {name: ["a"] for name in ("source", "target", "edit")}
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pytest.importorskip("pyarrow").table(table), tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(EditsError, match=r"pip install 'minip2p\[data\]'"):
        open_edits(tmp_path / "a.parquet")


def test_a_broken_parquet_is_one_line(tmp_path, datasets):
    put(tmp_path / "a.parquet", b"no parquet")
    with pytest.raises(EditsError, match="a.parquet: ") as caught:
        open_edits(tmp_path / "a.parquet")
    assert "\n" not in str(caught.value)


# Failures


def test_a_broken_pair_is_named_when_it_is_read_and_not_before(tmp_path):
    write_folder(tmp_path, listed=False)
    (tmp_path / "0000000" / "100_1.png").unlink()
    (tmp_path / "0000001" / "prompt.json").write_text('{"edit": ')
    (tmp_path / "0000002" / "102_0.png").write_bytes(stored(PAIRS[2]["source"])[:200])
    put(tmp_path / "0000003" / "prompt.json", {"input": "a", "edit": 3})
    (tmp_path / "0000004" / "prompt.json").write_text("[]")
    edits = open_edits(tmp_path)
    said = [
        r"0000000.100_1\.jpg: no such file",
        r"0000001.prompt\.json: not JSON",
        r"0000002.102_0\.png is damaged",
        r"0000003.prompt\.json: no instruction",
        r"0000004.prompt\.json: expected an object",
    ]
    assert len(edits) == COUNT
    for i, words in enumerate(said):
        with pytest.raises((EditsError, ImageError), match=words):
            edits[i]


def test_broken_pairs_of_tars_are_named(tmp_path):
    whole = members(0, "ours")
    names = list(whole)
    for missing, said in ((0, "no source image"), (1, "no target image"), (2, "no text")):
        write_tar(tmp_path / "a.tar", {name: whole[name] for name in names if name != names[missing]})
        with pytest.raises(EditsError, match=f"a.tar: 0000000-100 has {said}"):
            open_edits(tmp_path)[0]
    write_tar(tmp_path / "a.tar", whole | {names[1]: b"no picture"})
    with pytest.raises(ImageError, match="the target image of 0000000-100 is not a picture"):
        open_edits(tmp_path)[0]


@pytest.mark.parametrize(
    "name, data, said",
    [
        ("a/seeds.json", b"[[", "not JSON"),
        ("a/seeds.json", b'{"a": 1}', "expected .*names of folders"),
        ("a/seeds.json", b"[[1, [2]]]", "expected .*names of folders"),
        ("a/seeds.json", b"[]", "a set of no pairs"),
        ("a/x.txt", b"", "no known set of edit pairs; looked for"),
        ("a/x.tar", b"no tar" * 200, "x.tar: not a whole, uncompressed tar"),
        ("a/x.tar", stored(Image.new("RGB", (9, 9))), "x.tar: not a whole, uncompressed tar"),
        ("a/edit_turns.json", b'[{"input": "a"}]', "entry 0: expected an object with input, output, instruction"),
    ],
)
def test_an_invalid_set_is_an_error_of_one_line(tmp_path, name, data, said):
    put(tmp_path / name, data)
    with pytest.raises(EditsError, match=said):
        open_edits(tmp_path / "a")


def test_a_tar_cut_short_is_refused(tmp_path):
    write_tar(tmp_path / "a.tar", members(0, "ours"))
    edits, data = open_edits(tmp_path), (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(data[: int(edits.layout.spans[0, 1, 0]) + 10])
    with pytest.raises(EditsError, match="a.tar: not a whole, uncompressed tar"):
        open_edits(tmp_path)
    with pytest.raises(EditsError, match="a.tar: cut short since it was opened, in the target image of 0000000-100"):
        edits.files(0)


def test_unknown_paths_and_layouts_are_errors(tmp_path):
    for path, said in (("no", "no such file or folder"), ("a.zip", "expected a folder of edit pairs, or a file")):
        (tmp_path / "a.zip").write_text("")
        with pytest.raises(EditsError, match=said):
            open_edits(tmp_path / path)
    with pytest.raises(EditsError, match="unknown layout 'zip'; there are folder"):
        open_edits(tmp_path, layout="zip")


# Splits

captions = st.text(max_size=6)
fraction_lists = st.tuples(st.integers(0, 100), st.integers(0, 100)).map(
    lambda cuts: (min(cuts) / 100, (max(cuts) - min(cuts)) / 100, (100 - max(cuts)) / 100)
)


class Texts:
    """A layout of texts without images."""

    def __init__(self, texts: list[EditText]):
        self.texts = texts

    def __len__(self):
        return len(self.texts)

    def text(self, i):
        return self.texts[i]


def text_of(caption: str | None, key: str) -> EditText:
    return EditText(name=key, key=key, instruction="x", input=caption)


def sides(items: list[EditText], fractions) -> dict[str, int]:
    """Key -> the number of its split."""
    lists = split(Edits(Texts(items), "a"), fractions)
    assert sorted(i for each in lists for i in each) == list(range(len(items)))
    assert all(each == sorted(each) for each in lists)
    return {items[i].key: which for which, each in enumerate(lists) for i in each}


@given(st.lists(st.one_of(st.none(), captions), max_size=20), st.data(), fraction_lists)
def test_no_item_moves_when_others_come_or_go(those, data, fractions):
    items = [text_of(caption, str(i)) for i, caption in enumerate(dict.fromkeys(those))]
    kept = data.draw(st.lists(st.sampled_from(items), unique_by=lambda item: item.key) if items else st.just([]))
    whole = sides(items, fractions)
    assert sides(kept, fractions).items() <= whole.items()


@given(st.lists(captions, max_size=20), fraction_lists)
def test_all_of_one_caption_are_together(those, fractions):
    again = [f" {caption.upper()} " for caption in set(those) if caption.isascii()]
    others = [f"another {i}" for i in range(800)]  # so that no group is large
    items = [text_of(caption, str(i)) for i, caption in enumerate([*set(those), *again, *others])]
    found = sides(items, fractions)
    by_caption = {}
    for item in items:
        by_caption.setdefault(item.input.strip().lower(), set()).add(found[item.key])
    assert all(len(lists) == 1 for lists in by_caption.values())


@given(captions, fraction_lists)
def test_a_fraction_of_zero_gets_nothing(caption, fractions):
    assert fractions[split_of(caption, fractions)] > 0


def test_of_many_captions_the_splits_have_about_their_fractions():
    count, fractions = 20000, (0.9, 0.05, 0.05)
    lists = split(Edits(Texts([text_of(f"caption {i}", str(i)) for i in range(count)]), "a"))
    for each, fraction in zip(lists, fractions):
        deviation = math.sqrt(count * fraction * (1 - fraction))
        assert abs(len(each) - count * fraction) < 5 * deviation


SMALL_SETS = {
    "one caption": [text_of("a photo", str(i)) for i in range(40)],
    "one caption, few pairs": [text_of("a photo", str(i)) for i in range(6)],
    "one caption and one instruction without": [text_of(None if i % 2 else "a photo", str(i)) for i in range(40)],
    "three captions": [text_of(f"caption {i % 3}", str(i)) for i in range(60)],
    "one picture": [EditText(name=f"{i}", key=f"{i}", instruction="x", origin="a.png") for i in range(30)],
    "one large group": [text_of("a photo" if i < 900 else f"caption {i}", str(i)) for i in range(1000)],
}


@pytest.mark.parametrize("name", SMALL_SETS)
@pytest.mark.parametrize("salt", ["", "b", "c"])
def test_where_groups_are_few_every_split_gets_something(name, salt):
    items = [replace(item, key=f"{item.key}{salt}") for item in SMALL_SETS[name]]
    lists = split(Edits(Texts(items), "a"))
    assert all(lists) and len(lists[0]) > len(lists[1]) + len(lists[2])
    assert sides(items[::-1], (0.9, 0.05, 0.05)) == sides(items, (0.9, 0.05, 0.05)), "in any order"


def test_a_set_of_many_groups_is_split_by_them_alone():
    items = [text_of(f"caption {i // 4}", str(i)) for i in range(400)]
    found = sides(items, (0.9, 0.05, 0.05))
    assert all(found[str(i)] == split_of(f"caption {i // 4}") for i in range(400))


def test_a_split_never_changes():
    """Written down: the first 16 hexadecimal digits of sha256, over 2^64, against 0.4 and 0.7."""
    assert [split_of(f"caption {i}", (0.4, 0.3, 0.3)) for i in range(8)] == [1, 0, 1, 1, 0, 0, 0, 0]


def test_invalid_fractions_are_errors():
    edits = Edits(Texts([]), "a")
    for fractions in ((0.5, 0.4), (1.5, -0.5), ()):
        with pytest.raises(ValueError, match="expected numbers that add up to 1"):
            split(edits, fractions)


# Findings


def test_a_difference_is_a_mean_over_pixels_and_colours():
    black, white = (Image.new("RGB", (4, 4), colour) for colour in ("black", "white"))
    assert difference(black, black) == 0 and difference(black, white) == 1
    half = Image.new("RGB", (4, 4))
    half.paste((255, 0, 0), (0, 0, 2, 4))
    assert difference(half, black) == pytest.approx(1 / 6)
    assert difference(black, Image.new("RGB", (8, 2), "white")) == 1


def test_an_inspection_counts_each_kind_of_finding(tmp_path):
    def letters(text):
        return [(i, i + 1) for i in range(len(text))]

    found = Inspection(token_spans=letters, max_tokens=5)
    write_folder(tmp_path)
    edits = open_edits(tmp_path)
    _, files, pair = edits.read(0)
    data = files[0].data, files[1].data
    say = lambda words: EditText(name=words, key=words, instruction=words)  # noqa: E731
    for words in ("a b", "a b", "abcdefg", ""):
        found.add(say(words), data, pair)
    found.add(say("c"), data[::-1], pair)
    same = type(pair)(source=pair.source, target=pair.source.copy(), instruction="", name="")
    found.add(say("d"), (data[0], data[0]), same)
    assert (found.repeated.count, found.reworded.count, found.empty.count, found.same.count) == (1, 2, 1, 1)
    assert found.repeated.named == ["a b (as a b)"] and found.cut.named == ["abcdefg"]
    assert found.longest == (7, "abcde", "fg")
    assert found.words.tolist() == [2, 2, 1, 0, 1, 1] and found.differences[-1] == 0 < found.differences[0]


# Own pairs


def test_own_pairs_by_a_table_and_by_equal_names(tmp_path):
    for i, pair in enumerate(PAIRS):
        put(tmp_path / "a" / "sub" / f"{i}.png", stored(pair["source"]))
        put(tmp_path / "b" / "sub" / f"{i}.webp", stored(pair["target"], "WEBP", lossless=True))
    rows = [
        {"source": f"sub/{i}.png", "instruction": pair["edit"], "caption": pair["input"], "output": pair["output"]}
        for i, pair in enumerate(PAIRS)
    ]
    rows[1] |= {"target": "sub/1.webp"}
    rows[2] = {"target_image": "sub/2.webp"} | {k: v for k, v in rows[2].items() if k != "source"}
    rows[3] = {"file": "sub/3"} | {k: v for k, v in rows[3].items() if k != "source"}
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    folders = {"source": tmp_path / "a", "target": tmp_path / "b"}
    edits = Edits(open_table(**folders, table=tmp_path / "t.jsonl"), "t.jsonl")
    check(edits)
    put(
        tmp_path / "c.csv",
        b"source,target,edit\n"
        + b"\n".join(f'a/sub/{i}.png,b/sub/{i}.webp,"{pair["edit"]}"'.encode() for i, pair in enumerate(PAIRS)),
    )
    check(Edits(open_table(table=tmp_path / "c.csv"), "c.csv"), captions=False)
    night = Edits(open_table(**folders, edit="make it night"), "a")
    assert {pair.instruction for pair in night} == {"make it night"} and len(night) == COUNT
    assert len({text.group for text in night.texts()}) == COUNT, "without captions the source picture decides"
    assert [night.key(i) for i in range(COUNT)] == [night.key(i) for i in range(COUNT)]
