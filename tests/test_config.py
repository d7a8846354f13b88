"""Configs: to JSON and back, changed by words, refused where they make no sense."""

import copy
import json
import pickle
from dataclasses import dataclass, replace

import pytest

from minip2p.config import (
    PRESETS,
    CLIPConfig,
    Config,
    DiTConfig,
    LlamaConfig,
    UNetConfig,
    VAEConfig,
    VisionConfig,
    from_dict,
    override,
    to_dict,
)
from minip2p.training.build import build
from minip2p.training.config import CLIPTraining, DiffusionTraining, InstructionTraining, TrainConfig, VAETraining


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
    words = ["unet.norm=rms", "unet.widths=(64, 128)", "unet.attention=('full', 'none')", "sampling.text_scale=3"]
    config = override(Config(), *words, "schedule.prediction=v")
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
        ("text.activation=relu", "'quick_gelu' or 'gelu'"),
        ("a.b.c=1", "a.b.c"),
    ],
)
def test_a_wrong_word_is_named(word, message):
    with pytest.raises(ValueError, match=message):
        override(Config(), word)


def test_an_unknown_key_is_named_with_its_place():
    with pytest.raises(ValueError, match="unet.depht"):
        from_dict(Config, {"unet": {"depht": 1}})


def test_a_config_is_a_plain_value():
    for config in (*PRESETS.values(), DiffusionTraining()):
        twin = copy.deepcopy(pickle.loads(pickle.dumps(config)))
        assert twin == config and hash(twin) == hash(config)
    assert replace(UNetConfig(), blocks=3).blocks == 3
    assert UNetConfig(widths=[64, 64], attention=["full", "none"]).widths == (64, 64)


@pytest.mark.parametrize(
    "kind, values, message",
    [
        (UNetConfig, {"widths": ()}, r"widths = \(\): expected a list of at least 1"),
        (UNetConfig, {"widths": (320, 640.5, 1280, 1280)}, r"widths\[1\] = 640.5: expected a whole number"),
        (UNetConfig, {"widths": 64}, "widths = 64: expected a list"),
        (UNetConfig, {"widths": {64}}, "widths = .64.: expected a list"),
        (UNetConfig, {"widths": (64, 64)}, "attention = .*: expected a word for each of 2 widths"),
        (UNetConfig, {"widths": (65,) * 4, "norm_groups": 5, "heads": 5}, "widths = .*: expected an even first one"),
        (UNetConfig, {"norm_groups": 48}, "norm_groups = 48: expected a number that divides all widths, 320 too"),
        (UNetConfig, {"norm_groups": 0}, "norm_groups = 0: expected at least 1"),
        (UNetConfig, {"heads": 7}, "heads = 7: expected a divisor of the width 320"),
        (UNetConfig, {"heads": None}, "heads = None: expected either heads or head_size"),
        (UNetConfig, {"head_size": 64}, "heads = 8: expected either heads or head_size"),
        (UNetConfig, {"heads": None, "head_size": 60}, "head_size = 60: expected a divisor of the width 320"),
        (UNetConfig, {"blocks": 10**9}, "blocks = 1000000000: expected at most 1000"),
        (UNetConfig, {"blocks": 10**30}, "blocks = 1000.*: expected at most 1000"),
        (UNetConfig, {"blocks": 900}, "blocks = 900: .* over 2000 transformers"),
        (UNetConfig, {"blocks": True}, "blocks = True: expected a whole number"),
        (UNetConfig, {"blocks": "2"}, "blocks = '2': expected a whole number"),
        (UNetConfig, {"blocks": float("nan")}, "blocks = nan: expected a whole number"),
        (UNetConfig, {"norm": ["group"]}, "norm = .*group.*: expected a text"),
        (UNetConfig, {"norm": ""}, "norm = ''"),
        (UNetConfig, {"linear_projection": 1}, "linear_projection = 1: expected true or false"),
        (UNetConfig, {"nrom": "rms"}, "unknown key 'nrom'; there are in_channels"),
        (DiTConfig, {"patch": 0}, "patch = 0"),
        (DiTConfig, {"width": 36}, "width = 36: expected a multiple of 8"),
        (DiTConfig, {"heads": 7}, "heads = 7"),
        (VAEConfig, {"scaling_factor": float("inf")}, "scaling_factor = inf: expected a finite number"),
        (VAEConfig, {"scaling_factor": 0}, "scaling_factor = 0: expected at least 1e-06"),
        (VAEConfig, {"widths": (16, 32)}, "norm_groups = 32"),
        (VisionConfig, {"patch_size": 15}, "image_size = 224: expected a multiple of patch_size = 15"),
        (LlamaConfig, {"kv_heads": 5}, "kv_heads = 5: expected a divisor of heads = 32"),
        (LlamaConfig, {"heads": 31, "kv_heads": 31}, "heads = 31: expected a divisor of the width 4096"),
        (LlamaConfig, {"eos": 32000}, "eos = 32000: expected less than vocab_size = 32000"),
        (LlamaConfig, {"bos": -1}, "bos = -1"),
        (LlamaConfig, {"vocab_size": 10**9}, "vocab_size = 1000000000: expected at most"),
        (TrainConfig, {"betas": (0.9,)}, "betas = .*: expected a list of at least 2"),
        (TrainConfig, {"betas": (0.9, 0.99, 0.999)}, "betas = .*: expected a list of at most 2"),
        (TrainConfig, {"betas": (0.9, 1)}, r"betas\[1\] = 1: expected less than 1"),
        (TrainConfig, {"weight_decay": -1}, "weight_decay = -1: expected at least 0"),
        (TrainConfig, {"learning_rate": -1}, "learning_rate = -1: expected more than 0"),
        (TrainConfig, {"learning_rate": float("nan")}, "learning_rate = nan: expected a finite number"),
        (TrainConfig, {"clip": -1}, "clip = -1"),
        (TrainConfig, {"ema": 1.5}, "ema = 1.5: expected less than 1"),
        (TrainConfig, {"seed": 2**64}, "seed = 18446744073709551616: expected less than 4294967296"),
        (TrainConfig, {"seed": -1}, "seed = -1"),
        (TrainConfig, {"warmup": -1}, "warmup = -1"),
        (TrainConfig, {"steps": 10**9}, "steps = 1000000000"),
        (TrainConfig, {"decay": ["cosine"]}, "decay = .*: expected 'constant' or 'cosine'"),
        (DiffusionTraining, {"held_out": -1}, "held_out = -1"),
        (DiffusionTraining, {"timestep_power": 0}, "timestep_power = 0: expected more than 0"),
        (DiffusionTraining, {"lora_rank": 4, "lora_alpha": 0}, "lora_alpha = 0: expected more than 0"),
        (DiffusionTraining, {"preview_scales": ()}, "preview_scales"),
        (DiffusionTraining, {"resize": (288, 256)}, "resize = .*: expected two sizes, from size = 256 on"),
        (DiffusionTraining, {"flip": 1.5}, "flip = 1.5: expected at most 1"),
        (DiffusionTraining, {"dropout": 0.4}, "dropout = 0.4: expected at most 0.333"),
        (DiffusionTraining, {"data": ("a",), "weights": (1.0, 2.0)}, "weights = .*: expected a number for each of 1"),
        (DiffusionTraining, {"data": "a"}, "data = 'a': expected a list"),
        (InstructionTraining, {"epochs": float("inf")}, "epochs = inf"),
        (VAETraining, {"size": 100}, "size = 100: expected a multiple of 8"),
        (CLIPTraining, {"size": 225}, "size = 225: expected model.vision.image_size = 224"),
    ],
)
def test_what_makes_no_sense_cannot_be_made(kind, values, message):
    """Neither in Python nor from a file, and the error is one line that begins with the file."""
    with pytest.raises(ValueError, match=f"^{message}") as error:
        kind(**values)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="^a.json: "):
        from_dict(kind, values, "a.json")


@pytest.mark.parametrize(
    "word, message",
    [
        ("text.eos=49408", "text.eos = 49408: expected less than vocab_size = 49408"),
        ("text.skip_last=12", "text.skip_last = 12: expected less than the 12 layers"),
        ("text.max_length=1", "text.max_length = 1"),
        ("text.heads=5", "text.heads = 5: expected a divisor of the width 768"),
        ("schedule.start=0.5", "schedule.start = 0.5: expected at most end = 0.012"),
        ("schedule.start=0", "schedule.start = 0: expected more than 0"),
        ("schedule.end=1", "schedule.end = 1: expected less than 1"),
        ("schedule.steps=1", "schedule.steps = 1"),
        ("schedule.shift=1e999", "schedule.shift = inf: expected a finite number"),
        ("sampling.multiple=0", "sampling.multiple = 0"),
        ("sampling.resolution=1000000", "sampling.resolution = 1000000"),
        ("sampling.text_scale=None", "sampling.text_scale = None: expected a number"),
        ("unet=None", "unet = None: expected an object"),
        ("unet.widths={1: 2}", "unet.widths = .*: expected a list"),
        ("unet.widths=" + "[" * 300 + "]" * 300, "unet.widths"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(word, message):
    with pytest.raises(ValueError, match=f"^{message}") as error:
        override(Config(), word)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "values", [None, [], "x", 3, nested(900), nested(5000), {"unet": nested(300)}, {1: 2}, {"": 1}]
)
def test_what_is_no_config_is_refused_in_one_line(values):
    with pytest.raises(ValueError, match="^a.json: ") as error:
        from_dict(Config, values, "a.json")
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_half_a_letter_is_no_text(text):
    with pytest.raises(ValueError, match="a.json: expected values of JSON"):
        from_dict(Config, {"denoiser": text}, "a.json")


@dataclass(frozen=True)
class Plain:
    n: int
    words: tuple[str, ...] = ()
    x: float = 1.0


def test_a_plain_dataclass_is_read_as_strictly():
    assert from_dict(Plain, {"n": 3, "words": ["a"], "x": 2}) == Plain(n=3, words=("a",), x=2.0)
    for values in ({"n": "3"}, {"n": True}, {"n": 3.0}, {}, {"n": 1, "words": "ab"}, {"n": 1, "x": float("nan")}):
        with pytest.raises(ValueError, match="^f: (n|words|x) "):
            from_dict(Plain, values, "f")


@pytest.mark.parametrize(
    "words, factor",
    [((), 64), (("denoiser=dit",), 16), (("denoiser=dit", "dit.patch=4"), 32), (("vae.widths=[32, 32]",), 16)],
)
def test_images_have_sides_that_the_networks_can_halve(words, factor):
    assert override(Config(), *words).factor == factor


@pytest.mark.parametrize(
    "words, message",
    [
        (["vae.in_channels=1"], "vae.in_channels = 1: expected 3"),
        (["vae.latent_channels=16"], "unet.out_channels = 4: expected 16"),
        (["denoiser=dit", "dit.text_width=512"], "dit.text_width = 512: expected 768"),
        (["text.width=1152"], "unet.text_width = 768: expected 1152"),
        (["sampling.multiple=32"], "sampling.multiple = 32: expected a multiple of 64"),
    ],
)
def test_parts_of_a_model_fit_together(words, message):
    Config().check_together()
    with pytest.raises(ValueError, match=message):
        override(Config(), *words).check_together()


def test_both_towers_of_clip_end_in_one_space():
    with pytest.raises(ValueError, match="text.projection = None: expected vision.projection = 768"):
        override(CLIPConfig(), "text.projection=None")


def test_an_unknown_denoiser_is_named_before_anything_is_built():
    with pytest.raises(ValueError, match="denoiser = 'foo': expected one of unet, dit"):
        build({"vae": None, "foo": UNetConfig()}, seed=0)
