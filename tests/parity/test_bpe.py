"""Ids, offsets and texts equal those of transformers' CLIPTokenizer, which is built from the files that we write."""

import json
import os
from unicodedata import category, is_normalized

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import BPE as TheirBPE
from transformers import CLIPTokenizer

from minip2p.text.bpe import BPE
from minip2p.text.learn import learn_bpe
from minip2p.text.vocabulary import BOS, EOS

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
any_example = settings(deadline=None, max_examples=100)
few_examples = settings(any_example, max_examples=40)

CAPTIONS = ["a red house in the meadow at night", "a white boat, it's in the snow", "the 2 trees & 12 sheep!"]
FRAGMENTS = [
    BOS,
    EOS,
    EOS.upper(),
    "<|",
    "|>",
    "<|endoftext",
    "endoftext|>",
    "!",
    "!!",
    "'s",
    "'S",
    "'",
    "''ll",
    "İ",
    "ı",
    "Σ",
    "ΑΣ",
    "ß",
    "ẞ",
    "e\u0301",
    "\u0301",
    "\u0327",
    "\u212b",
    "\u0958",
    "\ufb01",
    "\u0344",
    "\u0f73",
    "\u1100\u1161\u11a8",
    "\uac00\u11a8",
    "\u09c7\u09be",
    " ",
    "  ",
    "\t",
    "\r\n",
    "\x00",
    "\x1c",
    "\x1f",
    "\x7f",
    "\x85",
    "\xa0",
    "\xad",
    "\u200b",
    "\u200d",
    "\u2028",
    "\u3000",
    "\ufeff",
    "a",
    "cat",
    "CAFÉ",
    "naïve",
    "12",
    "½",
    "٣",
    "Ⅷ",
    "猫",
    "日本語",
    "ไทย",
    "हिन्दी",
    "👩\u200d🚀",
    "🏳️\u200d🌈",
    "🇩🇪",
    "<b>",
    "&lt;",
    "&amp;amp;",
    "</w>",
    "#version: 0.2",
    "_",
    "…",
    "--",
    "\ufffd",
    "\U0010ffff",
]
ASSIGNED = st.characters(exclude_categories=["Cs", "Cn"])  # newer ones depend on each library's Unicode version
TEXT = st.text(ASSIGNED) | st.lists(st.sampled_from(FRAGMENTS) | st.text(ASSIGNED, max_size=3)).map("".join)


SMALL = learn_bpe(CAPTIONS, 390, max_length=16)


def entry(content, normalized=True, **flags):
    """A special token as published configs write it."""
    flags = {"lstrip": False, "rstrip": False, "single_word": False} | flags
    return {"content": content, "normalized": normalized, **flags}


def in_two_files(folder, bpe=SMALL, pad=EOS, unknown=True, added=None, **config):
    """A folder as published with Stable Diffusion: vocab.json, merges.txt, two configs that name the special tokens."""
    bpe.save(folder)
    named = {"bos_token": entry(BOS), "eos_token": entry(EOS), "unk_token": entry(EOS, unknown), "pad_token": pad}
    (folder / "special_tokens_map.json").write_text(json.dumps(named))
    for key in ("bos_token", "eos_token", "unk_token"):
        named[key]["__type"] = "AddedToken"
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77, **named, **config}))
    if added:
        (folder / "added_tokens.json").write_text(json.dumps(added))


def in_one_file(folder, bpe=SMALL, pad=EOS, flag=False, added=(), **config):
    """A folder as today's transformers writes it: tokenizer.json and a config."""
    bpe.save(folder)
    CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)
    for name in ("vocab.json", "merges.txt", "special_tokens_map.json"):
        (folder / name).unlink()
    file = folder / "tokenizer.json"
    whole = json.loads(file.read_text())
    whole["added_tokens"] = [token | {"normalized": flag} for token in whole["added_tokens"]] + [*added]
    file.write_text(json.dumps(whole))
    named = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": pad}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", **named, **config}))


def without_configs(folder):
    SMALL.save(folder)
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        (folder / name).unlink()


DECODER = {
    str(SMALL.bos): entry(BOS, False, special=True),
    str(SMALL.eos): entry(EOS, True, special=True),
    "390": entry("<My-Cat>", True, special=False),
    "391": entry("<My-Cat>2", False, special=False),
}
FOLDERS = {
    "Stable Diffusion 1": lambda folder: in_two_files(folder, BPE.clip()),
    "Stable Diffusion 2": lambda folder: in_two_files(folder, BPE.clip(), "!"),
    "CLIP, ours": lambda folder: BPE.clip(pad=0, max_length=50).save(folder),
    "learnt": SMALL.save,
    "no configs": without_configs,
    "eos pads": in_two_files,
    "unk has the last word on eos": lambda folder: in_two_files(folder, pad="!", unknown=False),
    "flags in the config": lambda folder: in_two_files(folder, pad="!", added_tokens_decoder=DECODER),
    "a new word": lambda folder: in_two_files(folder, added={"<My-Cat>": 390, "<My-Cat>2": 391}),
    "one file": lambda folder: in_one_file(folder, model_max_length=30),
    "one file, after cleaning": lambda folder: in_one_file(folder, pad="!", flag=True),
    "one file, a new word": lambda folder: in_one_file(
        folder, flag=True, added=[entry("<My-Cat>", False, id=390, special=False)]
    ),
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """{name: (ours, theirs)} read from one folder, and both once more from what we write of it."""
    both = {}
    for name, make in FOLDERS.items():
        folder = tmp_path_factory.mktemp("tokenizer")
        make(folder)
        both[name] = BPE.from_folder(folder), CLIPTokenizer.from_pretrained(folder)
        if len(both[name][0].vocab) < 1000:
            again = tmp_path_factory.mktemp("again")
            both[name][0].save(again)
            both[f"{name}, again"] = BPE.from_folder(again), CLIPTokenizer.from_pretrained(again)
            assert both[f"{name}, again"][0] == both[name][0]
    return both


def assert_equal_ids(pairs, text):
    for name, (ours, theirs) in pairs.items():
        assert ours.encode(text) == theirs(text, add_special_tokens=False).input_ids, name


def test_special_ids_and_length(pairs):
    for name, (ours, theirs) in pairs.items():
        assert (ours.bos, ours.eos, ours.pad) == (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id), name
        assert ours.max_length == (theirs.model_max_length if theirs.model_max_length < 1e6 else 77), name
        assert ours.vocab == theirs.get_vocab(), name


@pytest.mark.parametrize("text", [*FRAGMENTS, "", *CAPTIONS, "a cat " * 200, "aB" * 999, "<MY-CAT> <My-Cat>!<my-cat>2"])
def test_ids_by_example(pairs, text):
    assert_equal_ids(pairs, text)
    assert_equal_ids(pairs, f"a{text}{text}1 {text}'")


@any_example
@given(TEXT)
def test_ids_of_any_text(pairs, text):
    assert_equal_ids(pairs, text)


def test_ids_of_every_character(pairs):
    """Each character that Python knows, beside letters, digits and signs; of the many ideographs and syllables some."""
    ours, theirs = pairs["Stable Diffusion 1"]
    dense = [*range(0x2C00), *range(0xA640, 0xABFF), *range(0xF900, 0x10000)]
    sparse = [*range(0x2C00, 0xA640, 41), *range(0xAC00, 0xD800, 41), *range(0x10000, 0x20000, 29), 0x20000, 0xE0061]
    texts = [f"a{chr(i)}1{chr(i)}!{chr(i)}" for i in dense + sparse if category(chr(i)) not in ("Cs", "Cn")]
    assert len(texts) > 10_000
    for text, expected in zip(texts, theirs(texts, add_special_tokens=False).input_ids):
        assert ours.encode(text) == expected, ascii(text)


@few_examples
@given(st.lists(TEXT, min_size=1, max_size=3), st.integers(0, 30))
def test_batches(pairs, texts, times):
    texts = [*texts, texts[0] * times]
    for name in ("Stable Diffusion 1", "Stable Diffusion 2", "CLIP, ours", "learnt"):
        ours, theirs = pairs[name]
        cut = {"padding": "max_length", "max_length": ours.max_length, "truncation": True}
        assert ours(texts).tolist() == theirs(texts, **cut).input_ids, name


@few_examples
@given(TEXT.filter(lambda text: is_normalized("NFC", text)))
def test_offsets_of_composed_text(pairs, text):
    for name in ("Stable Diffusion 1", "Stable Diffusion 2", "learnt"):
        ours, theirs = pairs[name]
        expected = theirs(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
        assert ours.offsets(text) == expected, name


@few_examples
@given(TEXT)
def test_decoding(pairs, text):
    for name in ("Stable Diffusion 1", "learnt"):
        ours, theirs = pairs[name]
        ids = ours.encode(text.replace("<", "").replace("\ufffd", ""))
        assert ours.decode(ids).strip() == theirs.decode(ids, skip_special_tokens=True), name


@any_example
@given(st.data())
def test_any_list_of_merges(data):
    """Ranks in any order, two ways to one symbol, symbols that the vocabulary lacks."""
    known = [*"abc", "a</w>", "b</w>", "c</w>"]
    merges = []
    for _ in range(data.draw(st.integers(0, 12))):
        first = data.draw(st.sampled_from([symbol for symbol in known if not symbol.endswith("</w>")]))
        merges.append((first, data.draw(st.sampled_from(known))))
        known.append("".join(merges[-1]))
    merges = data.draw(st.permutations(list(dict.fromkeys(merges))))
    vocab = {token: i for i, token in enumerate(dict.fromkeys([*known, BOS, EOS]))}
    ours = BPE(vocab, tuple(merges), bos=vocab[BOS], eos=vocab[EOS], pad=vocab[EOS])
    theirs = Tokenizer(TheirBPE(vocab, merges, unk_token=EOS, end_of_word_suffix="</w>", fuse_unk=False))
    word = data.draw(st.text("abcd", min_size=1, max_size=24))
    assert ours.encode(word) == theirs.encode(word).ids
