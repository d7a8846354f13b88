"""The metadata in an image is anybody's: whatever it says, `show` is one line, and reads only what lies beside it."""

import json
import os
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers_cli import edit, files
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, PngImagePlugin

from minip2p.cli import main, metadata
from minip2p.cli.recorded import KINDS, checked
from minip2p.schema import LARGEST_SIDE

SHARED = {
    "steps": 2,
    "seed": 0,
    "sampler": "euler",
    "spacing": "linspace",
    "weights": {
        "path": None,
        "fingerprint": "0" * 16,
        "ema": True,
        "config": [],
        "dtype": "float32",
        "vae": "vae.ckpt",
        "lora": [{"path": "style.safetensors", "weight": 0.5}],
        "text_cleaning": None,
        "compile": False,
    },
    "made_with": {"device": "cpu"},
}
INPUT = {"path": "in.png", "sha256": "0" * 64}
CONTROLS = {
    "prompt": "a cat",
    "edited_prompt": "a dog",
    "control": ["share"],
    "share": 0.5,
    "cross": {"": 0.8, "dog": [0.2, 0.5]},
    "self": 0.4,
    "reweight": {"dog": 2},
    "blend": [],
    "subtract": [],
    "threshold": 0.3,
}
GOOD = {
    "edit": {
        "instruction": "x",
        "text_scale": 7.5,
        "image_scale": 1,
        "resolution": 512,
        "fit": "crop",
        "keep_size": False,
    }
    | {"input": INPUT, "mask": INPUT, "grid": {"seed": [0, 1], "text_scale": [1.5]}},
    "generate": {"prompts": ["a"], "size": [64, 48], "scale": 7.5, "grid": {}},
    "sdedit": {"input": INPUT, "prompt": "a", "strength": 0.5, "resolution": 64, "fit": "pad", "keep_size": True}
    | {"scale": 3.0, "negative": "b", "grid": {"strength": [0, 1]}},
    "pair": CONTROLS | {"size": None, "scale": 7.5, "grid": {"weight": [-1, 3]}},
    "invert": CONTROLS
    | {"input": INPUT, "method": "ddim", "inner": 10, "learning_rate": 0.01}
    | {"resolution": 64, "fit": "crop", "scale": 7.5, "edited_prompt": None},
}
GOOD = {verb: SHARED | {"verb": verb} | values for verb, values in GOOD.items()}


def picture(name: str, text: str) -> str:
    """An image file with this text where metadata is."""
    image = Image.new("RGB", (8, 8))
    if name.endswith(".png"):
        info = PngImagePlugin.PngInfo()
        info.add_itxt("minip2p", text)
        image.save(name, pnginfo=info)
    else:
        exif = Image.Exif()
        exif[ExifTags.Base.ImageDescription] = f"minip2p {text}"
        image.save(name, exif=exif)
    return name


def error_of(capsys, *words: str) -> str:
    before = files()
    assert main(list(words)) == 2
    error = capsys.readouterr().err
    assert error.startswith("minip2p: error: ") and error.count("\n") == 1 and files() == before
    return error


@pytest.mark.parametrize("verb", KINDS)
def test_what_the_verbs_record_is_read(verb):
    found = checked(json.loads(json.dumps(GOOD[verb])), "x.png")
    assert json.loads(json.dumps(found)) | GOOD[verb] == json.loads(json.dumps(found))
    assert set(found) == {each.name for each in fields(KINDS[verb])}


def changes(value: object) -> list:
    """Values that are wrong in place of this one."""
    wrong = [None, [], {}, "words", -1, 10**12, 1e300, float("nan"), [[[]]], {"a": {"b": 1}}, True]
    return [each for each in wrong if not (type(each) is type(value) and each == value)]


OPEN = {
    "low_memory",
    "keep_size",
    "ema",
    "negative",
    "instruction",
    "prompt",
    "edited_prompt",
    "size",
    "path",
    "device",
}
OPEN |= {
    "blend",
    "subtract",
    "grid",
    "reweight",
    "sampler",
    "spacing",
    "fit",
    "made_with",
    "config",
    "fingerprint",
    "resolution",
}
"""keys for which one of the wrong values may be right: a text may be any, a list empty"""


@pytest.mark.parametrize("verb", KINDS)
def test_no_key_takes_a_value_of_another_type(verb):
    for key, value in GOOD[verb].items():
        refused = 0
        for wrong in changes(value):
            try:
                checked(GOOD[verb] | {key: wrong}, "x.png")
            except ValueError as error:
                assert str(error).startswith("x.png: ") and "\n" not in str(error) and len(str(error)) < 600
                refused += 1
        assert refused >= len(changes(value)) - (3 if key in OPEN else 2), key
    for key in GOOD[verb].keys() - {"verb"}:
        with pytest.raises(ValueError, match="x.png"):
            checked(
                {name: value for name, value in GOOD[verb].items() if name != key} | {"verb": verb, "odd": 1}, "x.png"
            )


HUGE = [
    ("edit", {"resolution": 10**6}),
    ("edit", {"steps": 10**9}),
    ("edit", {"seed": 2**64}),
    ("edit", {"grid": {"seed": [0] * 1000}}),
    ("edit", {"grid": {"fit": [1]}}),
    ("edit", {"input": INPUT | {"sha256": "x"}}),
    ("edit", {"mask": INPUT | {"sha256": "x"}}),
    ("edit", {"instruction": ["a"] * 1000}),
    ("edit", {"instruction": ["a", 5]}),
    ("edit", {"weights": SHARED["weights"] | {"dtype": "int8"}}),
    ("edit", {"grid": {"strength": [1]}}),
    ("sdedit", {"grid": {"weight": [1]}}),
    ("generate", {"size": [10**5, 10**5]}),
    ("generate", {"prompts": []}),
    ("generate", {"prompts": ["a"] * 1000}),
    ("sdedit", {"strength": 1.5}),
    ("pair", {"cross": {"dog": 1.0}}),
    ("pair", {"cross": {"": [0, 1, 2]}}),
    ("pair", {"control": ["magic"]}),
    ("invert", {"inner": 10**9}),
    ("invert", {"method": "magic"}),
]


@pytest.mark.parametrize("verb, change", HUGE)
def test_ranges(verb, change):
    with pytest.raises(ValueError, match=r"x.png: its metadata: \w+"):
        checked(GOOD[verb] | change, "x.png")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60)
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_any_value_of_json_is_read_or_refused_in_one_line(verb, data):
    key = data.draw(st.sampled_from(sorted(GOOD[verb])))
    values = GOOD[verb] | {key: data.draw(anything)} if data.draw(st.booleans()) else data.draw(anything)
    if isinstance(values, dict):
        metadata.equal(values, GOOD[verb])  # with an output that is there already
        try:
            checked(values, "x.png")
        except ValueError as error:
            assert "\n" not in str(error)


# In files


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
@pytest.mark.parametrize(
    "text, said",
    [
        ("[" * 100_000, "not JSON"),
        ('{"a":' * 100 + "1" + "}" * 100, "nested over 50 deep"),
        ("[" * 40 + "]" * 40, "expected an object"),
        ('{"a": NaN}', "not JSON"),
        ('{"a": [1e999]}', "numbers that are not finite"),
        ("null", "expected an object"),
        ('"words"', "expected an object"),
        ("words", "not JSON"),
        ('{"a": ' + 5000 * "9" + "}", "not JSON"),
        (json.dumps({"a": "x" * 300_000}), "no text of up to 200,000 letters"),
    ],
)
def test_what_is_no_metadata_is_one_line(tmp_path, monkeypatch, capsys, name, text, said):
    monkeypatch.chdir(tmp_path)
    picture(name, text)
    assert said in error_of(capsys, "show", name) and said in error_of(capsys, "show", name, "--again")


def test_metadata_cannot_control_the_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    values = {"\x1b]0;x\x07": "\x1b[2J\u202e\u2028", "sampler": "\x9b31m", "verb": "edit"}
    picture("x.png", json.dumps(values, ensure_ascii=False))
    assert main(["show", "x.png"]) == 0
    out = capsys.readouterr().out
    assert not set(out) & set("\x1b\x07\x9b\u202e\u2028") and json.loads(out) == values
    assert error_of(capsys, "show", "x.png", "--again").isascii()


@pytest.mark.usefixtures("here")
def test_again_reads_only_what_lies_in_the_folder_or_is_given(capsys, monkeypatch):
    Path("a").mkdir()
    for name in ("in.png", "editor.safetensors"):
        os.link(os.path.realpath(name), f"a/{name}")
    monkeypatch.chdir("a")
    assert edit(steps="1") == 0
    good = metadata.read(Path("out.png"))
    capsys.readouterr()
    for path in (
        "/etc/passwd",
        "../in.png",
        "b/../../in.png",
        "..\\in.png",
        "C:\\in.png",
        "C:in.png",
        "\\\\host\\in.png",
    ):
        picture("x.png", json.dumps(good | {"input": good["input"] | {"path": path}}))
        assert "is outside of the folder of x.png; if you trust it, give it by --input" in error_of(
            capsys, "show", "x.png", "--again"
        )
        picture("x.png", json.dumps(good | {"weights": good["weights"] | {"path": path}}))
        assert "give it by --weights" in error_of(capsys, "show", "x.png", "--again")
    assert main(["show", "out.png", "--again"]) == 0


@pytest.mark.usefixtures("here")
def test_an_edit_of_an_image_with_hostile_metadata_is_an_edit():
    picture("x.png", "[" * 100_000)
    picture("out.png", '{"instruction": {"a": [1]}, "weights": 5, "input": null}')
    assert edit(given="x.png", steps="1") == 0
    assert metadata.read(Path("out.png"))["instruction"] == "make it night"


def test_a_device_that_nobody_has_is_chosen_anew():
    from minip2p.cli import show

    asked = []
    source = SimpleNamespace(
        load=lambda default, threads, **how: asked.append(how["device"]) or SimpleNamespace(fingerprint="f")
    )
    weights = {"ema": True, "config": (), "dtype": "float32", "fingerprint": "f"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(show, "Model", lambda **_: source)
        for device in ("cpu", "meta", "xla:0", "cuda:1"):
            show._load(
                {"path": None, "lora": [], "vae": None},
                {"weights": weights, "made_with": {"device": device}},
                "editor",
                None,
            )
    assert asked == ["cpu", "auto", "auto", "cuda:1"]


def test_images_of_earlier_versions_can_be_made_again():
    """Those that are shipped."""
    verbs = {}
    for path in Path(__file__).parent.parent.glob("weights/tiny/*.png"):
        if (found := metadata.read_if_ours(path)) and ("instruction" in found or found.get("verb") in KINDS):
            verbs[path.name] = checked(found, path.name)["verb"]
    assert len(verbs) >= 7 and set(verbs.values()) == {"edit", "pair", "invert"}


@pytest.mark.parametrize(
    "key, side", [("resolution", LARGEST_SIDE), ("size", LARGEST_SIDE), ("size", [LARGEST_SIDE, 64])]
)
def test_a_side_that_the_library_samples_is_made_again(key, side):
    verb = "edit" if key == "resolution" else "generate"
    assert checked(SHARED | {"verb": verb} | GOOD[verb] | {key: side}, "a.png")[key] in (
        side,
        tuple(side if isinstance(side, list) else ()),
    )
    for wrong in (LARGEST_SIDE + 1, 0, 64.5):
        with pytest.raises(ValueError, match=key):
            checked(SHARED | {"verb": verb} | GOOD[verb] | {key: wrong}, "a.png")
