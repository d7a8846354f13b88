"""The language model against transformers': folders as it writes them, read by us, and the way back.

Weights are random. Names: Llama 2 has as many heads of keys as of queries; TinyLlama groups them; Mistral has a window.
"""

import io
import json
from dataclasses import replace

import pytest
import sentencepiece
import torch
from conftest import randomise
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig as HFLlamaConfig
from transformers import (
    LlamaForCausalLM,
    LlamaTokenizer,
    MistralConfig,
    MistralForCausalLM,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)
from transformers.convert_slow_tokenizer import generate_merges

import minip2p
from minip2p.config import LlamaConfig
from minip2p.models.llama import Cache
from minip2p.text.generate import Row, Sampling, left_padded, next_distribution
from minip2p.text.pieces import Pieces

SIZES = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
}
OURS = LlamaConfig(
    vocab_size=320, max_length=4096, width=32, layers=3, heads=4, kv_heads=4, head_size=8, feed_forward=56
)
MODELS = {
    "llama": (HFLlamaConfig(**SIZES), OURS),
    "tinyllama": (HFLlamaConfig(**SIZES, num_key_value_heads=2), replace(OURS, kv_heads=2)),
    "mistral": (MistralConfig(**SIZES, num_key_value_heads=1, sliding_window=7), replace(OURS, kv_heads=1, window=7)),
    "tied": (HFLlamaConfig(**SIZES, tie_word_embeddings=True), replace(OURS, tied=True)),
    "wide heads": (HFLlamaConfig(**SIZES, head_dim=12), replace(OURS, head_size=12)),
    "long waves": (
        HFLlamaConfig(**SIZES, rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
        replace(OURS, rope_theta=1e6),
    ),
}
TEXTS = ["a red cat in a meadow", "make it night é", "12 cats in 1999, 日本", "The brown fox  jumps\tover a dog. "] * 30


def llama_pieces() -> Pieces:
    """A sentencepiece model learnt by the published ones' options, a space before the first word included."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        model_type="bpe",
        vocab_size=310,
        byte_fallback=True,
        character_coverage=0.999,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        num_threads=1,
        minloglevel=2,
    )
    return Pieces(model.getvalue())


@pytest.fixture(scope="module", params=MODELS)
def case(request, tmp_path_factory):
    """transformers' model, its folder (in shards), our config of it, our language model of that folder."""
    theirs, ours = MODELS[request.param]
    kind = MistralForCausalLM if isinstance(theirs, MistralConfig) else LlamaForCausalLM
    model = randomise(kind(theirs))
    folder = tmp_path_factory.mktemp(request.param.replace(" ", "_"))
    model.save_pretrained(folder, max_shard_size="30KB")
    llama_pieces().save(folder)
    return model, folder, ours, minip2p.load_language_model(folder)


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 320, shape, generator=torch.Generator().manual_seed(seed))


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference, relative to the largest logit."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


@torch.no_grad()
def test_configs_and_logits_are_those_of_transformers(case):
    model, folder, ours, language_model = case
    assert len(list(folder.glob("model-*.safetensors"))) > 1, "one file is no test of shards"
    assert language_model.config == ours
    x = tokens(3, 40)
    assert error(language_model.model(x), model(x).logits) < 2e-5


@torch.no_grad()
def test_far_positions_turn_by_the_same_angles(case):
    model, _, _, language_model = case
    x = tokens(1, 1200)
    assert error(language_model.model(x)[:, -5:], model(x).logits[:, -5:]) < 2e-5


@torch.no_grad()
def test_left_padded_rows_are_those_of_transformers(case):
    model, _, _, language_model = case
    x, padding = left_padded([tokens(n, seed=n).tolist() for n in (1, 9, 14, 20)], 2)
    there = torch.arange(x.shape[1]) >= padding[:, None]
    theirs = model(x, attention_mask=there.long(), position_ids=(there.cumsum(1) - 1).clamp(min=0)).logits
    assert error(language_model.model(x, padding=padding)[there], theirs[there]) < 2e-5


@torch.no_grad()
def test_logits_by_the_cache_are_those_of_the_whole_text(case):
    model, _, _, language_model = case
    x, padding = left_padded([tokens(n, seed=n).tolist() for n in (5, 16, 11)], 2)
    there = torch.arange(x.shape[1]) >= padding[:, None]
    cache = Cache(language_model.config, 3, 16)
    parts = [language_model.model(part, cache, padding) for part in x.split([7, 1, 1, 4, 1, 2], dim=1)]
    assert error(torch.cat(parts, 1)[there], language_model.model(x, padding=padding)[there]) < 2e-5


@torch.no_grad()
def test_greedy_completions_of_a_ragged_batch_are_those_of_transformers(case):
    model, _, _, language_model = case
    prompts = ["a", "a red cat\n##\n", "日本 12", "make it night é and the fox a dog"]
    x, padding = left_padded([[1, *language_model.pieces.encode(prompt)] for prompt in prompts], 2)
    mask = (torch.arange(x.shape[1]) >= padding[:, None]).long()
    cut = [[i] for i in range(len(language_model.pieces), 320)]  # the vocabulary's padding, which is no text
    theirs = model.generate(
        x, attention_mask=mask, max_new_tokens=12, do_sample=False, pad_token_id=0, bad_words_ids=cut
    )[:, x.shape[1] :]
    found = dict(language_model.completions(prompts, Sampling(temperature=0, max_tokens=12)))
    for i, row in enumerate(theirs.tolist()):
        row = row[: row.index(2) + 1] if 2 in row else row
        assert list(found[i].ids) == row


@torch.no_grad()
@pytest.mark.parametrize("layout", ["transformers", "minip2p"])
def test_a_language_model_that_we_write_is_read_again_and_by_transformers(case, layout, tmp_path):
    model, _, ours, language_model = case
    path = tmp_path / "instructions"
    minip2p.save(language_model, path, layout)
    again = minip2p.load_language_model(path)
    assert (again.config, again.pieces, again.fingerprint) == (ours, language_model.pieces, language_model.fingerprint)
    if layout == "transformers":
        kind = MistralForCausalLM if ours.window else LlamaForCausalLM
        theirs, x = kind.from_pretrained(path), tokens(2, 30)
        assert torch.equal(theirs(x).logits, model(x).logits)


def test_bfloat16_weights_are_read_as_they_are(tmp_path):
    randomise(LlamaForCausalLM(MODELS["tinyllama"][0])).bfloat16().save_pretrained(tmp_path)
    theirs = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    llama_pieces().save(tmp_path)
    x = tokens(2, 20)
    assert minip2p.load_language_model(tmp_path, dtype=None).dtype == torch.bfloat16
    with torch.no_grad():
        assert error(minip2p.load_language_model(tmp_path).model(x), theirs(x).logits) < 2e-5


def test_pickled_weights_with_tables_of_angles_are_read(tmp_path):
    """As Llama 2 was first published."""
    model = randomise(LlamaForCausalLM(MODELS["llama"][0]))
    model.config.save_pretrained(tmp_path)
    llama_pieces().save(tmp_path)
    table = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    torch.save(model.state_dict() | table, tmp_path / "pytorch_model.bin")
    x = tokens(2, 20)
    with torch.no_grad():
        assert error(minip2p.load_language_model(tmp_path).model(x), model(x).logits) < 2e-5
    bias = {"model.layers.0.self_attn.q_proj.bias": torch.ones(32)}
    torch.save(model.state_dict() | bias, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="unknown.*q_proj.bias"):
        minip2p.load_language_model(tmp_path)


def test_published_words_of_a_config_are_read(tmp_path):
    """Llama 2's and Mistral's, as their folders have them: older words than today's library writes."""
    values = json.loads((write_config(tmp_path, MODELS["llama"][0])).read_text())
    for word in ("rope_parameters", "head_dim", "num_key_value_heads", "rope_scaling"):
        values.pop(word, None)

    def read(**words):
        return minip2p.checkpoints.language.language_config(write_words(tmp_path, values | words))

    assert read(rope_theta=5e5, rope_scaling=None) == replace(OURS, head_size=None, rope_theta=5e5)
    mistral = read(model_type="mistral", num_key_value_heads=2)
    assert (mistral.window, mistral.kv_heads) == (MistralConfig().sliding_window, 2)
    assert read(model_type="mistral", num_key_value_heads=4, sliding_window=None).window is None


def write_config(folder, config):
    config.save_pretrained(folder)
    return folder / "config.json"


def write_words(folder, words):
    (folder / "config.json").write_text(json.dumps(words))
    return folder / "config.json"


@pytest.fixture(scope="module")
def tokenizers():
    """Ours, and transformers' of the same pieces."""
    ours = llama_pieces()
    model = sentencepiece.SentencePieceProcessor(model_proto=ours.model)
    names = [model.id_to_piece(i) for i in range(len(ours))]
    merges = generate_merges(
        {name: i for i, name in enumerate(names)}, {name: model.get_score(i) for i, name in enumerate(names)}
    )
    return ours, LlamaTokenizer(vocab={name: i for i, name in enumerate(names)}, merges=merges)


@given(text=st.text(max_size=60) | st.text("a redcat#\n%1é日", max_size=400).map(lambda text: text * 3))
def test_pieces_are_those_of_transformers(tokenizers, text):
    """But for texts that begin with a space, before which today's transformers puts none, as sentencepiece does."""
    ours, theirs = tokenizers
    text = "a" + text if text.startswith((" ", "▁")) else text
    assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)


def test_names_of_special_tokens_are_plain_text_to_us_only(tokenizers):
    ours, theirs = tokenizers
    assert 1 in theirs.encode("<s>", add_special_tokens=False)
    assert not {1, 2} & set(ours.encode("<s> </s>"))


def test_a_completion_keeps_the_space_that_it_begins_with(tokenizers):
    """Which a tokenizer of this kind drops at the start of a text."""
    pieces = tokenizers[0]
    before, after = pieces.encode("a red cat")[:1], pieces.encode("a red cat")[1:]
    row = Row(0, [1, *before], 0, pieces.decode)
    row.ids.extend(after)
    assert row.text == " red cat" and pieces.decode(after) == "red cat"


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 1.0])
def test_the_distribution_is_that_of_transformers_warpers(temperature, top_p):
    logits = 4 * torch.randn(6, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = TemperatureLogitsWarper(temperature)(None, logits)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    ours = next_distribution(logits, torch.zeros(6, 50), temperature, top_p, 0.0)
    torch.testing.assert_close(ours, scores.softmax(-1), rtol=1e-12, atol=0)
