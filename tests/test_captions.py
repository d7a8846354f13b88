"""Captions and triplets: the text of prompts and completions, parsed back; tables, and errors in them."""

import csv
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minip2p.data.captions import (
    BETWEEN,
    STOP,
    Refused,
    Triplet,
    bare,
    completion_text,
    distinct,
    one_line,
    parse_completion,
    prompt_text,
    read_captions,
    read_triplets,
)
from minip2p.data.tables import read_rows

LETTERS = st.characters(exclude_categories=["Cs", "Zl", "Zp"], exclude_characters="\n\r\v\f\x1c\x1d\x1e\x85")
lines = st.text(LETTERS, min_size=1, max_size=40).map(str.strip).filter(bool)
"""texts of one line, of any characters"""
WORDS = [*"ab .!?\n", BETWEEN, STOP, "END", "%%", "##", "\u2028", "é"]
pieces = st.lists(st.sampled_from(WORDS), max_size=12).map("".join)
"""texts that are likely to break rules"""


def parsed(caption: str, completion: str) -> tuple[str, str] | str:
    """(instruction, edited caption), or the reason for refusing."""
    try:
        return parse_completion(caption, completion)
    except Refused as refused:
        return str(refused)


# Completions


def test_the_papers_text():
    text = prompt_text("a cat") + completion_text("make it a dog", "a dog")
    assert text == "a cat\n##\nmake it a dog\n%%\na dog\nEND"


@given(lines, lines, lines, st.booleans(), pieces)
def test_a_completion_is_parsed_back(caption, edit, output, ends, after):
    """Any texts of one line; a language model stops before STOP, or continues after it with anything."""
    completion = completion_text(edit, output) + after if ends else completion_text(edit, output).removesuffix(STOP)
    if output.startswith("END") or (not ends and STOP in completion):
        return
    expected = (edit, output) if bare(output) != bare(caption) else "nothing changes"
    assert parsed(caption, completion) == expected


@given(pieces, pieces)
def test_an_accepted_completion_is_two_lines_and_changes_something(caption, completion):
    found = parsed(caption, completion)
    if isinstance(found, str):
        return
    for part in found:
        assert part == part.strip() and len(part.splitlines()) == 1 and STOP not in part and BETWEEN not in part
    assert bare(found[1]) != bare(caption)
    assert parsed(caption, completion_text(*found)) == found or found[1].startswith("END")


@given(lines, st.sampled_from([str, str.upper, str.title]), st.text(".!? ", max_size=4), st.text(".!? ", max_size=4))
def test_case_and_punctuation_at_the_ends_are_no_change(caption, case, before, after):
    said = f"{before}{case(caption)}{after}"
    if bare(case(caption)) != bare(caption):  # letters that have no capital of their own
        return
    found = parsed(caption, completion_text("change it", said))
    assert found == "nothing changes" or (found == "an empty part" and not said.strip())


@pytest.mark.parametrize(
    "completion, reason",
    [
        ("", "1 parts in place of 2"),
        ("make it night", "1 parts in place of 2"),
        ("make it night\nEND\n%%\na cat at night", "1 parts in place of 2"),
        ("make it night\n%%\na cat at night\n%%\nmore\nEND", "3 parts in place of 2"),
        ("\n%%\na cat at night\nEND", "an empty part"),
        ("make it night\n%%\n \nEND", "an empty part"),
        ("make it night\n%%\na cat\nat night\nEND", "a part of several lines"),
        ("make it night\u2028now\n%%\na cat at night\nEND", "a part of several lines"),
        ("make it night\n%%\nA CAT!?\nEND", "nothing changes"),
    ],
)
def test_the_rules(completion, reason):
    assert parsed("a cat.", completion) == reason


# Captions


@given(st.lists(pieces.filter(lambda text: bare(text))))
def test_of_equal_captions_the_first_stays(captions):
    kept = distinct(captions)
    assert [bare(caption) for caption in kept] == list(dict.fromkeys(map(bare, captions)))
    assert all(caption == next(c for c in captions if bare(c) == bare(caption)) for caption in kept)
    assert distinct(kept) == kept


@given(st.text())
def test_one_line_is_one_line(text):
    assert len(one_line(text).splitlines()) <= 1 and one_line(one_line(text)) == one_line(text)
    assert one_line(text).split() == text.split()


# Tables


@given(captions=st.lists(lines, min_size=1, max_size=5), key=st.sampled_from(["input", "caption"]))
def test_captions_of_every_table_are_the_same(tmp_path_factory, captions, key):
    folder = tmp_path_factory.mktemp("tables")
    for name in ("a.txt", "a.JSONL", "a.jsonl", "a.csv"):
        with open(folder / name, "w", encoding="utf-8", newline="") as file:
            if name == "a.csv":
                csv.writer(file).writerows([[key, "more"], *[[caption, "x"] for caption in captions]])
            elif name == "a.txt":
                file.write("\n \n".join(captions) + "\n\n")
            else:
                ascii_only = name == "a.JSONL"
                file.writelines(json.dumps({key: each}, ensure_ascii=ascii_only) + "\r\n" for each in captions)
    expected = [caption.removeprefix("\ufeff").strip() for caption in captions[:1]] + captions[1:]
    for name in ("a.JSONL", "a.jsonl", "a.csv", "a.txt"):
        found = read_captions(folder / name) if expected[0] or name != "a.txt" else captions
        assert found in (captions, expected), name


def test_triplets(tmp_path):
    row = {"caption": "a cat", "edit": "make it\na dog ", "output": "a dog", "more": 1}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n\n" + json.dumps(row | {"input": "é", "edit": "x"}))
    first, second = read_triplets(tmp_path / "a.jsonl")
    assert first == Triplet(input="a cat", edit="make it a dog", output="a dog")
    assert second == Triplet(input="é", edit="x", output="a dog")


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("a.jsonl", b'{"input": "x"}\n{"input": 3}\n', "a.jsonl, line 2: 'input' is 3; expected a text"),
        ("a.jsonl", b'{"input": "x"}\n\n{"input": "x"\n', "a.jsonl, line 3: not JSON"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl, line 1: not JSON"),
        ("a.jsonl", b'["x"]\n', "a.jsonl, line 1: expected an object"),
        ("a.jsonl", b'{"text": "x"}\n', "a.jsonl, line 1: 'input' is missing; there are 'text'"),
        ("a.jsonl", b"{}\n", "a.jsonl, line 1: 'input' is missing; there are -"),
        ("a.jsonl", b'{"input": " "}\n', "expected a text"),
        ("a.jsonl", b'{"input": "a \\ud800"}\n', "a.jsonl, line 1: 'input' holds half a character"),
        ("a.csv", b"input,more\nx,y\nx\n", "a.csv, line 3: 1 values, where the header has 2 names"),
        ("a.csv", b"input\nx,y\n", "a.csv, line 2: 2 values, where the header has 1 names"),
        ("a.csv", b"text\nx\n", "a.csv, line 2: 'input' is missing; there are 'text', separated by ','"),
        ("a.csv", b"input\n", "a.csv is empty"),
        ("a.txt", b"\n \n", "a.txt is empty; expected one text per line"),
        ("a.txt", b"", "a.txt is empty"),
        ("a.txt", b"caf\xe9\n", "a.txt is not UTF-8 text"),
        ("a.parquet", b"PAR1", "a.parquet: unknown ending '.parquet'; expected one of .jsonl"),
    ],
)
def test_an_error_in_a_table_names_file_and_line(tmp_path, monkeypatch, name, data, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError) as error:
        read_captions(name)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_rows_keep_their_line_numbers(tmp_path):
    (tmp_path / "a.csv").write_text('input,n\n"a\nb",1\nc,2\n')
    assert list(read_rows(tmp_path / "a.csv")) == [(3, {"input": "a\nb", "n": "1"}), (4, {"input": "c", "n": "2"})]
    assert read_captions(tmp_path / "a.csv") == ["a b", "c"]
