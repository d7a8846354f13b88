"""Configs and tokenizers of other libraries: read by types and ranges, and refused in one line that names the file."""

import json

import pytest

from minip2p.checkpoints import CheckpointError, clip, configs, language
from minip2p.checkpoints import read as read_checkpoint
from minip2p.config import Config, LlamaConfig, override
from minip2p.text.bpe import BPE
from minip2p.tokenizer_files import special_tokens

HUGE, DEEP = 10**9, "[" * 1000 + "]" * 1000


def read(kind, values, path):
    """One of the readers, on a config.json of these values, or of this text."""
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    if kind == "text":
        return clip.text_config(path, None)
    if kind == "clip":
        return clip.clip_config(path, clip.CLIPConfig())
    if kind == "language":
        return language.language_config(path)
    if kind == "sampling":
        return configs.sampling(path, Config())
    return getattr(configs, kind)(path)


@pytest.mark.parametrize("kind", ["unet", "vae", "schedule", "text", "clip", "language", "sampling"])
@pytest.mark.parametrize("text", ["[]", "null", "{", DEEP, '{"a": NaN}', '{"a": ' + DEEP + "}", "\x00", '"x"'])
def test_what_is_no_config_is_refused(kind, text, tmp_path):
    with pytest.raises(CheckpointError, match=f"^{tmp_path}/config.json: ") as error:
        read(kind, text, tmp_path / "config.json")
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize(
    "kind, values, message",
    [
        ("unet", {"layers_per_block": HUGE}, "layers_per_block = 1000000000: expected at most 1000"),
        ("unet", {"layers_per_block": [2, 1, 2, 2]}, r"layers_per_block = \[2, 1, 2, 2\]: expected a whole number"),
        ("unet", {"layers_per_block": 0}, "layers_per_block = 0: expected at least 1"),
        ("unet", {"layers_per_block": None}, "layers_per_block = None: expected a whole number"),
        ("unet", {"layers_per_block": 900}, "blocks = 900: .* over 2000 transformers"),
        ("unet", {"transformer_layers_per_block": HUGE}, "transformer_layers_per_block = 1000000000"),
        ("unet", {"block_out_channels": []}, r"block_out_channels = \[\]: expected a list of at least 1"),
        ("unet", {"block_out_channels": [320] * 1000}, "block_out_channels = .*: expected a list of at most 10"),
        ("unet", {"block_out_channels": {"a": 1}}, "block_out_channels = .*: expected a list"),
        ("unet", {"block_out_channels": [320, "640", 1, 1]}, r"block_out_channels\[1\] = '640': expected a whole"),
        ("unet", {"block_out_channels": [320, 640]}, "down_block_types = .*: expected 2 on the way down"),
        ("unet", {"down_block_types": "DownBlock2D"}, "down_block_types = 'DownBlock2D': expected a list"),
        ("unet", {"down_block_types": ["AttnDownBlock2D"] * 4}, r"down_block_types\[0\] = 'AttnDownBlock2D': expected"),
        ("unet", {"down_block_types": [["x"]] * 4}, r"down_block_types\[0\] = \['x'\]"),
        ("unet", {"attention_head_dim": 0}, r"attention_head_dim\[0\] = 0: expected at least 1"),
        ("unet", {"attention_head_dim": [5, 10]}, ".* gives neither one number of heads nor one head size"),
        ("unet", {"attention_head_dim": 7}, "heads = 7: expected a divisor of the width 320"),
        ("unet", {"num_attention_heads": "eight"}, r"num_attention_heads\[0\] = 'eight': expected a whole number"),
        ("unet", {"norm_num_groups": 33}, "norm_groups = 33"),
        ("unet", {"norm_num_groups": True}, "norm_num_groups = True: expected a whole number"),
        ("unet", {"use_linear_projection": "yes"}, "use_linear_projection = 'yes': expected true or false"),
        ("unet", {"resnet_time_scale_shift": ["default"]}, "resnet_time_scale_shift = .*: expected 'default' or"),
        ("unet", {"act_fn": ["silu"]}, "act_fn = .* is not supported; expected 'silu'"),
        ("unet", {"cross_attention_dim": 1e3}, "cross_attention_dim = 1000.0: expected a whole number"),
        ("sampling", {"sample_size": HUGE}, r"sample_size\[0\] = 1000000000: expected at most"),
        ("vae", {"scaling_factor": 0}, "scaling_factor = 0: expected more than 0"),
        ("vae", {"scaling_factor": "0.18"}, "scaling_factor = '0.18': expected a number"),
        ("vae", {"scaling_factor": None}, "scaling_factor = None"),
        ("vae", {"latent_channels": HUGE}, "latent_channels = 1000000000"),
        ("vae", {"block_out_channels": [33]}, "norm_groups = 32"),
        ("vae", {"out_channels": 4}, "out_channels = 4 is not supported; expected 3"),
        ("schedule", {"num_train_timesteps": HUGE}, "num_train_timesteps = 1000000000"),
        ("schedule", {"num_train_timesteps": 1}, "steps = 1: expected at least 2"),
        ("schedule", {"beta_start": 0}, "beta_start = 0: expected more than 0"),
        ("schedule", {"beta_start": 0.5}, "start = 0.5: expected at most end = 0.02"),
        ("schedule", {"beta_schedule": {}}, "beta_schedule = {}: expected 'linear', "),
        ("schedule", {"prediction_type": "flow"}, "prediction_type = 'flow': expected 'epsilon', "),
        ("text", {"hidden_size": 510}, "heads = 8: expected a divisor of the width 510"),
        ("text", {"vocab_size": HUGE}, "vocab_size = 1000000000"),
        ("text", {"vocab_size": 1}, "bos = -1"),
        ("text", {"max_position_embeddings": HUGE}, "max_position_embeddings = 1000000000|max_length"),
        ("text", {"num_hidden_layers": -1}, "num_hidden_layers = -1: expected at least 1"),
        ("text", {"hidden_act": "relu"}, "hidden_act = 'relu': expected 'quick_gelu' or 'gelu'"),
        ("text", {"layer_norm_eps": 1e-6}, "layer_norm_eps = 1e-06 is not supported"),
        ("clip", {"text_config": []}, r"text_config = \[\]: expected an object"),
        ("clip", {"vision_config": {"num_attention_heads": 7}}, "heads = 7"),
        ("clip", {"vision_config": {"layer_norm_eps": 1}}, "layer_norm_eps = 1.0 is not supported"),
        ("clip", {"text_config": {"hidden_act": 3}}, "text_config.hidden_act = 3: expected 'quick_gelu' or 'gelu'"),
        ("language", {"num_hidden_layers": HUGE}, "num_hidden_layers = 1000000000"),
        ("language", {"vocab_size": 2, "eos_token_id": 2}, "eos = 2: expected less than vocab_size = 2"),
        ("language", {"bos_token_id": -1}, "bos_token_id = -1"),
        ("language", {"num_key_value_heads": 5}, "kv_heads = 5: expected a divisor"),
        ("language", {"rms_norm_eps": "small"}, "rms_norm_eps = 'small': expected a number"),
        ("language", {"rope_theta": -1}, "rope_theta = -1"),
        ("language", {"rope_scaling": "linear"}, "rope_scaling = 'linear': expected an object"),
        ("language", {"rope_parameters": {"rope_theta": "x"}}, "rope_theta = 'x'"),
        ("language", {"model_type": ["llama"]}, r"model_type = \['llama'\]: expected a text"),
        ("language", {"tie_word_embeddings": "no"}, "tie_word_embeddings = 'no': expected true or false"),
    ],
)
def test_a_value_that_makes_no_sense_is_named_as_in_the_file(kind, values, message, tmp_path):
    with pytest.raises(CheckpointError, match=f"^{tmp_path}/config.json: ({message})") as error:
        read(kind, values, tmp_path / "config.json")
    assert "\n" not in str(error.value)


def test_what_published_files_say_is_read(tmp_path):
    """Null for what is not used, lists of equal numbers, words of other versions."""
    unet = read("unet", {"num_attention_heads": None, "layers_per_block": [2] * 4, "_new": {"a": []}}, tmp_path / "a")
    assert unet == override(Config(), "unet.text_width=1280").unet
    heads = read("unet", {"attention_head_dim": [5, 10, 20, 20]}, tmp_path / "b")
    assert (heads.heads, heads.head_size) == (None, 64)
    assert read("sampling", {"sample_size": [64, 96]}, tmp_path / "c").resolution == 768
    assert read("sampling", {"sample_size": []}, tmp_path / "c").resolution == 512
    assert read("language", {"bos_token_id": None, "num_key_value_heads": None}, tmp_path / "d") == LlamaConfig(
        max_length=2048, norm_eps=1e-6
    )
    mistral = read("language", {"model_type": "mistral"}, tmp_path / "e")
    assert (mistral.kv_heads, mistral.window, mistral.feed_forward) == (8, 4096, 14336)


@pytest.mark.parametrize(
    "name, values, message",
    [
        ("vocab.json", {"a": -1}, "vocab.json: a = -1: expected at least 0"),
        ("vocab.json", {"a": 1.5}, "vocab.json: a = 1.5: expected a whole number"),
        ("vocab.json", {"a": HUGE}, "vocab.json: a = 1000000000"),
        ("added_tokens.json", {"<x>": "1"}, "added_tokens.json: <x> = '1': expected a whole number"),
        ("tokenizer_config.json", {"model_max_length": []}, "model_max_length = "),
        ("tokenizer_config.json", {"model_max_length": -77}, "max_length=-77"),
        ("tokenizer_config.json", {"bos_token": 3}, "bos_token"),
        ("tokenizer_config.json", {"bos_token": {"content": []}}, "bos_token"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "a"}}}, "added_tokens_decoder"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"7": "a"}}, "added_tokens_decoder.7 = 'a'"),
        ("special_tokens_map.json", {"pad_token": ["a"]}, "pad_token"),
        ("tokenizer.json", {"model": {"type": "BPE"}}, "model.end_of_word_suffix is missing"),
        ("tokenizer.json", {"model": 3}, "model = 3: expected an object"),
        ("tokenizer.json", {"added_tokens": [{"content": "a"}]}, "tokenizer.json: "),
    ],
)
def test_a_tokenizer_that_makes_no_sense_is_refused(name, values, message, tmp_path):
    BPE.clip().save(tmp_path)
    (tmp_path / name).write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message) as error:
        BPE.from_folder(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value) and len(str(error.value)) < 500


def test_the_map_of_special_tokens_overrides_the_tokenizer_config(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": "!", "bos_token": {"content": "<a>"}}')
    (tmp_path / "special_tokens_map.json").write_text('{"pad_token": null, "bos_token": "<b>"}')
    found = special_tokens(tmp_path)
    assert (found["pad"].content, found["bos"].content, found["eos"].content) == ("!", "<b>", "<|endoftext|>")


@pytest.mark.parametrize(
    "changes",
    [{"vocab": {}}, {"vocab": []}, {"merges": ["a b c"]}, {"merges": [1]}, {"merges": [["a"]]}, {"merges": [["a", 1]]}]
    + [{"bos": "1"}, {"max_length": HUGE}, {"max_length": None}, {"lifted": {"!": 1}}, {"lifted": []}, {"x": 1}],
)
def test_a_tokenizer_in_a_header_is_read_by_types(changes):
    bpe = BPE(
        vocab={"a": 0, "b": 1, "<s>": 2, "ab": 3}, merges=(("a", "b"),), bos=2, eos=2, pad=2, lifted={"<s>": False}
    )
    assert BPE.from_dict(bpe.to_dict()) == bpe
    with pytest.raises(ValueError) as error:
        BPE.from_dict(bpe.to_dict() | changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("values", [{"model_type": ["clip"]}, {"architectures": 3}, {"architectures": [["x"]]}, {}])
@pytest.mark.parametrize("more", [{}, {"_class_name": "x" * 5000}, {"_class_name": {}}])
def test_a_folder_that_says_nonsense_of_its_network_is_refused(values, more, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(values | more))
    with pytest.raises(CheckpointError, match=f"^{tmp_path}/config.json: ") as error:
        read_checkpoint(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
