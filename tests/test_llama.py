"""The language model by itself: what attention may see, the cache, rotary positions; its files and its tokens."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from helpers_language import CONFIG, TEXTS, small, small_language_model
from hypothesis import given, settings
from hypothesis import strategies as st

import minip2p
from minip2p import checkpoints
from minip2p.cli import main
from minip2p.models.llama import Cache, Llama, rotate
from minip2p.text.pieces import Pieces


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 320, shape, generator=torch.Generator().manual_seed(seed))


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_token_sees_itself_and_what_is_before_it():
    model, x, at = small(), tokens(2, 12), 5
    changed = x.clone()
    changed[:, at] += 1
    same = (model(x) == model(changed)).all(-1).all(0)
    assert same[:at].all() and not same[at:].any()


@torch.no_grad()
@pytest.mark.parametrize("window", [1, 3, 11, 12])
def test_a_window_counts_the_token_itself(window):
    model, x = small(window=window, layers=1), tokens(2, 12)
    changed = x.clone()
    changed[:, 0] += 1
    differs = ~torch.isclose(model(x), model(changed), atol=1e-6).all(-1).all(0)
    assert differs.tolist() == [i < window for i in range(12)]


@torch.no_grad()
@pytest.mark.parametrize("window", [None, 4])
def test_padding_on_the_left_changes_nothing(window):
    model, texts = small(window=window), [tokens(n, seed=n) for n in (3, 9, 6)]
    rows = torch.stack([torch.cat([torch.full((9 - len(t),), 7), t]) for t in texts])
    together = model(rows, padding=torch.tensor([6, 0, 3]))
    for row, text in zip(together, texts, strict=True):
        close(row[9 - len(text) :], model(text[None])[0])


@torch.no_grad()
@settings(max_examples=30)
@given(
    parts=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    window=st.none() | st.integers(1, 8),
    padding=st.none() | st.lists(st.integers(0, 5), min_size=2, max_size=2),
    kv_heads=st.sampled_from([1, 2, 4]),
)
def test_however_a_text_is_cut_the_cache_gives_the_whole_texts_logits(parts, window, padding, kv_heads):
    model, n = small(window=window, kv_heads=kv_heads), sum(parts)
    x, padding = tokens(2, n), None if padding is None else torch.tensor(padding).clamp(max=n - 1)
    cache = Cache(model.config, 2, n)
    found = torch.cat([model(part, cache, padding) for part in x.split(parts, dim=1)], dim=1)
    close(found, model(x, padding=padding))
    assert cache.used == n


@torch.no_grad()
def test_rows_that_leave_the_cache_take_nothing_of_the_others_with_them():
    model, x = small(), tokens(5, 9)
    cache = Cache(model.config, 5, 20)
    model(x, cache)
    cache.keep([1, 4])
    cache.keep([1])
    close(model(x[[4], :3], cache), model(torch.cat([x[[4]], x[[4], :3]], 1))[:, 9:])


def test_a_full_cache_says_so():
    with pytest.raises(ValueError, match="9 tokens: the cache has room for 8"):
        small()(tokens(1, 9), Cache(CONFIG, 1, 8))


@torch.no_grad()
def test_grouped_heads_are_repeated_heads():
    grouped, full = small(kv_heads=2), small(kv_heads=4)
    weights = grouped.state_dict()
    for name in [name for name in weights if name.endswith(("attention.k.weight", "attention.v.weight"))]:
        weights[name] = weights[name].unflatten(0, (2, 6)).repeat_interleave(2, dim=0).flatten(0, 1)
    full.load_state_dict(weights)
    close(full(tokens(2, 10)), grouped(tokens(2, 10)))


@given(a=st.integers(0, 5000), b=st.integers(0, 5000), shift=st.integers(0, 3000))
def test_rotated_products_know_distances_only(a, b, shift):
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(a))
    waves = 10.0 ** -torch.arange(4, dtype=torch.float64)

    def at(x, position):
        return rotate(x, torch.stack([(position * waves).cos(), (position * waves).sin()]))

    near, far = (at(q, a) * at(k, b)).sum(), (at(q, a + shift) * at(k, b + shift)).sum()
    torch.testing.assert_close(near, far, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(at(q, a).norm(), q.norm())


@torch.no_grad()
def test_a_tied_head_is_the_embedding():
    tied, free = small(tied=True), small()
    free.load_state_dict(tied.state_dict() | {"head.weight": tied.token.weight})
    close(tied(tokens(2, 5)), free(tokens(2, 5)))


def test_recomputing_layers_gives_the_same_gradients():
    model, x, found = small(), tokens(2, 7), []
    for model.checkpointing in (False, True):
        model.zero_grad()
        model(x).square().mean().backward()
        found.append([p.grad.clone() for p in model.parameters()])
    for a, b in zip(*found, strict=True):
        close(a, b)


@pytest.mark.parametrize(
    "changes, words",
    [({"kv_heads": 3}, "kv_heads = 3: expected a divisor of heads = 4"), ({"head_size": 5}, "5: expected an even")],
)
def test_sizes_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        Llama(replace(CONFIG, **changes))


@pytest.mark.parametrize("layout", ["minip2p", "transformers"])
@pytest.mark.parametrize("changes", [{}, {"tied": True, "window": 9, "rope_theta": 500.0, "max_length": 99}])
def test_a_language_model_comes_back_as_it_was_saved(tmp_path, layout, changes):
    language_model = small_language_model(**changes)
    for _ in range(2):  # the second time over the first
        minip2p.save(language_model, tmp_path / "instructions", layout)
    again = minip2p.load_language_model(tmp_path / "instructions")
    assert (again.config, again.pieces, again.provenance) == (
        language_model.config,
        language_model.pieces,
        language_model.provenance,
    )
    assert again.fingerprint == language_model.fingerprint
    assert torch.equal(again.model(tokens(2, 9)), language_model.model(tokens(2, 9)))


def test_a_folder_with_other_things_is_not_replaced(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"mine")
    with pytest.raises(ValueError, match="exists and is not a folder of a language model"):
        minip2p.save(small_language_model(), tmp_path, "transformers")


def test_wrong_kinds_and_layouts_are_named(tmp_path, pipe):
    minip2p.save(small_language_model(), tmp_path / "instructions.safetensors")
    with pytest.raises(ValueError, match="holds a language model.*load_language_model reads it"):
        minip2p.load(tmp_path / "instructions.safetensors")
    with pytest.raises(ValueError, match="holds a .?classifier"):
        minip2p.load_language_model(minip2p.shipped("classifier"))
    with pytest.raises(ValueError, match="a language model has no diffusers layout"):
        minip2p.save(small_language_model(), tmp_path / "x", "diffusers")
    with pytest.raises(ValueError, match="a pipeline has no transformers layout"):
        checkpoints.write(tmp_path / "x", "transformers", pipe.config, {})


def saved(folder, **words):
    """A language model's folder whose config says other words."""
    minip2p.save(small_language_model(), folder, "transformers")
    values = json.loads((folder / "config.json").read_text()) | words
    (folder / "config.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    "words, message",
    [
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling.*linear"),
        ({"rope_scaling": None, "rope_parameters": {"rope_type": "yarn"}}, "rope_parameters.*yarn"),
        ({"attention_bias": True}, "attention_bias = True is not supported"),
        ({"mlp_bias": True}, "mlp_bias = True is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantization_config.*is not supported"),
        ({"head_dim": 5}, "head_size = 5: expected an even number"),
        ({"head_dim": None, "hidden_size": 23}, "heads = 4: expected a divisor of the width 23"),
        ({"num_key_value_heads": 3}, "kv_heads = 3: expected a divisor of heads = 4"),
        ({"num_attention_heads": 0}, "num_attention_heads = 0: expected at least 1"),
        ({"hidden_size": "wide"}, "hidden_size = 'wide'"),
        ({"sliding_window": 4}, "sliding_window = 4 is not supported in a Llama"),
        ({"eos_token_id": [2, 3]}, r"eos_token_id = \[2, 3\]"),
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "describes a GPT2LMHeadModel.*LlamaForCausalLM"),
        ({"num_hidden_layers": 1}, "9 tensors are unknown.*model.layers.1"),
        ({"num_hidden_layers": 3}, "9 missing.*in the file model.layers.2"),
        ({"hidden_size": 48}, "of another shape"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is true, but lm_head.weight"),
    ],
)
def test_an_unsupported_value_in_a_config_is_an_error(tmp_path, words, message):
    with pytest.raises(ValueError, match=message) as error:
        minip2p.load_language_model(saved(tmp_path / "w", **words))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_a_tokenizer_that_is_missing_damaged_or_too_large_is_named(tmp_path):
    folder = saved(tmp_path / "w")
    (folder / "tokenizer.model").write_bytes(b"<html>")
    with pytest.raises(ValueError, match="tokenizer.model: 6 bytes that are no sentencepiece model"):
        minip2p.load_language_model(folder)
    (folder / "tokenizer.model").rename(folder / "tokenizer.json")
    with pytest.raises(ValueError, match="w: no tokenizer.model"):
        minip2p.load_language_model(folder)
    weights = {"language_model": small(vocab_size=290).state_dict()}
    config = replace(CONFIG, vocab_size=290)
    checkpoints.write(tmp_path / "a", "minip2p", config, weights, tokenizer=Pieces.learn(TEXTS, 300))
    with pytest.raises(ValueError, match="a: a tokenizer of 300 pieces for a language model of 290"):
        minip2p.load_language_model(tmp_path / "a")
    checkpoints.write(tmp_path / "b", "minip2p", config, weights)
    with pytest.raises(ValueError, match="b: no tokenizer.model"):
        minip2p.load_language_model(tmp_path / "b")
    damaged = SimpleNamespace(to_dict=lambda: {"kind": "sentencepiece", "model": "?"})
    checkpoints.write(tmp_path / "c", "minip2p", config, weights, tokenizer=damaged)
    with pytest.raises(ValueError, match="c: the tokenizer's sentencepiece model is damaged"):
        minip2p.load_language_model(tmp_path / "c")


def test_a_file_of_weights_alone_is_told_what_it_lacks(tmp_path):
    folder = saved(tmp_path / "w")
    with pytest.raises(ValueError, match="without their config; give the folder"):
        minip2p.load_language_model(folder / "model.safetensors")


def test_info_and_convert_take_language_model(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    minip2p.save(small_language_model(), "a.safetensors")
    assert main(["convert", "--weights", "a.safetensors", "--output", "b", "--layout", "transformers"]) == 0
    assert main(["convert", "--weights", "b", "--output", "c.safetensors"]) == 0
    assert (
        minip2p.load_language_model("c.safetensors").fingerprint
        == minip2p.load_language_model("a.safetensors").fingerprint
    )
    capsys.readouterr()
    assert main(["info", "--weights", "b"]) == 0
    out = capsys.readouterr().out
    assert '"kv_heads": 2' in out and "from: from" in out and "parameters, float32" in out
    assert main(["convert", "--weights", "b", "--output", "d", "--widen"]) == 2
    assert "--widen is for text-to-image models" in capsys.readouterr().err


PIECES = Pieces.learn(TEXTS, 300)


@given(text=st.text(max_size=80) | st.text("a redct\n#%é日", max_size=300))
def test_any_text_goes_through_pieces_unchanged(text):
    text = text.replace("▁", "_")  # sentencepiece's own sign for a space
    ids = PIECES.encode(text)
    assert PIECES.decode(ids) == text
    assert all(0 <= i < len(PIECES) for i in ids)


PHRASED = Pieces.learn(TEXTS, 300, [" red cat", " blue bird"])


@given(text=st.text(max_size=40) | st.text("a redct\n#%é日", max_size=80))
def test_phrases_are_one_piece_wherever_they_stand(text):
    text = text.replace("▁", "_")
    red, blue = (PHRASED.encode(phrase) for phrase in (" red cat", " blue bird"))
    assert len(red) == len(blue) == 1
    assert PHRASED.decode(PHRASED.encode(text)) == text
    ids = PHRASED.encode(f"{text} blue bird\n{text} red cats")
    assert blue[0] in ids and red[0] in ids and PHRASED.decode(ids) == f"{text} blue bird\n{text} red cats"


def test_pieces_of_the_same_bytes_are_equal(tmp_path):
    PIECES.save(tmp_path)
    values = json.loads(json.dumps(PIECES.to_dict()))
    for again in (Pieces.from_dict(values), Pieces.from_file(tmp_path / "tokenizer.model")):
        assert again == PIECES and hash(again) == hash(PIECES)
    assert PIECES != Pieces.learn(TEXTS[:1] * 9, 290)
    with pytest.raises(ValueError, match="no sentencepiece model"):
        Pieces.from_dict({"kind": "clip"})


@pytest.mark.parametrize("data", [b"", b"abc", b"\n\0" * 5])
def test_bytes_that_are_no_pieces_are_refused(data):
    with pytest.raises(ValueError, match=f"{len(data)} bytes that are no sentencepiece model"):
        Pieces(data)
