"""What we write, read by diffusers and transformers themselves; and the names of the full-size networks."""

import json

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

from minip2p import checkpoints
from minip2p.checkpoints import configs
from minip2p.checkpoints.tables import links, pull, push, unet_rows, vae_rows
from minip2p.config import Config, TextConfig, UNetConfig, VAEConfig
from minip2p.models.text_encoder import TextEncoder
from minip2p.models.unet import UNet
from minip2p.models.vae import AutoencoderKL as OurVAE
from minip2p.text.learn import learn_bpe

from .oracles import oracle

PIPELINES = {
    "sd1": StableDiffusionPipeline,
    "sd2": StableDiffusionPipeline,
    "editor": StableDiffusionInstructPix2PixPipeline,
}
SD2 = UNetConfig(heads=None, head_size=64, linear_projection=True, text_width=1024)

ORIGINAL = {  # from the published Stable Diffusion 1.5 checkpoint
    "model.diffusion_model.time_embed.0.weight": (1280, 320),
    "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
    "model.diffusion_model.input_blocks.1.0.emb_layers.1.weight": (320, 1280),
    "model.diffusion_model.input_blocks.1.1.proj_in.weight": (320, 320, 1, 1),
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.ff.net.0.proj.weight": (2560, 320),
    "model.diffusion_model.input_blocks.3.0.op.weight": (320, 320, 3, 3),
    "model.diffusion_model.input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
    "model.diffusion_model.input_blocks.11.0.out_layers.3.weight": (1280, 1280, 3, 3),
    "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_out.0.bias": (1280,),
    "model.diffusion_model.middle_block.2.in_layers.0.weight": (1280,),
    "model.diffusion_model.output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
    "model.diffusion_model.output_blocks.5.2.conv.bias": (1280,),
    "model.diffusion_model.output_blocks.8.2.conv.weight": (640, 640, 3, 3),
    "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm3.weight": (320,),
    "model.diffusion_model.out.2.weight": (4, 320, 3, 3),
    "first_stage_model.encoder.down.1.block.0.nin_shortcut.weight": (256, 128, 1, 1),
    "first_stage_model.encoder.down.2.downsample.conv.weight": (512, 512, 3, 3),
    "first_stage_model.encoder.mid.attn_1.q.weight": (512, 512, 1, 1),
    "first_stage_model.decoder.mid.attn_1.proj_out.bias": (512,),
    "first_stage_model.decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
    "first_stage_model.decoder.up.0.block.0.nin_shortcut.weight": (128, 256, 1, 1),
    "first_stage_model.decoder.conv_out.weight": (3, 128, 3, 3),
    "first_stage_model.quant_conv.weight": (8, 8, 1, 1),
    "first_stage_model.post_quant_conv.bias": (4,),
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (49408, 768),
    "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight": (77, 768),
    "cond_stage_model.transformer.text_model.encoder.layers.11.self_attn.q_proj.bias": (768,),
    "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight": (3072, 768),
    "cond_stage_model.transformer.text_model.final_layer_norm.weight": (768,),
}
OPENCLIP = {  # from the published Stable Diffusion 2 checkpoint
    "cond_stage_model.model.token_embedding.weight": (49408, 1024),
    "cond_stage_model.model.positional_embedding": (77, 1024),
    "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight": (3072, 1024),
    "cond_stage_model.model.transformer.resblocks.22.attn.out_proj.weight": (1024, 1024),
    "cond_stage_model.model.transformer.resblocks.1.mlp.c_fc.weight": (4096, 1024),
    "cond_stage_model.model.ln_final.bias": (1024,),
}


def on_meta(network, config):
    with torch.device("meta"):
        return network(config)


def originals(config: Config) -> dict[str, torch.Tensor]:
    """All tensors of an original file of this config, on meta."""
    parts = {
        "unet": on_meta(UNet, config.unet),
        "vae": on_meta(OurVAE, config.vae),
        "text": on_meta(TextEncoder, config.text),
    }
    from minip2p.checkpoints.save import _theirs

    named = _theirs(config, "original", {part: dict(module.state_dict()) for part, module in parts.items()})
    return {name: t for each in named.values() for name, t in each.items()}


def test_names_of_stable_diffusion_1():
    names = originals(Config())
    assert {name: tuple(names[name].shape) for name in ORIGINAL} == ORIGINAL
    assert len([n for n in names if n.startswith("model.diffusion_model.")]) == 686
    assert len([n for n in names if n.startswith("first_stage_model.")]) == 248
    assert len([n for n in names if n.startswith("cond_stage_model.")]) == 196
    assert sum(t.numel() for n, t in names.items() if n.startswith("model.")) == 859_520_964


def test_names_of_stable_diffusion_2():
    text = TextConfig(width=1024, heads=16, layers=23, feed_forward=4096, activation="gelu", pad=0)
    names = originals(Config(unet=SD2, text=text))
    assert {name: tuple(names[name].shape) for name in OPENCLIP} == OPENCLIP
    assert names["model.diffusion_model.input_blocks.1.1.proj_in.weight"].shape == (320, 320)
    assert len([n for n in names if n.startswith("cond_stage_model.")]) == 23 * 12 + 4


@pytest.mark.parametrize(
    "network, ours, rows, theirs, convert",
    [
        (UNet, UNetConfig(), unet_rows, UNet2DConditionModel, convert_ldm_unet_checkpoint),
        (UNet, UNetConfig(in_channels=8), unet_rows, UNet2DConditionModel, convert_ldm_unet_checkpoint),
        (UNet, SD2, unet_rows, UNet2DConditionModel, convert_ldm_unet_checkpoint),
        (OurVAE, VAEConfig(), vae_rows, AutoencoderKL, convert_ldm_vae_checkpoint),
    ],
)
def test_full_size_names_through_diffusers_own_converter(network, ours, rows, theirs, convert):
    """Our original names, through diffusers' converter, are those of the table and of diffusers' network."""
    values = configs.unet_json(ours, 64) if network is UNet else configs.vae_json(ours, 512)
    with torch.device("meta"):
        wanted = theirs.from_config(values).state_dict()
    tensors = on_meta(network, ours).state_dict()
    direct = push(tensors, links(rows(ours), 2))
    assert {n: t.shape for n, t in direct.items()} == {n: t.shape for n, t in wanted.items()}
    prefix = "model.diffusion_model." if network is UNet else "first_stage_model."
    converted = convert(push(tensors, links(rows(ours), 1, prefix)), config=dict(values))
    assert converted.keys() == wanted.keys()
    back, _, used = pull(direct, links(rows(ours), 2))
    assert back.keys() == tensors.keys() and used == direct.keys()


@pytest.fixture(scope="module", params=PIPELINES)
def written(request, tmp_path_factory):
    """(oracle, our diffusers folder, our single files) of random weights."""
    theirs, folder = oracle(request.param), tmp_path_factory.mktemp(request.param)
    theirs.save(folder / "theirs")
    loaded = checkpoints.read(folder / "theirs")
    bpe = learn_bpe(["make it night", "what if it were night?"], vocab_size=500, max_length=20)
    for layout, name in (("diffusers", "ours"), ("original", "ours.safetensors"), ("original", "ours.ckpt")):
        checkpoints.write(folder / name, layout, loaded.config, loaded.parts, tokenizer=bpe)
    return request.param, folder, bpe


def equal(network, other):
    ours, theirs = network.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def check(pipe, name):
    theirs = oracle(name)
    assert (
        equal(pipe.unet, theirs.unet) and equal(pipe.vae, theirs.vae) and equal(pipe.text_encoder, theirs.text_encoder)
    )
    assert pipe.scheduler.config.prediction_type == theirs.scheduler.config.prediction_type
    assert pipe.scheduler.config.beta_schedule == "scaled_linear" and pipe.scheduler.config.beta_end == 0.012


def test_our_folder_in_diffusers(written):
    name, folder, bpe = written
    pipe = PIPELINES[name].from_pretrained(folder / "ours", safety_checker=None)
    check(pipe, name)
    text = "make it night"
    assert pipe.tokenizer(text, padding="max_length", max_length=20).input_ids == bpe([text])[0].tolist()


@pytest.mark.parametrize("kind", ["safetensors", "ckpt"])
def test_our_single_file_in_diffusers(written, kind):
    """`config` is a folder of configs; without it diffusers would download those of the model that it recognises."""
    name, folder, _ = written
    file = str(folder / f"ours.{kind}")
    pipe = PIPELINES[name].from_single_file(
        file, config=str(folder / "ours"), safety_checker=None, local_files_only=True
    )
    check(pipe, name)


def test_original_folders_of_both_kinds_of_text_names(tmp_path):
    """Published folders say "text_model.", today's transformers does not."""
    from safetensors.torch import load_file, save_file

    oracle("sd1").save(tmp_path / "a")
    file = tmp_path / "a" / "text_encoder" / "model.safetensors"
    one = checkpoints.read(tmp_path / "a").parts["text"]
    tensors = {n.removeprefix("text_model."): t for n, t in load_file(file).items()}
    for prefix in ("", "text_model."):
        extra = {} if not prefix else {"text_model.embeddings.position_ids": torch.arange(20)[None]}
        save_file({prefix + n: t for n, t in tensors.items()} | extra, file)
        other = checkpoints.read(tmp_path / "a").parts["text"]
        assert other.keys() == one.keys() and all(torch.equal(other[n], one[n]) for n in one)


@pytest.mark.parametrize(
    "how",
    [
        dict(variant="fp16"),
        dict(safe_serialization=False),
        dict(max_shard_size="200KB"),
        dict(max_shard_size="200KB", variant="fp16"),
    ],
    ids=str,
)
def test_forms_in_which_diffusers_writes_networks(how, tmp_path):
    """Half precision, pickles, shards with an index."""
    theirs = oracle("sd1").unet
    theirs.save_pretrained(tmp_path, **how)
    assert not (tmp_path / "diffusion_pytorch_model.safetensors").exists()
    loaded = checkpoints.read(tmp_path)
    ours = push(loaded.parts["unet"], links(unet_rows(loaded.config.unet), 2))
    assert loaded.config.unet == oracle("sd1").config.unet
    assert all(torch.equal(ours[name], t) for name, t in theirs.state_dict().items())


def test_published_tokenizer_ids_win_over_published_configs(tmp_path):
    """Stable Diffusion's text_encoder/config.json says eos 2; its tokenizer knows better."""
    oracle("sd1").save(tmp_path)
    config = json.loads((tmp_path / "text_encoder/config.json").read_text())
    (tmp_path / "text_encoder/config.json").write_text(json.dumps(config | {"eos_token_id": 2, "bos_token_id": 0}))
    bpe = learn_bpe(["make it night"], vocab_size=400)
    bpe.save(tmp_path / "tokenizer")
    text = checkpoints.read(tmp_path).config.text
    assert (text.bos, text.eos, text.pad) == (bpe.bos, bpe.eos, bpe.pad)
