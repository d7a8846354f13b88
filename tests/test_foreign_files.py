"""What people bring: original files that say something of themselves, files and folders of other kinds and families."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import randomise, small_config
from PIL import Image
from safetensors.torch import load_file, save_file

import minip2p
from minip2p import checkpoints
from minip2p.checkpoints.described import read_yaml
from minip2p.checkpoints.files import open_weights, write_safetensors
from minip2p.cli import main
from minip2p.cli.convert import widened
from minip2p.config import Config, TextConfig
from minip2p.models.text_encoder import TextEncoder
from minip2p.models.unet import UNet
from minip2p.models.vae import AutoencoderKL
from minip2p.text.bpe import BPE

NOTHING = torch.zeros(0)
UNET = "model.diffusion_model."


def config_of(inputs: int = 4, *, words: int = 49408, linear: bool = False) -> Config:
    """A small model whose config can be read off its original file: linear projections are Stable Diffusion 2's."""
    c = small_config(inputs)
    heads = {"heads": None, "head_size": 64} if linear else {"heads": 8}
    unet = replace(c.unet, widths=(64, 64), norm_groups=32, linear_projection=linear, **heads)
    kind = {"activation": "gelu", "pad": 0} if linear else {}
    text = TextConfig(vocab_size=words, width=32, heads=1, layers=2, feed_forward=64, **kind)
    return replace(c, unet=unet, vae=replace(c.vae, widths=(32, 32), norm_groups=32), text=text)


def parts_of(config: Config) -> dict:
    networks = (("unet", UNet), ("vae", AutoencoderKL), ("text", TextEncoder))
    return {part: randomise(make(getattr(config, part))).state_dict() for part, make in networks}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """(inputs, linear) -> the tensors of an original file."""
    made = {}

    def tensors(inputs: int = 4, linear: bool = False) -> dict:
        if (inputs, linear) not in made:
            config, path = config_of(inputs, linear=linear), tmp_path_factory.mktemp("o") / "a.safetensors"
            checkpoints.write(path, "original", config, parts_of(config), ema_parts={})
            made[inputs, linear] = open_weights(path).tensors
        return dict(made[inputs, linear])

    return tensors


def same(parts: dict, others: dict) -> bool:
    return parts.keys() == others.keys() and all(
        parts[p].keys() == others[p].keys() and all(torch.equal(t, others[p][n]) for n, t in parts[p].items())
        for p in parts
    )


# Inputs of other numbers


@pytest.mark.parametrize("inputs, kind", [(5, "depth"), (7, "upscaler"), (9, "inpainting"), (6, "denoiser with 6")])
def test_models_with_other_inputs_are_named_and_refused(inputs, kind, originals, tmp_path):
    """For edit, generate and widening; training has a test of its own."""
    write_safetensors(tmp_path / "a.safetensors", originals(inputs), {})
    pipe = minip2p.load(tmp_path / "a.safetensors")
    assert pipe.kind.startswith(kind)
    refused = f"this model is of kind '{kind}.*{inputs} input channels.* is needed: load"
    for call in (lambda: pipe.edit(Image.new("RGB", (64, 64)), "x"), lambda: pipe.generate("x"), lambda: widened(pipe)):
        with pytest.raises(ValueError, match=refused):
            call()
    tensors = {"conv_in.weight": torch.zeros(8, inputs, 3, 3)}
    with pytest.raises(ValueError, match=f"has {inputs} input channels; expected half of 8"):
        checkpoints.widen(tensors)


def test_info_and_widening_of_an_inpainting_model(originals, here, capsys):
    write_safetensors(Path("a.safetensors"), originals(9), {})
    before = sorted(os.listdir())
    assert main(["info", "--weights", "a.safetensors"]) == 0
    assert "inpainting (9 input channels)" in capsys.readouterr().out
    assert main(["convert", "--widen", "--weights", "a.safetensors", "--output", "b.safetensors"]) == 2
    assert "kind 'inpainting'" in capsys.readouterr().err and sorted(os.listdir()) == before


# What a file says of itself


V = {"schedule.prediction": "v"}
ZERO = V | {"schedule.kind": "zero_snr"}
SPEC = "modelspec."
STABLE = "stable-diffusion-v2-768-v"


@pytest.mark.parametrize(
    "markers, metadata, expected",
    [
        ({"v_pred": NOTHING}, {}, V),
        ({"v_pred": torch.ones(1), "ztsnr": torch.ones(1)}, {}, ZERO),
        ({"ztsnr": NOTHING}, {}, ZERO),
        ({"alphas_cumprod": torch.linspace(0.999, 0, 1000)}, {}, ZERO),
        ({"denoiser.sigmas": torch.linspace(0.03, 4096, 1000)}, {}, ZERO),
        ({}, {"ss_zero_terminal_snr": "True", SPEC + "prediction_type": "v"}, ZERO),
        ({}, {SPEC + "prediction_type": "v"}, V),
        ({}, {SPEC + "predict_key": "v_prediction", SPEC + "resolution": "640x768"}, V | {"sampling.resolution": 768}),
        ({}, {SPEC + "architecture": STABLE, SPEC + "resolution": "768"}, V | {"sampling.resolution": 768}),
        ({}, {SPEC + "prediction_type": "epsilon", SPEC + "title": "x"}, {"schedule.prediction": "eps"}),
    ],
)
def test_a_file_says_what_it_predicts(markers, metadata, expected, originals, tmp_path):
    write_safetensors(tmp_path / "a.safetensors", originals(linear=True) | markers, metadata)
    loaded = checkpoints.read(tmp_path / "a.safetensors")
    found = minip2p.config.words_of(loaded.config)
    assert {word: found[word] for word in expected} == expected and not loaded.notes
    assert checkpoints.read(tmp_path / "a.safetensors", config=config_of(linear=True)).config == config_of(linear=True)


def test_where_nothing_says_it_a_note_does(originals, tmp_path):
    tensors = originals(linear=True) | {"a_marker.of_some_tool": NOTHING}
    write_safetensors(tmp_path / "a.safetensors", tensors, {"modelspec.title": "x", "format": "pt"})
    loaded = checkpoints.read(tmp_path / "a.safetensors")
    assert loaded.config.schedule.prediction == "eps" and "does not say whether it predicts eps or v" in loaded.notes[0]
    write_safetensors(tmp_path / "b.safetensors", originals(), {})
    assert not checkpoints.read(tmp_path / "b.safetensors").notes  # Stable Diffusion 1


@pytest.mark.parametrize(
    "markers, metadata, reason",
    [
        ({"edm_mean": torch.zeros(4), "edm_std": torch.ones(4)}, {}, "edm_mean: trained with EDM"),
        ({"edm_vpred.sigma_max": torch.tensor(120.0)}, {}, "edm_vpred.sigma_max: trained with EDM"),
        ({}, {SPEC + "prediction_type": "rectified_flow"}, "modelspec.prediction_type = 'rectified_flow'.*one of eps"),
        ({}, {SPEC + "architecture": "stable-diffusion-xl-v1-base"}, "'stable-diffusion-xl-v1-base'; expected Stable"),
        ({}, {SPEC + "architecture": "stable-diffusion-v1/lora"}, "stable-diffusion-v1/lora'; expected"),
        ({}, {SPEC + "resolution": "large"}, "modelspec.resolution = 'large': expected a size"),
        ({}, {SPEC + "resolution": "99999x9"}, "resolution"),
        (
            {"ztsnr": NOTHING},
            {SPEC + "prediction_type": "epsilon"},
            "prediction = 'eps': expected v with kind = 'zero_snr'",
        ),
    ],
)
def test_what_a_file_says_of_itself_and_is_not_supported(markers, metadata, reason, originals, tmp_path):
    write_safetensors(tmp_path / "a.safetensors", originals(linear=True) | markers, metadata)
    with pytest.raises(checkpoints.CheckpointError, match=f"a.safetensors: .*{reason}"):
        checkpoints.read(tmp_path / "a.safetensors")


YAML = """# a comment
model:
  base_learning_rate: 1.0e-4
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    parameterization: "v"   # another
    linear_start: 0.0009
    timesteps: 500
    conditioning_key: crossattn
    unet_config:
      params:
        in_channels: 4
        attention_resolutions: [ 4, 2, 1 ]
        channel_mult:
        - 1
        - 2
    scale_factor: 0.2
"""


def test_a_yaml_beside_a_file(originals, tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, originals(linear=True), {})
    (tmp_path / "a.yaml").write_text(YAML)
    loaded = checkpoints.read(path)
    schedule = loaded.config.schedule
    assert (schedule.prediction, schedule.start, schedule.end, schedule.steps) == ("v", 0.0009, 0.012, 500)
    assert loaded.config.vae.scaling_factor == 0.2 and not loaded.notes
    assert read_yaml(tmp_path / "a.yaml")["model.params.unet_config.params.attention_resolutions"] == "[ 4, 2, 1 ]"
    write_safetensors(path, originals(linear=True), {SPEC + "prediction_type": "epsilon"})  # the two differ
    loaded = checkpoints.read(path)
    assert loaded.config.schedule.prediction == "eps" and "which was taken; a.yaml beside it: v" in loaded.notes[0]
    for old, new, reason in (
        ("in_channels: 4", "in_channels: 8", "in_channels = 8, but the UNet in a.safetensors has 4"),
        ("crossattn", "adm", "conditioning_key = 'adm' is not supported"),
        ('"v"', "flow", "parameterization = 'flow' is not supported"),
        ("500", "many", "timesteps = 'many': expected a number"),
        ("0.0009", "-1", "schedule.start = -1.*more than 0"),
    ):
        (tmp_path / "a.yaml").write_text(YAML.replace(old, new))
        with pytest.raises(checkpoints.CheckpointError, match=reason):
            checkpoints.read(path)
    for other in ("- a\n- list\n", "", "\0\x1b[31m: x\n\t{", "a: &a [*a, *a]\n" * 9, "datasets:\n  - path: x\n"):
        (tmp_path / "a.yaml").write_text(other)
        assert checkpoints.read(path).config.schedule.prediction == "eps"


def test_a_noise_schedule_in_the_file_is_compared_with_the_one_taken(originals, tmp_path):
    ours = minip2p.diffusion.BetaSchedule().alphas_cumprod
    for name, levels in (("alphas_cumprod", ours.half()), ("denoiser.sigmas", (1 / ours - 1).sqrt().float())):
        write_safetensors(tmp_path / "a.safetensors", originals() | {name: levels}, {})
        assert not minip2p.load(tmp_path / "a.safetensors").notes
    other = minip2p.diffusion.BetaSchedule(kind="linear").alphas_cumprod
    write_safetensors(tmp_path / "b.safetensors", originals() | {"alphas_cumprod": other.float()}, {})
    (note,) = minip2p.load(tmp_path / "b.safetensors").notes
    assert "noise schedule in the file is not scaled_linear with 1000 betas from 0.00085 to 0.012" in note
    assert not minip2p.load(tmp_path / "b.safetensors", config=["schedule.kind=linear"]).notes


# Other names for the same tensors


def wrapped(word: str, at: str = UNET):
    return lambda name: name.replace(at, f"{at}{word}.") if at else f"{word}.{name}"


def attention(*leaves: str):
    def renamed(name: str) -> str:
        for old, new in zip(("q", "k", "v", "proj_out", "norm"), leaves):
            name = name.replace(f"mid.attn_1.{old}.", f"mid.attn_1.{new}.")
        return name

    return renamed


@pytest.mark.parametrize(
    "rename",
    [
        wrapped("_orig_mod"),
        wrapped("module", ""),
        wrapped("module._orig_mod", ""),
        wrapped("_fsdp_wrapped_module", "first_stage_model."),
        attention("to_q", "to_k", "to_v", "to_out.0"),
        attention("query", "key", "value", "proj_attn", "group_norm"),
    ],
)
@pytest.mark.parametrize("flat", [False, True])
def test_other_names_of_the_same_tensors(rename, flat, originals, tmp_path):
    """Of wrappers in training and of other libraries; the autoencoder's attention as convolutions or linear layers."""
    plain = originals()
    write_safetensors(tmp_path / "plain.safetensors", plain, {})
    expected = checkpoints.read(tmp_path / "plain.safetensors")
    tensors = {
        rename(name): t[:, :, 0, 0] if flat and ".mid.attn_1." in name and t.ndim == 4 else t
        for name, t in plain.items()
    }
    assert tensors.keys() != plain.keys()
    for name in ("a.safetensors", "a.ckpt"):
        write_safetensors(tmp_path / name, tensors, {}) if name != "a.ckpt" else torch.save(tensors, tmp_path / name)
        found = checkpoints.read(tmp_path / name)
        assert same(found.parts, expected.parts) and found.config == expected.config


def test_wrapped_names_in_our_own_files_and_in_folders(tmp_path):
    config = config_of()
    parts = parts_of(config)
    compiled = parts | {"unet": {f"_orig_mod.{name}": t for name, t in parts["unet"].items()}}
    checkpoints.write(tmp_path / "a", "minip2p", config, compiled)
    assert same(checkpoints.read(tmp_path / "a").parts, parts)
    checkpoints.write(tmp_path / "d", "diffusers", config, parts, tokenizer=BPE.clip())
    file = tmp_path / "d/unet/diffusion_pytorch_model.safetensors"
    save_file({f"module.{name}": t for name, t in load_file(file).items()}, file)
    assert same(checkpoints.read(tmp_path / "d").parts, parts)
    with pytest.raises(checkpoints.CheckpointError, match="names a tensor twice.*: a"):
        write_safetensors(tmp_path / "twice", {"a": NOTHING, "module.a": NOTHING}, {})
        checkpoints.read(tmp_path / "twice")


@pytest.mark.parametrize("how", ["ema.", "ema_model.", "model_ema.", "dict"])
def test_averages_under_dotted_names(how, originals, tmp_path):
    """As libraries keep them that do not remove dots, or in a dict beside the state_dict."""
    plain = originals()
    averages = {name: t + 1 for name, t in plain.items() if name.startswith(UNET)}
    beside = {"ema": averages} if how == "dict" else {}
    dotted = {} if how == "dict" else {how + name: t for name, t in averages.items()} | {"ema.decay": torch.ones(1)}
    torch.save({"state_dict": plain | dotted} | beside, tmp_path / "a.ckpt")
    weights, others = checkpoints.read(tmp_path / "a.ckpt"), checkpoints.read(tmp_path / "a.ckpt", ema=False)
    assert torch.equal(weights.parts["unet"]["conv_out.bias"], plain[UNET + "out.2.bias"] + 1)
    assert torch.equal(others.parts["unet"]["conv_out.bias"], plain[UNET + "out.2.bias"])


@pytest.mark.parametrize("more", [1, 5])
def test_words_added_to_the_vocabulary(more, originals, tmp_path):
    """A textual inversion that was trained in place: rows after CLIP's 49,408 tokens."""
    table = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    tensors = originals()
    tensors[table] = torch.cat([tensors[table], torch.randn(more, 32)])
    write_safetensors(tmp_path / "a.safetensors", tensors, {})
    pipe = minip2p.load(tmp_path / "a.safetensors")
    text = pipe.config.text
    assert (text.vocab_size, text.bos, text.eos, text.pad) == (49408 + more, 49406, 49407, 49407)
    assert f"has {more} tokens more than CLIP's 49408" in pipe.notes[0]
    checkpoints.write(tmp_path / "d", "diffusers", config_of(), parts_of(config_of()), tokenizer=BPE.clip())
    file = tmp_path / "d/text_encoder/model.safetensors"  # whose config.json still says 49408
    theirs = load_file(file)
    name = table.removeprefix("cond_stage_model.transformer.")
    save_file(theirs | {name: torch.cat([theirs[name], torch.randn(more, 32)])}, file)
    assert minip2p.load(tmp_path / "d").config.text.vocab_size == 49408 + more


def test_a_network_narrower_than_32_groups(tmp_path):
    config = config_of()
    config = replace(config, unet=replace(config.unet, widths=(16, 16), norm_groups=16))
    checkpoints.write(tmp_path / "a.safetensors", "original", config, parts_of(config))
    tensors = open_weights(tmp_path / "a.safetensors").tensors
    write_safetensors(tmp_path / "b.safetensors", tensors, {})
    pipe = minip2p.load(tmp_path / "b.safetensors")
    assert pipe.config.unet == config.unet and "unet is too narrow for 32 groups in a norm; 16 were" in pipe.notes[0]


# Files and folders of other kinds


LORA, WORDS = "LoRA weights, which change a checkpoint; give .*--lora", "a textual inversion, which adds words"
OTHER_TENSORS = {
    "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": LORA,
    "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight": LORA,
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight": LORA,
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora.down.weight": LORA,
    "lora_te_text_model_encoder_layers_0_mlp_fc1.hada_w1_a": LORA,
    "unet.mid_block.attentions.0.proj_in.lora_B.default.weight": LORA,
    "emb_params": WORDS,
    "<cat-toy>": WORDS,
    "control_model.zero_convs.0.0.weight": "a ControlNet",
    "controlnet_cond_embedding.conv_in.weight": "a ControlNet",
    "image_proj.proj.weight": "an adapter",
    "down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": "AnimateDiff",
    "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight": "a Stable Diffusion XL",
    "model.diffusion_model.label_emb.0.0.weight": "pooled vectors",
    "model.diffusion_model.label_emb.weight": "x4 upscaler .7 input channels",
    "model.diffusion_model.joint_blocks.0.context_block.attn.qkv.weight": "a Stable Diffusion 3",
    "double_blocks.0.img_attn.qkv.weight": "a Flux",
    "model.diffusion_model.double_blocks.0.img_attn.qkv.weight": "a Flux",
    "transformer_blocks.0.attn.add_k_proj.weight": "a diffusion transformer",
    "down_blocks.0.resnets.0.conv1.weight": "one network of a diffusers folder; give",
    "encoder.down_blocks.0.resnets.0.conv1.weight": "an autoencoder of diffusers, but it lacks encoder.conv_in.weight",
    "text_model.embeddings.token_embedding.weight": "a text encoder alone; give",
    "encoder.block.0.layer.0.SelfAttention.k.weight": "a T5 text encoder",
    "conv_first.weight": "ESRGAN",
    "input_blocks.0.0.weight": "a UNet alone.*give the whole",
    "model.layers.0.mlp.up_proj.weight": "a language model's weights without their config; give",
}


@pytest.mark.parametrize("name", OTHER_TENSORS)
def test_files_of_other_kinds_are_named(name, tmp_path):
    save_file({name: torch.zeros(2, 768)}, tmp_path / "a.safetensors")
    torch.save({name: torch.zeros(2, 768)}, tmp_path / "a.pt")
    for file in ("a.safetensors", "a.pt"):
        with pytest.raises(checkpoints.CheckpointError, match=f"{file}: .*{OTHER_TENSORS[name]}"):
            checkpoints.read(tmp_path / file)


def test_a_textual_inversion_of_the_first_kind(tmp_path):
    value = {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.zeros(2, 768)}, "name": "x"}
    torch.save(value, tmp_path / "a.pt")
    with pytest.raises(checkpoints.CheckpointError, match=WORDS):
        checkpoints.read(tmp_path / "a.pt")


OTHER_BYTES = {
    b"GGUF" + bytes(99): "a GGUF file.*fetch",
    b"\x08\x07\x12\x07pytorch" + bytes(99): "an ONNX file.*fetch",
    b"version https://git-lfs.github.com/spec/v1\n": "a git-lfs pointer.*git lfs pull",
    b"\n\n  <html>": "a web page",
    b"\xef\xbb\xbf<?xml": "a web page or XML",
    b"<!-- x --><html>": "a web page",
    b'{"error": "not found"}': "a JSON text",
    b"": "empty; fetch",
    b"\x89HDF\r\n": "HDF5",
    b"\x1f\x8b\x08": "a packed archive; unpack",
    b"%PDF-1.4": "a PDF",
    b"\x89PNG\r\n": "a picture",
    b"PK\3\4": "damaged",
    b"hello": "an unknown format",
}


@pytest.mark.parametrize("content", OTHER_BYTES, ids=lambda content: ascii(content[:12]))
@pytest.mark.parametrize("ending", ["ckpt", "safetensors"])
def test_files_of_other_formats_are_named(content, ending, tmp_path):
    (tmp_path / f"a.{ending}").write_bytes(content)
    with pytest.raises(checkpoints.CheckpointError, match=OTHER_BYTES[content]):
        checkpoints.read(tmp_path / f"a.{ending}")


def test_paths_that_are_no_files(tmp_path, monkeypatch):
    """A pipe is not waited for, a device not read, and what is missing is said."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.safetensors")
    Path("zero.ckpt").symlink_to("/dev/zero")
    Path("dangling.ckpt").symlink_to("nowhere")
    Path("folder.safetensors").mkdir()
    Path("json").mkdir()
    os.mkfifo("json/config.json")
    save_file({"a": torch.zeros(1)}, "model-00001-of-00003.safetensors")
    for path, reason in (
        ("pipe.safetensors", "is a pipe"),
        ("zero.ckpt", "is a device"),
        ("dangling.ckpt", "a link to nowhere, where there is nothing"),
        ("folder.safetensors", "a folder, but of no known layout"),
        ("json", "config.json: is a pipe"),
        ("model-00001-of-00003.safetensors", "one of 3 shards; give their folder"),
    ):
        with pytest.raises(ValueError, match=reason):
            checkpoints.read(path)
    for path, reason in (
        ("owner/name", "repository of the Hugging Face hub, fetch it first.*fetch..owner/name"),
        ("https://huggingface.co/owner/name", "a web address; download the file"),
        ("nothing.ckpt", "nothing.ckpt: no such file"),
        ("a\0b", "no such file"),
        ("json/name", "json/name: no such file or folder$"),
    ):
        with pytest.raises(FileNotFoundError, match=reason):
            checkpoints.read(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("folder") / "d"
    checkpoints.write(path, "diffusers", config_of(), parts_of(config_of()), tokenizer=BPE.clip())
    return path


def changed(folder: Path, path: Path, **members) -> Path:
    """A copy whose model_index.json has these members, too."""
    shutil.copytree(folder, path)
    index = json.loads((path / "model_index.json").read_text())
    (path / "model_index.json").write_text(json.dumps(index | members))
    return path


@pytest.mark.parametrize(
    "members, reason",
    [
        ({"_class_name": "StableDiffusionXLPipeline", "text_encoder_2": ["transformers", "X"]}, "text_encoder_2"),
        ({"_class_name": "StableDiffusion3Pipeline", "transformer": ["diffusers", "X"]}, "a transformer"),
        ({"_class_name": "FluxPipeline", "transformer": ["diffusers", "X"]}, "FluxPipeline"),
        ({"_class_name": "StableDiffusionUpscalePipeline", "low_res_scheduler": ["diffusers", "X"]}, "UpscalePipeline"),
        ({"_class_name": "StableUnCLIPPipeline", "image_normalizer": ["diffusers", "X"]}, "UnCLIPPipeline"),
        ({"_class_name": "OnnxStableDiffusionPipeline", "unet": ["diffusers", "OnnxRuntimeModel"]}, "another library"),
    ],
)
def test_pipelines_of_other_families_are_named(members, reason, folder, tmp_path):
    with pytest.raises(checkpoints.CheckpointError, match=f"x: a .*{reason}"):
        checkpoints.read(changed(folder, tmp_path / "x", **members))


def test_parts_that_are_not_needed_are_left_out(folder, tmp_path):
    more = {"safety_checker": ["stable_diffusion", "X"], "feature_extractor": ["transformers", "Y"], "custom": None}
    assert checkpoints.read(changed(folder, tmp_path / "x", **more)).parts.keys() == {"unet", "vae", "text"}


@pytest.mark.parametrize("member", ["unet", "vae", "text_encoder"])
def test_a_network_in_files_that_we_do_not_read(member, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "x")
    for file in (tmp_path / "x" / member).glob("*.safetensors"):
        file.rename(file.with_name("flax_model.msgpack"))
    with pytest.raises(checkpoints.CheckpointError, match=f"{member}: no weights.*there is flax_model.msgpack"):
        checkpoints.read(tmp_path / "x")


def test_the_state_of_a_training_script(folder, tmp_path):
    """unet/, unet_ema/ and the optimiser's state: the UNet is read, and the rest of the model is asked for."""
    run = tmp_path / "checkpoint-500"
    shutil.copytree(folder / "unet", run / "unet")
    (run / "optimizer.bin").write_bytes(b"?")
    unet = checkpoints.read(run).parts
    assert unet.keys() == {"unet"}
    shutil.copytree(folder / "unet", run / "unet_ema")
    file = run / "unet_ema" / "diffusion_pytorch_model.safetensors"
    save_file({name: t + 1 for name, t in load_file(file).items()}, file)
    assert torch.equal(checkpoints.read(run).parts["unet"]["conv_in.bias"], unet["unet"]["conv_in.bias"] + 1)
    assert same(checkpoints.read(run, ema=False).parts, unet)
    with pytest.raises(checkpoints.CheckpointError, match="has unet, and lacks the vae, text weights; put it into"):
        minip2p.load(run)


@pytest.mark.parametrize(
    "names, reason",
    [
        (["pytorch_lora_weights.safetensors"], LORA),
        (["adapter_config.json", "adapter_model.safetensors"], LORA),
        (["learned_embeds.bin"], WORDS),
        (["model.ckpt"], "give one of its files: model.ckpt"),
    ],
)
def test_folders_of_other_kinds_are_named(names, reason, tmp_path):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(checkpoints.CheckpointError, match=reason):
        checkpoints.read(tmp_path)


def test_a_hub_cache(folder, tmp_path):
    """The folder of a repository in it stands for its newest version; what a broken download left is named."""
    cache = tmp_path / "models--owner--name"
    (cache / "snapshots").mkdir(parents=True)
    with pytest.raises(checkpoints.CheckpointError, match="a hub cache without a version"):
        checkpoints.read(cache)
    for version in ("abc", "def"):
        shutil.copytree(folder, cache / "snapshots" / version)
    with pytest.raises(checkpoints.CheckpointError, match="2 versions; give one of them: .*snapshots/abc, "):
        checkpoints.read(cache)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("def")
    assert checkpoints.read(cache).path == cache / "snapshots" / "def"
    file = cache / "snapshots" / "def" / "vae" / "diffusion_pytorch_model.safetensors"
    file.unlink()
    file.symlink_to("../../../blobs/123")
    with pytest.raises(checkpoints.CheckpointError, match=f"{file}: a link to a file that is not there.*fetch"):
        checkpoints.read(cache)
    (cache / "refs" / "main").write_text("../../..")
    with pytest.raises(checkpoints.CheckpointError, match="2 versions; give one"):
        checkpoints.read(cache)
