"""Configs: to JSON and back, changed by words, refused where they make no sense."""

import json

import pytest

from minip2p.config import PRESETS, CLIPConfig, Config, UNetConfig, from_dict, override, to_dict


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_json(name):
    config = PRESETS[name]
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config


def test_clip_survives_json():
    assert from_dict(CLIPConfig, json.loads(json.dumps(to_dict(CLIPConfig())))) == CLIPConfig()


def test_the_presets_are_the_published_models():
    assert PRESETS["sd15"].unet.in_channels == 4 and PRESETS["pix2pix"].unet.in_channels == 8
    assert PRESETS["sd2"].unet.head_size == 64 and PRESETS["sd2"].text.width == PRESETS["sd2"].unet.text_width == 1024


def test_words_change_a_config():
    config = override(
        Config(), "unet.norm=rms", "unet.widths=(64, 128)", "sampling.text_scale=3", "schedule.prediction=v"
    )
    assert config.unet.norm == "rms" and config.unet.widths == (64, 128)
    assert config.sampling.text_scale == 3.0 and isinstance(config.sampling.text_scale, float)
    assert config.schedule.prediction == "v" and config.vae == Config().vae


def test_none_is_a_word_where_it_is_allowed():
    assert override(Config(), "unet.heads=None", "unet.head_size=64").unet == UNetConfig(heads=None, head_size=64)


@pytest.mark.parametrize(
    "word, message",
    [
        ("unet.nrom=rms", "unet.nrom"),
        ("unet", "name=value"),
        ("unet.blocks=two", "blocks"),
        ("unet.blocks=2.5", "blocks"),
        ("unet.blocks=True", "blocks"),
        ("unet.widths=64", "widths"),
        ("text.activation=relu", "'quick_gelu', 'gelu'"),
        ("a.b.c=1", "a.b.c"),
    ],
)
def test_a_wrong_word_is_named(word, message):
    with pytest.raises(ValueError, match=message):
        override(Config(), word)


def test_an_unknown_key_is_named_with_its_place():
    with pytest.raises(ValueError, match="unet.depht"):
        from_dict(Config, {"unet": {"depht": 1}})
